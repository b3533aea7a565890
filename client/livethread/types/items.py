"""A thread's items: in pages, and as they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from livethread.errors import InvalidRequest
from livethread.model import Model, Result, Text
from livethread.position import START, Position
from livethread.rollout.item import RolloutItem
from livethread.thread_id import ThreadId
from livethread.types.freshness import ThreadFreshness
from livethread.types.paging import PageSize, SortDirection

#: The ordinal of an item, or the position of a task.
After = Annotated[int, Field(strict=True, ge=0)] | Position


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


class ItemPage(Result):
    """One page of items."""

    items: tuple[RolloutItem, ...]
    #: None if there is no further page yet.
    next_cursor: str | None = None
    #: Begins after this page's last item, even if there is no further page yet.
    end_cursor: str
    #: For the other direction: begins with this page's first item again. None if the page is empty.
    backwards_cursor: str | None = None
    #: See `StoredThread.position`.
    position: Position = START


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
