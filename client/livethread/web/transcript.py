"""A page's part of a thread: its turns with their blocks, read from the store page by page, newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from livethread import types
from livethread.errors import ThreadNotFound
from livethread.metadata import StoredThread
from livethread.rollout.item import RolloutItem
from livethread.store import WatchingReader
from livethread.types import SortDirection, StoredTurn, StoredTurnItemsView, StoredTurnStatus
from livethread.web.blocks import Block, blocks_of
from livethread.web.foreign import dict_of

#: Turns of a page.
TURNS: Final = 20
#: Items of a page that has no turns.
ITEMS: Final = 500
#: Id of what a page shows of a thread without turns.
WITHOUT_TURNS: Final = "items"
#: Turns whose prompts a page lists; older ones are reached page by page.
PROMPTS: Final = 500


class QueueState(Protocol):
    """What Redis says about threads."""

    async def parked(self) -> dict[str, str] | None:
        """Return the parked threads, each with the reason; None if Redis does not answer."""
        ...

    async def is_open(self, thread_id: str) -> bool:
        """Whether a connected client has a thread open. False if Redis does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that a turn used."""

    sent: int
    cached: int
    received: int


@dataclass(frozen=True)
class ShownTurn:
    """A turn as a page shows it."""

    turn: StoredTurn

    @property
    def id(self) -> str:
        """Its name in links."""
        return self.turn.turn_id

    @cached_property
    def blocks(self) -> list[Block]:
        """What it shows."""
        return blocks_of(self.turn.items)

    @cached_property
    def tokens(self) -> Tokens | None:
        """What it used; None if no item says it."""
        return tokens_of(self.turn.items)

    @property
    def prompt(self) -> str:
        """What the user asked, on one line."""
        return next((" ".join(block.text.split()) for block in self.blocks if block.kind == "user"), "")

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        if self.turn.duration_ms is not None:
            return self.turn.duration_ms / 1000
        if self.turn.started_at is None or self.turn.completed_at is None:
            return None
        return max(0.0, (self.turn.completed_at - self.turn.started_at).total_seconds())


@dataclass(frozen=True, slots=True)
class Page:
    """Some turns of a thread, oldest first."""

    turns: list[ShownTurn]
    #: For the page with the turns before these.
    earlier: str | None
    #: Whether the thread's last turn is among them.
    is_newest: bool


@dataclass(frozen=True, slots=True)
class Transcript:
    """A thread's turns as they are now."""

    reader: WatchingReader
    queue: QueueState
    thread_id: str

    async def page(self, cursor: str | None = None) -> Page:
        """Return the newest turns, or those from *cursor* on backwards."""
        found = await self._turns(cursor, TURNS, StoredTurnItemsView.FULL)
        if not found.turns and cursor is None:
            return Page(await self._without_turns(), None, is_newest=True)
        turns = [ShownTurn(turn) for turn in found.turns[::-1]]
        return Page(turns, found.next_cursor, is_newest=cursor is None)

    async def cursor_of(self, turn_id: str) -> str | None:
        """Return the cursor of the page that shows a turn; None for the newest page.

        Raises:
            ThreadNotFound: the thread has no such turn.
        """
        cursor = None
        while True:
            found = await self._turns(cursor, TURNS, StoredTurnItemsView.NOT_LOADED)
            if any(turn.turn_id == turn_id for turn in found.turns):
                return cursor
            if found.next_cursor is None:
                raise ThreadNotFound(self.thread_id, f"it has no turn {turn_id}")
            cursor = found.next_cursor

    async def prompts(self) -> list[ShownTurn]:
        """Return the newest turns with their first and last message alone, oldest first."""
        found = await self._turns(None, PROMPTS, StoredTurnItemsView.SUMMARY)
        return [shown for turn in found.turns[::-1] if (shown := ShownTurn(turn)).prompt]

    async def newest(self, items: int) -> list[ShownTurn]:
        """Return the turns that hold the newest *items*, and the one before them, oldest first."""
        found: list[ShownTurn] = []
        async for turn in self._backwards():
            found.append(ShownTurn(turn))
            if items <= 0:
                break
            items -= len(turn.items)
        return found[::-1] or await self._without_turns()

    async def whole(self) -> list[ShownTurn]:
        """Return all turns, oldest first."""
        found = [ShownTurn(turn) async for turn in self._backwards(TURNS)]
        return found[::-1] or await self._without_turns()

    async def _backwards(self, size: int = 1) -> AsyncIterator[StoredTurn]:
        cursor = None
        while True:
            page = await self._turns(cursor, size, StoredTurnItemsView.FULL)
            for turn in page.turns:
                yield turn
            if (cursor := page.next_cursor) is None:
                return

    async def _turns(self, cursor: str | None, size: int, view: StoredTurnItemsView) -> types.TurnPage:
        params = types.ListTurnsParams(
            thread_id=self.thread_id,
            cursor=cursor,
            page_size=size,
            sort_direction=SortDirection.DESC,
            items_view=view,
            is_open=cursor is None and await self.queue.is_open(self.thread_id),
        )
        return await self.reader.list_turns(params)

    async def _without_turns(self) -> list[ShownTurn]:
        """Return the newest items as one turn: codex sees no turn in them, such as in messages without events."""
        params = types.ListItemsParams(thread_id=self.thread_id, page_size=ITEMS, sort_direction=SortDirection.DESC)
        items = (await self.reader.list_items(params)).items[::-1]
        turn = StoredTurn(
            turn_id=WITHOUT_TURNS,
            items=items,
            items_view=StoredTurnItemsView.FULL,
            status=StoredTurnStatus.COMPLETED,
        )
        return [ShownTurn(turn)] if ShownTurn(turn).blocks else []


def title(thread: StoredThread) -> str:
    """Return what to call a thread, on one line."""
    text = thread.name or thread.title or thread.preview or thread.agent_nickname or thread.thread_id
    return " ".join(text.split())


def tokens_of(items: tuple[RolloutItem, ...]) -> Tokens | None:
    """Return the tokens between the first and the last count among *items*."""
    counts = [dict_of(item.payload.get("info")) for item in items if item.kind == "token_count"]
    totals = [total for info in counts if (total := dict_of(info.get("total_token_usage")))]
    if not totals:
        return None
    first = next(dict_of(info.get("last_token_usage")) for info in counts if info.get("total_token_usage"))

    def used(name: str) -> int:
        values = totals[-1].get(name), totals[0].get(name), first.get(name)
        last, begun, own = (value if type(value) is int else 0 for value in values)
        return max(0, last - begun + own)

    return Tokens(used("input_tokens"), used("cached_input_tokens"), used("output_tokens"))
