"""Parameters and results of the store's operations, each a frozen model (codex's ``types.rs``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from livethread.errors import InvalidRequest, SilentHome, ThreadStoreError
from livethread.metadata import (
    DEFAULT_PROVIDER,
    PAGINATED,
    GitInfo,
    MemoryMode,
    MetadataUpdate,
    SessionSource,
    StoredThread,
    ThreadSource,
)
from livethread.model import Model, Result, Text, UtcTime, utc_now
from livethread.position import START, Position
from livethread.rollout.item import AppendedItems, RolloutItem
from livethread.rollout.lines import encode_json
from livethread.rollout.session_source import spawn_fields
from livethread.thread_id import ThreadId, new_thread_id

#: The ordinal of an item, or the position of a task.
After = Annotated[int, Field(strict=True, ge=0)] | Position

PageSize = Annotated[int, Field(ge=1, le=1000)]

#: Threads of one call. A thread that is named twice counts once.
ThreadIds = Annotated[tuple[ThreadId, ...], Field(min_length=1, max_length=1000)]

#: Names an append for the life of its thread; see `AppendThreadItemsParams`. No control characters.
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]

#: The fields of parameters that say how fresh a read must be, with their defaults.
FRESHNESS: Final[dict[str, Any]] = {"fresh": False, "at_least": None}

_ErrorAsText = Annotated[
    ThreadStoreError, PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"}, mode="serialization")
]


def _json_objects(values: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    try:
        encode_json(values)
    except InvalidRequest as error:
        raise ValueError(error.message) from None
    return values


class HistoryPosition(Model):
    """A place in a rollout: a fork shares the lines before it, and copies none."""

    #: Names the rollout: the id of the thread that it began, or its own id if a revert began it.
    thread_id: ThreadId
    #: Number of the last shared line, plus one.
    end_ordinal_exclusive: Annotated[int, Field(ge=0)]
    #: Where the last shared line ends.
    end_byte_offset: Annotated[int, Field(ge=0)]


class CreateThreadParams(Model):
    """Parameters of a new thread. Nothing is stored before its first item or `persist_thread`."""

    thread_id: ThreadId = Field(default_factory=new_thread_id)
    #: Shared by a root thread and its sub-agents; the thread's own id by default.
    session_id: ThreadId | None = None
    forked_from_id: ThreadId | None = None
    #: Whether the thread is attached to the one from which it was forked: hidden from listings, and that one cannot be
    #: deleted before it.
    attached_thread: bool = False
    #: The place up to which a paginated fork shares its source's history, as `prepare_fork` returned it.
    history_base: HistoryPosition | None = None
    parent_thread_id: ThreadId | None = None
    #: Working directory; None if the thread has no file system.
    cwd: Text | None = None
    model_provider: Text = DEFAULT_PROVIDER
    #: codex lists ``cli`` and ``vscode`` by default, and never a custom object. A spawned sub-agent's source names the
    #: parent, and the nickname, role and path unless they are given.
    source: SessionSource = "cli"
    thread_source: ThreadSource | None = None
    originator: Text = "livethread"
    #: Version of the agent that runs the session; livethread's version by default.
    cli_version: Text | None = None
    base_instructions: Text | None = None
    dynamic_tools: Annotated[tuple[dict[str, Any], ...], AfterValidator(_json_objects)] = ()
    agent_nickname: Text | None = None
    agent_role: Text | None = None
    agent_path: Text | None = None
    memory_mode: MemoryMode | None = None
    multi_agent_version: Text | None = None
    #: ``paginated`` for a thread whose turns are ``item_completed`` events, as newer codex writes them; None: legacy.
    history_mode: Text | None = None
    git: GitInfo | None = None
    created_at: UtcTime = Field(default_factory=utc_now)
    #: Whether the session does not intend to keep the thread; None if unknown. Events carry it; it is not stored.
    ephemeral: bool | None = None
    #: Fence the thread's writers in other stores; see `ResumeThreadParams`.
    exclusive: bool = False

    @model_validator(mode="before")
    @classmethod
    def _take_from_source(cls, values: Any) -> Any:
        spawn = spawn_fields(values.get("source")) if isinstance(values, dict) else {}
        if not spawn:
            return values
        given = {name: value for name, value in values.items() if value is not None and name != "parent_thread_id"}
        return {**values, **spawn, **given}

    @model_validator(mode="after")
    def _is_paginated_if_it_shares(self) -> CreateThreadParams:
        if self.history_base and (self.history_mode != PAGINATED or self.forked_from_id is None):
            raise InvalidRequest("a history_base needs a forked_from_id, and the history_mode 'paginated'")
        return self


class ResumeThreadParams(Model):
    """Parameters for reopening an existing thread."""

    thread_id: ThreadId
    include_archived: bool = False
    #: Fence the thread's current writers in other stores: their accepted tasks are kept, and their later changes are
    #: refused with `Conflict`. Later openings are not fenced, nor are changes through a store in which the thread is not
    #: open. All handles in this store share one writer, which has the epoch of the newest opening.
    exclusive: bool = False


class AppendThreadItemsParams(Model):
    """Parameters for appending items in order, all or none."""

    thread_id: ThreadId
    #: At least one.
    items: Annotated[AppendedItems, Field(json_schema_extra={"minItems": 1})]
    #: Time of items that have none.
    appended_at: UtcTime = Field(default_factory=utc_now)
    #: Append only if the thread's last accepted task has this position (compare-and-append).
    expected_position: Position | None = None
    #: The thread's first append with this idempotency key counts, however long ago and through any store. Later ones
    #: succeed and change nothing, whatever their items. If the store knows that the idempotency key is taken, it ignores
    #: the expected position.
    idempotency_key: IdempotencyKey | None = None
    #: Metadata derived from the items, as by `LiveThread`. It takes effect as if `update_thread_metadata` were called right
    #: after the append, with nothing in between. Both are accepted or neither. If the append repeats an idempotency key,
    #: the patch has no effect. Without metadata, an append changes only the history and ``updated_at``.
    metadata: MetadataUpdate | None = None


class PersistThreadParams(Model):
    """Parameters for creating the rollout of a thread that has no item yet."""

    thread_id: ThreadId


class FlushThreadParams(Model):
    """Parameters for waiting until everything accepted is durable."""

    thread_id: ThreadId
    #: Seconds to wait; None: the store's default.
    timeout_s: Annotated[float, Field(gt=0)] | None = None


class ShutdownThreadParams(FlushThreadParams):
    """Parameters for flushing a thread and closing its writer."""


class DiscardThreadParams(Model):
    """Parameters for closing a writer without creating the thread's rollout."""

    thread_id: ThreadId


class Freshness(Model):
    """How fresh a read must be. By default it shows what is applied, and what this store had accepted for its thread."""

    #: Whether it shows everything that was accepted before the call, from any store.
    fresh: bool = False

    def without_demand(self) -> Self:
        """Return the same parameters with the default freshness."""
        demands = self.model_fields_set & FRESHNESS.keys()
        return self.model_copy(update={name: FRESHNESS[name] for name in demands}) if demands else self


class ThreadFreshness(Freshness):
    """How fresh a read of one thread must be."""

    #: Show everything up to this position, as of a `Receipt`; later tasks may show, too.
    at_least: Position | None = None

    @property
    def is_demanding(self) -> bool:
        """Whether it demands more than the default."""
        return self.fresh or self.at_least is not None


class LoadThreadHistoryParams(ThreadFreshness):
    """Parameters for reading a thread's items."""

    thread_id: ThreadId
    include_archived: bool = True


class ReadThreadParams(ThreadFreshness):
    """Parameters for reading a thread."""

    thread_id: ThreadId
    include_archived: bool = True
    include_history: bool = False
    #: Raise `Conflict` if other threads need the thread, so that it cannot be deleted.
    is_deletable: bool = False


class PrepareForkParams(Model):
    """Parameters for finding the place up to which a fork shares a thread's history: by default, its end."""

    thread_id: ThreadId
    #: The first turn that the fork does not have.
    before_turn_id: Annotated[Text, Field(min_length=1)] | None = None
    #: The last turn that the fork has. It must have ended.
    through_turn_id: Annotated[Text, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _names_one_turn(self) -> PrepareForkParams:
        if self.before_turn_id is not None and self.through_turn_id is not None:
            raise InvalidRequest("before_turn_id and through_turn_id exclude each other")
        return self


class PreparedFork(Result):
    """What a fork begins with."""

    #: The source.
    thread_id: ThreadId
    #: A new id for the fork. It is in a shard of the source's home.
    fork_id: ThreadId = Field(default_factory=new_thread_id)
    #: Whether a fork can share the source's lines: it is paginated. Otherwise they are copied.
    is_shared: bool
    #: None if the lines are copied, or if the fork inherits none.
    history_base: HistoryPosition | None = None


class ReadThreadByRolloutPathParams(ThreadFreshness):
    """Parameters for reading a thread by its rollout's path, relative to the home or absolute within it."""

    rollout_path: str
    include_archived: bool = True
    include_history: bool = False


class FindThreadByNameParams(Freshness):
    """Parameters for finding a thread by its name."""

    #: The whole name, as it was given.
    name: Annotated[str, Field(min_length=1)]
    include_archived: bool = False
    #: Threads to pass over.
    except_thread_ids: tuple[ThreadId, ...] = ()


class UpdateThreadMetadataParams(MetadataUpdate):
    """Parameters for patching a thread's metadata."""

    thread_id: ThreadId
    include_archived: bool = True


class ArchiveThreadParams(Model):
    """Parameters for archiving or unarchiving a thread."""

    thread_id: ThreadId


class ArchiveThreadsParams(Model):
    """Parameters for archiving several threads."""

    thread_ids: ThreadIds


class DeleteThreadParams(Model):
    """Parameters for deleting a thread."""

    thread_id: ThreadId


class DeleteThreadsParams(Model):
    """Parameters for deleting several threads."""

    thread_ids: ThreadIds


class Receipt(Result):
    """A task is ordered and accepted: as durable as the mailbox, and certain to be applied."""

    thread_id: ThreadId
    #: The task's place in the thread's order.
    position: Position
    #: Items of a `LiveThread`'s append that the persistence policy dropped.
    dropped: Annotated[int, Field(ge=0)] = 0


class ThreadResult(Result):
    """What became of one thread of a call that changes several."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    thread_id: ThreadId
    #: None if it failed, and if a thread to delete was gone already.
    receipt: Receipt | None = None
    #: Why it failed. In JSON, its message.
    error: _ErrorAsText | None = None


class ThreadResults(Result):
    """What became of each thread of a call that changes several, in the order in which the call named them."""

    results: tuple[ThreadResult, ...]

    @property
    def done(self) -> dict[str, Receipt | None]:
        """The receipt of each thread that was changed; None if a thread to delete was gone already."""
        return {result.thread_id: result.receipt for result in self.results if result.error is None}

    @property
    def failed(self) -> dict[str, ThreadStoreError]:
        """Why each of the others was not changed."""
        return {result.thread_id: result.error for result in self.results if result.error is not None}


class ThreadSortKey(StrEnum):
    """The time by which a listing is sorted."""

    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    RECENCY_AT = "recency_at"


class SortDirection(StrEnum):
    """Older or newer threads first."""

    ASC = "asc"
    DESC = "desc"


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
    #: Return a page without the threads of homes that do not answer, instead of raising `HomesUnavailable`; see
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


class StoredTurnError(Result):
    """Why a turn failed."""

    message: str
    #: What kind of error it was, as the agent named it, such as ``usage_limit_exceeded``.
    code: str | None = None
    additional_details: str | None = None


class StoredTurn(Result):
    """One turn of a thread."""

    turn_id: str
    items: tuple[RolloutItem, ...]
    items_view: StoredTurnItemsView
    status: StoredTurnStatus
    error: StoredTurnError | None = None
    #: As the agent measured it, to the second; otherwise the time of the turn's first line.
    started_at: UtcTime | None = None
    #: Likewise, otherwise the time of the line that ended the turn, or of its last one. None while it is in progress.
    completed_at: UtcTime | None = None
    #: As the agent measured it.
    duration_ms: int | None = None


class ListTurnsParams(ThreadFreshness):
    """Parameters for one page of a thread's turns."""

    thread_id: ThreadId
    include_archived: bool = True
    cursor: Text | None = None
    page_size: PageSize = 50
    sort_direction: SortDirection = SortDirection.ASC
    items_view: StoredTurnItemsView = StoredTurnItemsView.SUMMARY
    #: Whether a process is known to have the thread open, so that its last turn may go on. The store asks by itself, too.
    is_open: bool = False


class TurnPage(Result):
    """One page of turns."""

    turns: tuple[StoredTurn, ...]
    #: None if there is no further page yet.
    next_cursor: str | None = None
    #: For the other direction: begins with this page's first turn again, in its latest state. None if the page is empty.
    backwards_cursor: str | None = None
    #: See `StoredThread.position`.
    position: Position = START


class ListItemsParams(ThreadFreshness):
    """Parameters for one page of a thread's items."""

    thread_id: ThreadId
    turn_id: Text | None = None
    include_archived: bool = True
    cursor: Text | None = None
    #: Instead of a cursor: begin after the item with this ordinal, or after the items of the tasks up to this position.
    after: After | None = None
    page_size: PageSize = 50
    sort_direction: SortDirection = SortDirection.ASC

    @model_validator(mode="after")
    def _begins_at_one_place(self) -> ListItemsParams:
        is_alone = self.cursor is None and self.turn_id is None and self.sort_direction is SortDirection.ASC
        if self.after is not None and not is_alone:
            raise InvalidRequest("after excludes a cursor, a turn and the descending direction")
        return self


class WatchThreadParams(Model):
    """Parameters for following a thread: by default from its first item on."""

    thread_id: ThreadId
    #: Begin after the item with this ordinal, or after the items of the tasks up to this position.
    after: After | None = None
    #: Instead, begin at this place: `ThreadItem.cursor`, or a cursor of an `ItemPage`.
    cursor: Text | None = None

    @model_validator(mode="after")
    def _begins_at_one_place(self) -> WatchThreadParams:
        if self.after is not None and self.cursor is not None:
            raise InvalidRequest("after and cursor exclude each other")
        return self


@dataclass(frozen=True, slots=True)
class ThreadItem:
    """An item of a thread that is followed."""

    item: RolloutItem
    #: Begins after this item. None if the next item comes at once.
    cursor: str | None = None
    #: With this item, everything up to this position has come. None if it is not known, or the next item comes at once.
    position: Position | None = None

    @property
    def ordinal(self) -> int | None:
        """The number of the item's line; see `RolloutItem.ordinal`."""
        return self.item.ordinal


class ItemPage(Result):
    """One page of items."""

    items: tuple[RolloutItem, ...]
    #: None if there is no further page yet.
    next_cursor: str | None = None
    #: Begins after this page's last item, also if there is no further page yet.
    end_cursor: str
    #: For the other direction: begins with this page's first item again. None if the page is empty.
    backwards_cursor: str | None = None
    #: See `StoredThread.position`.
    position: Position = START
