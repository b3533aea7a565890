"""Parameters and results of the store's operations, one frozen model each (codex's ``types.rs``)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from livethread.errors import InvalidRequest
from livethread.metadata import (
    GitInfo,
    MemoryMode,
    MetadataUpdate,
    SessionSource,
    StoredThread,
    ThreadSource,
)
from livethread.model import Model, Result, Text, UtcTime, utc_now
from livethread.rollout.item import AppendedItems, RolloutItem
from livethread.rollout.lines import encode_json
from livethread.thread_id import ThreadId, new_thread_id

PageSize = Annotated[int, Field(ge=1, le=1000)]

#: Where a task stands in its thread's order: opaque, and comparable by `position_key` only.
Position = Annotated[str, Field(pattern=r"^[0-9]+-[0-9]+$")]

#: Names an append within its thread, for good; see `AppendThreadItemsParams`. No control characters.
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]

#: Before every task.
START: Position = "0-0"


def position_key(position: Position) -> tuple[int, int]:
    """Return a key that sorts positions of one thread in their order."""
    high, _, low = position.partition("-")
    return int(high), int(low)


def _json_objects(values: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    try:
        encode_json(values)
    except InvalidRequest as error:
        raise ValueError(error.message) from None
    return values


class CreateThreadParams(Model):
    """Parameters of a new thread. Nothing is stored until its first item, or `persist_thread`."""

    thread_id: ThreadId = Field(default_factory=new_thread_id)
    #: Shared by a root thread and its sub-agents; the thread's own id by default.
    session_id: ThreadId | None = None
    forked_from_id: ThreadId | None = None
    parent_thread_id: ThreadId | None = None
    #: Working directory; None where the thread has no file system.
    cwd: Text | None = None
    model_provider: Text = "openai"
    #: codex lists ``cli`` and ``vscode`` by default, and never a custom object.
    source: SessionSource = "cli"
    thread_source: ThreadSource | None = None
    originator: Text = "livethread"
    #: Version of the agent that runs the session; livethread's own by default.
    cli_version: Text | None = None
    base_instructions: Text | None = None
    dynamic_tools: Annotated[tuple[dict[str, Any], ...], AfterValidator(_json_objects)] = ()
    agent_nickname: Text | None = None
    agent_role: Text | None = None
    agent_path: Text | None = None
    memory_mode: MemoryMode | None = None
    multi_agent_version: Text | None = None
    git: GitInfo | None = None
    created_at: UtcTime = Field(default_factory=utc_now)
    #: Whether the session does not mean to keep the thread; None: unknown. Events carry it, and nothing stores it.
    ephemeral: bool | None = None
    #: Refuse what other stores change that have opened the thread before; see `ResumeThreadParams`.
    exclusive: bool = False


class ResumeThreadParams(Model):
    """Parameters for reopening an existing thread."""

    thread_id: ThreadId
    include_archived: bool = False
    #: Fence the thread's writers in other stores, whoever has opened it so far: what they have accepted is kept, and
    #: what they change from now on is refused with `Conflict`. Whoever opens the thread later is served, and so is a change
    #: of a thread that is not open in its store. Handles in this store are one writer, with the newest opening's rights.
    exclusive: bool = False


class AppendThreadItemsParams(Model):
    """Parameters for appending items, all or none of them, in order."""

    thread_id: ThreadId
    #: At least one.
    items: Annotated[AppendedItems, Field(json_schema_extra={"minItems": 1})]
    #: Time of the items that have none of their own.
    appended_at: UtcTime = Field(default_factory=utc_now)
    #: Append only if the thread's last accepted task has this position (compare-and-append).
    expected_position: Position | None = None
    #: Append only if no append of the thread had this key before, whoever made it and however long ago: the first one
    #: counts, whatever the items of the others, which succeed and change nothing. One whose key the store knows to be
    #: taken needs no expected position any more.
    idempotency_key: IdempotencyKey | None = None
    #: Metadata derived from the items, as by `LiveThread`: as if `update_thread_metadata` were called right after the
    #: append, with nothing in between. Both are accepted or neither. If the append repeats an idempotency key, the patch
    #: has no effect. Without it an append changes history alone.
    metadata: MetadataUpdate | None = None


class PersistThreadParams(Model):
    """Parameters for creating the rollout of a thread that has no item yet."""

    thread_id: ThreadId


class FlushThreadParams(Model):
    """Parameters for waiting until all that was accepted is durable."""

    thread_id: ThreadId
    #: Seconds to wait; the store's default where None.
    timeout_s: Annotated[float, Field(gt=0)] | None = None


class ShutdownThreadParams(FlushThreadParams):
    """Parameters for flushing a thread and closing its writer."""


class DiscardThreadParams(Model):
    """Parameters for closing a writer without making its start durable."""

    thread_id: ThreadId


class LoadThreadHistoryParams(Model):
    """Parameters for reading a thread's items."""

    thread_id: ThreadId
    include_archived: bool = True


class ReadThreadParams(Model):
    """Parameters for reading a thread."""

    thread_id: ThreadId
    include_archived: bool = True
    include_history: bool = False


class ReadThreadByRolloutPathParams(Model):
    """Parameters for reading a thread by its rollout, relative to the home or absolute within it."""

    rollout_path: str
    include_archived: bool = True
    include_history: bool = False


class UpdateThreadMetadataParams(MetadataUpdate):
    """Parameters for patching a thread's metadata."""

    thread_id: ThreadId
    include_archived: bool = True


class ArchiveThreadParams(Model):
    """Parameters for archiving or unarchiving a thread."""

    thread_id: ThreadId


class DeleteThreadParams(Model):
    """Parameters for deleting a thread."""

    thread_id: ThreadId


class Receipt(Result):
    """A task is ordered and accepted: as durable as the mailbox, and certain to be applied."""

    thread_id: ThreadId
    #: Where the task stands in the thread's order.
    position: Position


class ThreadSortKey(StrEnum):
    """What a listing is sorted by."""

    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    RECENCY_AT = "recency_at"


class SortDirection(StrEnum):
    """Older or newer threads first."""

    ASC = "asc"
    DESC = "desc"


class RelationKind(StrEnum):
    """How far a relation reaches."""

    DIRECT_CHILDREN = "direct_children"
    DESCENDANTS = "descendants"


class ThreadRelationFilter(Model):
    """Threads spawned by one thread."""

    kind: RelationKind
    thread_id: ThreadId


class ListThreadsParams(Model):
    """Parameters for one page of a listing: threads that pass every filter.

    A page begins behind the last thread of the page before, by the sort value that it had then and its id, and shows
    what is stored now. So a thread whose sort value stays is shown once, however many have the same one; by
    ``created_at`` nobody's moves. One that is written on between two pages gets a later one and may move past the
    cursor: newest first it is on none of the pages that follow, oldest first it is shown again.
    """

    page_size: PageSize = 50
    #: `ThreadPage.next_cursor` of the page before, with the same sort key, direction and filters.
    cursor: Text | None = None
    sort_key: ThreadSortKey = ThreadSortKey.CREATED_AT
    sort_direction: SortDirection = SortDirection.DESC
    #: Empty: every source.
    allowed_sources: tuple[SessionSource, ...] = ()
    #: None: the store's default, which is every provider, since a store has none configured (codex's is the same; what
    #: puts the configured provider in is the server above it). Empty: every provider.
    model_providers: tuple[Text, ...] | None = None
    #: None: every directory; empty: no thread at all.
    cwd_filters: tuple[Text, ...] | None = None
    #: Archived threads instead of active ones.
    archived: bool = False
    #: Substring of name, title or preview, whatever its case. None or empty: every thread. From three characters on it
    #: is looked up; a shorter one is looked for in thread after thread.
    search_term: Text | None = None
    #: Threads spawned by one thread, which need not exist any more. None: every thread, whoever spawned it.
    relation_filter: ThreadRelationFilter | None = None
    #: Answer from the index alone, without a look for what somebody else wrote into the home.
    use_state_db_only: bool = False


class ThreadPage(Result):
    """One page of a listing."""

    items: tuple[StoredThread, ...]
    #: None: there is no further page.
    next_cursor: str | None = None


class SearchThreadsParams(Model):
    """Parameters for a full-text search over threads."""

    #: Words that one message, or the name, must hold: ``word``, ``"a phrase"``, ``prefix*``. At least one.
    search_term: Annotated[str, Field(min_length=1)]
    page_size: PageSize = 50
    cursor: Text | None = None
    #: None: the best matches first; a later page then leaves out what was said since the first.
    sort_key: ThreadSortKey | None = None
    #: Of the sort key; best matches come first in any case.
    sort_direction: SortDirection = SortDirection.DESC
    #: Empty: every source.
    allowed_sources: tuple[SessionSource, ...] = ()
    #: Archived threads instead of active ones.
    archived: bool = False


class StoredThreadSearchResult(Result):
    """A thread that a search found, and where."""

    thread: StoredThread
    snippet: str


class ThreadSearchPage(Result):
    """One page of a search."""

    items: tuple[StoredThreadSearchResult, ...]
    next_cursor: str | None = None


class StoredTurnStatus(StrEnum):
    """How a turn ended, if it did."""

    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"


class StoredTurnItemsView(StrEnum):
    """How much of each turn's items a listing returns."""

    NOT_LOADED = "not_loaded"
    SUMMARY = "summary"
    FULL = "full"


class StoredTurn(Result):
    """One turn of a thread."""

    turn_id: str
    items: tuple[RolloutItem, ...]
    items_view: StoredTurnItemsView
    status: StoredTurnStatus
    error: str | None = None
    started_at: UtcTime | None = None
    completed_at: UtcTime | None = None


class ListTurnsParams(Model):
    """Parameters for one page of a thread's turns."""

    thread_id: ThreadId
    include_archived: bool = True
    cursor: Text | None = None
    page_size: PageSize = 50
    sort_direction: SortDirection = SortDirection.ASC
    items_view: StoredTurnItemsView = StoredTurnItemsView.SUMMARY


class TurnPage(Result):
    """One page of turns."""

    turns: tuple[StoredTurn, ...]
    #: None: there is no further page now.
    next_cursor: str | None = None
    #: For the other direction: begins with this page's first turn once more, as it has become since; None where the
    #: page is empty.
    backwards_cursor: str | None = None


class ListItemsParams(Model):
    """Parameters for one page of a thread's items."""

    thread_id: ThreadId
    turn_id: Text | None = None
    include_archived: bool = True
    cursor: Text | None = None
    page_size: PageSize = 50
    sort_direction: SortDirection = SortDirection.ASC


class ItemPage(Result):
    """One page of items."""

    items: tuple[RolloutItem, ...]
    #: None: there is no further page now.
    next_cursor: str | None = None
    #: For the other direction: begins with this page's first item once more; None where the page is empty.
    backwards_cursor: str | None = None
