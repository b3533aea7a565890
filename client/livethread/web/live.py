"""New items of a thread, as events that put elements into an open page (server-sent events)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Final

from livethread import types
from livethread.errors import InvalidRequest, ThreadNotFound, Unavailable
from livethread.rollout.item import RolloutItem
from livethread.store import ThreadReader
from livethread.types import SortDirection
from livethread.web.render import render_turn
from livethread.web.transcript import WITHOUT_TURNS, ShownTurn, Transcript

#: Between two looks for new items.
INTERVAL: Final = 0.5  # seconds
#: Looks without new items after which a comment keeps the connection open.
QUIET: Final = 30
#: Items of one read.
PAGE: Final = 200
#: New items that a stream sends at once; if there are more, the page reloads.
MISSED: Final = 200
#: Number of turns whose items on the page a stream remembers; it sends any other turn whole.
KEPT: Final = 2

_PLACE: Final = re.compile(r"(.*)~([0-9]{1,3})", re.DOTALL)

RELOAD: Final = "event: reload\ndata:\n\n"
GONE: Final = "event: gone\ndata:\n\n"


async def end_of(reader: ThreadReader, thread_id: str) -> str:
    """Return the place after the thread's last item; see `items_after`."""
    params = types.ListItemsParams(thread_id=thread_id, page_size=1, sort_direction=SortDirection.DESC)
    page = await reader.list_items(params)
    return f"{page.backwards_cursor or ''}~{len(page.items)}"


async def items_after(reader: ThreadReader, thread_id: str, place: str) -> tuple[list[RolloutItem], str]:
    """Return the items after a place, and the place after them.

    A place is a cursor and how many items of its page come before the place.

    Raises:
        InvalidRequest: it is not a place, or more than `MISSED` items come after it.
    """
    found: list[RolloutItem] = []
    while True:
        cursor, seen = parse_place(place)
        page = await reader.list_items(
            types.ListItemsParams(thread_id=thread_id, cursor=cursor or None, page_size=PAGE)
        )
        found += page.items[seen:]
        if len(found) > MISSED:
            raise InvalidRequest("this place is far from the end of its thread; reload the page")
        if page.next_cursor is None:
            return found, f"{cursor}~{len(page.items)}"
        place = f"{page.next_cursor}~0"


def parse_place(place: str) -> tuple[str, int]:
    """Return the cursor and the number in a place.

    Raises:
        InvalidRequest: it is not a place.
    """
    found = _PLACE.fullmatch(place)
    if found is None or int(found[2]) > PAGE:
        raise InvalidRequest("this is not a place in a thread; reload the page")
    return found[1], int(found[2])


async def changes_after(
    transcript: Transcript, place: str, is_over: Callable[[], bool]
) -> AsyncGenerator[tuple[list[RolloutItem], list[ShownTurn], str]]:
    """Yield the items after a place as they come, with their turns and the place after them; no items now and then.

    It ends once it *is_over*.
    """
    quiet = 0
    while not is_over():
        items: list[RolloutItem] = []
        turns: list[ShownTurn] = []
        quiet += 1
        try:
            items, reached = await items_after(transcript.reader, transcript.thread_id, place)
            # Without new items, too: the last turn is interrupted when its agent is gone.
            if items or quiet % QUIET == 0:
                turns = await transcript.newest(len(items))
            place = reached
        except Unavailable:  # the page waits for a worker, or for Redis
            items = []
        if items or quiet % QUIET == 0:
            yield items, turns, place
        if items:
            quiet = 0
        else:
            await asyncio.sleep(INTERVAL)


async def follow(
    transcript: Transcript, place: str, is_over: Callable[[], bool] = lambda: False
) -> AsyncGenerator[str]:
    """Yield the events that bring a page up to date which shows everything before *place*, until it *is_over*.

    Each is a list of (id of an element, id of its parent, HTML); its own id is the place from which to go on.
    """
    yield "retry: 1000\n\n"
    shown: dict[str, ShownTurn] = {}
    try:
        async with aclosing(changes_after(transcript, place, is_over)) as changes:
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
    except InvalidRequest:  # a repair moved the lines, or the page missed many
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
