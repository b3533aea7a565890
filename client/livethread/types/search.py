"""Parameters and pages of searches: for threads, and within one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from livethread.errors import SilentHome
from livethread.metadata import SessionSource, StoredThread
from livethread.model import Result, Text
from livethread.position import START, Position
from livethread.thread_id import ThreadId
from livethread.types.freshness import Freshness, ThreadFreshness
from livethread.types.listing import ThreadSortKey
from livethread.types.paging import PageSize, SortDirection


class SearchMatch(StrEnum):
    """How a search reads its term."""

    #: Words, ranked: ``word``, ``"a phrase"``, ``prefix*``; without case and diacritics. All must be in one text.
    WORDS = "words"
    #: The term as it stands, anywhere in a text, in upper or lower case: ``foo_bar``, ``->``. Not ranked. As in codex.
    LITERAL = "literal"


class SearchThreadsParams(Freshness):
    """Parameters for a full-text search over threads."""

    #: What one message, or the name, must contain; see *match*. Not blank, and at least one word for `SearchMatch.WORDS`.
    search_term: Annotated[str, Field(min_length=1)]
    match: SearchMatch = SearchMatch.WORDS
    page_size: PageSize = 50
    cursor: Text | None = None
    #: None: best matches first, and later pages then ignore messages newer than the first page; but threads that were
    #: updated last come first if the match is literal.
    sort_key: ThreadSortKey | None = None
    #: Direction of the sort key. Without a sort key it is ignored.
    sort_direction: SortDirection = SortDirection.DESC
    #: Empty: every source.
    allowed_sources: tuple[SessionSource, ...] = ()
    #: Archived threads instead of active ones.
    archived: bool = False
    #: Whether attached forks are searched beside other threads; they are hidden by default, as in codex.
    include_attached_threads: bool = False
    #: Return a page without the threads of homes that do not answer; see `ListThreadsParams.allow_partial`.
    allow_partial: bool = False


class StoredThreadSearchResult(Result):
    """A thread that a search found, with an excerpt of the match."""

    thread: StoredThread
    snippet: str


class ThreadSearchPage(Result):
    """One page of a search."""

    items: tuple[StoredThreadSearchResult, ...]
    next_cursor: str | None = None
    #: The homes whose threads this page lacks; see `ThreadPage.unanswered`.
    unanswered: tuple[SilentHome, ...] = ()


class SearchOccurrencesParams(ThreadFreshness):
    """Parameters for one page of the places where a thread's messages hold a term."""

    thread_id: ThreadId
    #: Searched literally; see `SearchMatch.LITERAL`. Not blank.
    search_term: Annotated[str, Field(min_length=1)]
    include_archived: bool = True
    cursor: Text | None = None
    page_size: PageSize = 50


class ThreadOccurrence(Result):
    """A place in a message that holds a term."""

    turn_id: str
    #: Number of the message's line; None in older rollouts of codex.
    ordinal: int | None
    #: ``user`` or ``assistant``.
    role: str
    #: The message around the occurrence, which is ``snippet[start:end]``.
    snippet: str
    start: int
    end: int
    #: For `ListTurnsParams`: begins with the occurrence's turn.
    turn_cursor: str


class OccurrencePage(Result):
    """One page of occurrences."""

    items: tuple[ThreadOccurrence, ...]
    #: None on the last page.
    next_cursor: str | None = None
    #: See `StoredThread.position`.
    position: Position = START
