"""New items of a thread, as events that put elements into an open page (server-sent events)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Final

from livethread import types
from livethread.errors import Conflict, InvalidRequest, ThreadNotFound, Unavailable
from livethread.rollout.item import RolloutItem
from livethread.store import ThreadReader
from livethread.types import SortDirection
from livethread.web.render import render_turn
from livethread.web.transcript import WITHOUT_TURNS, ShownTurn, Transcript

#: Between two looks whether the server stops, and after a read that failed.
INTERVAL: Final = 0.5  # seconds
#: Looks without new items after which a comment keeps the connection open.
QUIET: Final = 30
#: Number of turns whose items on the page a stream remembers; it sends any other turn whole.
KEPT: Final = 2

RELOAD: Final = "event: reload\ndata:\n\n"
GONE: Final = "event: gone\ndata:\n\n"


async def end_of(reader: ThreadReader, thread_id: str) -> str:
    """Return the cursor after the thread's last item."""
    newest = types.ListItemsParams(thread_id=thread_id, page_size=1, sort_direction=SortDirection.DESC)
    begin = (await reader.list_items(newest)).backwards_cursor
    return (await reader.list_items(types.ListItemsParams(thread_id=thread_id, page_size=1, cursor=begin))).end_cursor


async def _batches(transcript: Transcript, cursor: str) -> AsyncGenerator[tuple[list[RolloutItem], str]]:
    """Yield the items after *cursor* as they come, those of one read together, with the cursor after them.

    Raises:
        InvalidRequest: one read does not reach the end.
    """
    while True:
        items: list[RolloutItem] = []
        params = types.WatchThreadParams(thread_id=transcript.thread_id, cursor=cursor)
        try:
            async with aclosing(transcript.reader.watch_thread(params)) as watch:
                async for each in watch:
                    items.append(each.item)
                    if each.cursor is not None and each.position is None:
                        raise InvalidRequest("this place is far from the end of its thread; reload the page")
                    if each.cursor is not None:
                        cursor = each.cursor
                        yield items, cursor
                        items = []
        except Unavailable:  # the page waits for a worker, or for Redis
            await asyncio.sleep(INTERVAL)


async def changes_after(
    transcript: Transcript, cursor: str, is_over: Callable[[], bool]
) -> AsyncGenerator[tuple[list[RolloutItem], list[ShownTurn], str]]:
    """Yield the items after *cursor* as they come, with their turns and the cursor after them; no items now and then.

    It ends once it *is_over*.
    """
    items: list[RolloutItem] = []
    quiet = 0
    async with aclosing(_batches(transcript, cursor)) as batches:
        batch = asyncio.ensure_future(anext(batches))
        try:
            while not is_over():
                quiet += 1
                await asyncio.wait([batch], timeout=INTERVAL)
                if batch.done():
                    new, cursor = batch.result()
                    items += new
                    batch = asyncio.ensure_future(anext(batches))
                # Without new items, too: the last turn is interrupted when its agent is gone.
                if items or quiet % QUIET == 0:
                    with suppress(Unavailable):
                        turns = await transcript.newest(len(items))
                        yield items, turns, cursor
                        items, quiet = [], 0
        finally:
            batch.cancel()
            await asyncio.wait([batch])


async def follow(
    transcript: Transcript, cursor: str, is_over: Callable[[], bool] = lambda: False
) -> AsyncGenerator[str]:
    """Yield the events that bring a page up to date which shows everything before *cursor*, until it *is_over*.

    Each is a list of (id of an element, id of its parent, HTML); its own id is the cursor from which to go on.
    """
    yield "retry: 1000\n\n"
    shown: dict[str, ShownTurn] = {}
    try:
        async with aclosing(changes_after(transcript, cursor, is_over)) as changes:
            async for items, turns, reached in changes:
                if any(item.kind == "thread_rolled_back" for item in items):
                    yield RELOAD
                    return
                elements = [element for turn in turns for element in _elements(transcript, shown.get(turn.id), turn)]
                shown |= {turn.id: turn for turn in turns}
                shown = dict([*shown.items()][-KEPT:])
                yield f"id: {reached}\ndata: {json.dumps(elements)}\n\n" if elements else ": nothing new\n\n"
    except ThreadNotFound:
        yield GONE
    except (InvalidRequest, Conflict):  # items were taken back, or the page missed many
        yield RELOAD


def _elements(transcript: Transcript, old: ShownTurn | None, new: ShownTurn) -> Iterator[tuple[str, str, str]]:
    """Yield the parts of a turn that differ from what the page has."""
    thread_id = transcript.thread_id
    if new.prompt and (old is None or old.prompt != new.prompt):
        yield f"p-{new.id}", "prompts", render_turn(thread_id, new, "prompt")
    if old is None or new.id == WITHOUT_TURNS:
        yield f"t-{new.id}", "turns", render_turn(thread_id, new)
        return
    if _head(old) != _head(new):
        yield f"head-{new.id}", f"t-{new.id}", render_turn(thread_id, new, "head")
    known = {block.name: block for block in old.blocks}
    for block in new.blocks:
        if known.get(block.name) != block:
            yield f"b-{new.id}-{block.name}", f"blocks-{new.id}", render_turn(thread_id, new, "block", block)


def _head(turn: ShownTurn) -> tuple[object, ...]:
    return turn.turn.status, turn.turn.error, turn.seconds, turn.tokens
