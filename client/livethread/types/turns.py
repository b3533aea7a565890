"""A thread's turns, in pages."""

from __future__ import annotations

from enum import StrEnum

from livethread.model import Result, Text, UtcTime
from livethread.position import START, Position
from livethread.rollout.item import RolloutItem
from livethread.thread_id import ThreadId
from livethread.types.freshness import ThreadFreshness
from livethread.types.paging import PageSize, SortDirection


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
