"""Parameters and pages of listings."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from livethread.errors import SilentHome
from livethread.metadata import SessionSource, StoredThread
from livethread.model import Model, Result, Text
from livethread.thread_id import ThreadId
from livethread.types.freshness import Freshness
from livethread.types.paging import PageSize, SortDirection


class ThreadSortKey(StrEnum):
    """The time by which a listing is sorted."""

    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    RECENCY_AT = "recency_at"


class RelationKind(StrEnum):
    """Which descendants of a thread a listing includes."""

    DIRECT_CHILDREN = "direct_children"
    DESCENDANTS = "descendants"


class ThreadRelationFilter(Model):
    """Threads that one thread, or one of several, spawned, directly or through others."""

    kind: RelationKind
    thread_id: ThreadId
    #: Further threads whose children or descendants the listing includes.
    further_thread_ids: tuple[ThreadId, ...] = ()

    @property
    def thread_ids(self) -> tuple[ThreadId, ...]:
        """All threads whose children or descendants the listing includes."""
        return self.thread_id, *self.further_thread_ids


class ListThreadsParams(Freshness):
    """Parameters for one page of a listing: threads that pass every filter.

    A page begins after the previous page's last thread, by the sort value that this thread had then and by its id, and
    shows current data. A thread whose sort value stays the same is shown exactly once; appends never change
    ``created_at``. A thread that changes between two pages gets a later sort value and may move past the cursor: with
    newest first, the remaining pages miss it; with oldest first, they show it again.
    """

    page_size: PageSize = 50
    #: `ThreadPage.next_cursor` of the previous page, which had the same sort key, direction and filters.
    cursor: Text | None = None
    sort_key: ThreadSortKey = ThreadSortKey.CREATED_AT
    sort_direction: SortDirection = SortDirection.DESC
    #: Empty: every source.
    allowed_sources: tuple[SessionSource, ...] = ()
    #: None or empty: every provider. Like codex's, a store has no configured provider; codex's server fills it in.
    model_providers: tuple[Text, ...] | None = None
    #: None: every directory; empty: no thread. Any spelling of a path counts, and symlinks are followed on the store's host.
    cwd_filters: tuple[Text, ...] | None = None
    #: Archived threads instead of active ones.
    archived: bool = False
    #: Case-insensitive substring of name, title or preview. None or empty: every thread. A term of one or two characters
    #: is slow: it scans every thread.
    search_term: Text | None = None
    #: Also threads without a preview: nothing was asked in them yet. codex never lists them.
    include_without_preview: bool = False
    #: Threads spawned by one thread, even if that thread was deleted. None: every thread.
    relation_filter: ThreadRelationFilter | None = None
    #: Threads whose id begins like this. None: every thread.
    thread_id_prefix: Annotated[str, Field(pattern=r"^[0-9a-f-]{1,36}$")] | None = None
    #: Forks attached to one thread. None: every thread.
    attached_to_thread_id: ThreadId | None = None
    #: Whether attached forks are listed beside other threads; they are hidden by default, as in codex.
    include_attached_threads: bool = False
    #: Answer from the index alone, without checking the home for other programs' changes.
    use_state_db_only: bool = False
    #: Return a page without the threads of homes that do not answer within 5 s, instead of raising `HomesUnavailable`; see
    #: `ThreadPage.unanswered`. Not for descendants: without one home's threads, others would be missing as well.
    allow_partial: bool = False


class ThreadPage(Result):
    """One page of a listing."""

    items: tuple[StoredThread, ...]
    #: None on the last page.
    next_cursor: str | None = None
    #: The homes whose threads this page lacks; see `ListThreadsParams.allow_partial`. The same call returns the whole page
    #: once they answer. If you go on with *next_cursor*, the next page that they answer begins with the threads that were
    #: missing. If *next_cursor* is None, only they have more threads.
    unanswered: tuple[SilentHome, ...] = ()
