"""Items of a thread as lines of text, and the last ones of a long thread."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any, Final

from livethread.cli.output import compact, one_line, printable, shown_time
from livethread.rollout.user_message import message_text

if TYPE_CHECKING:
    from livethread.rollout.item import RolloutItem
    from livethread.store import ThreadReader

#: Items of one page.
PAGE: Final = 1000

#: Characters for an item's kind, and a terminal's width from which there are so many.
KIND: Final = 36
WIDE: Final = 110


async def last_items(reader: ThreadReader, thread_id: str, count: int) -> tuple[tuple[RolloutItem, ...], str | None]:
    """Return the last *count* items of a thread, and the cursor of the first of them."""
    from livethread.types import ListItemsParams, SortDirection

    items: list[RolloutItem] = []
    cursor: str | None = None
    while len(items) < count:
        page = await reader.list_items(
            ListItemsParams(
                thread_id=thread_id,
                page_size=min(count - len(items), PAGE),
                sort_direction=SortDirection.DESC,
                cursor=cursor,
            )
        )
        items += page.items
        cursor = page.end_cursor
        if page.next_cursor is None:
            break
    return tuple(reversed(items)), cursor


def item_line(item: RolloutItem, *, full: bool, in_utc: bool) -> str:
    """Return an item on one line, which fits the terminal unless it is *full*."""
    from livethread.model import parse_time

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() and not full else None
    kind_width = KIND if width is None or width >= WIDE else 0
    kind = f"{item.type}/{item.kind}" if item.kind else item.type
    ordinal = "" if item.ordinal is None else item.ordinal  # older lines of codex have no ordinal
    at = parse_time(item.timestamp)
    begin = f"{ordinal:>5} {shown_time(at, in_utc=in_utc) if at else '':19} {kind:{kind_width}} "
    return begin + (
        printable(compact(item.payload)) if full else one_line(_summary(item), width and max(1, width - len(begin)))
    )


def _summary(item: RolloutItem) -> str:
    """Return the most telling text of an item, else its payload."""
    payload: Any = item.payload
    if not isinstance(payload, dict):
        return compact(payload)
    for key in ("message", "text", "arguments", "output", "name", "cwd"):
        if isinstance(payload.get(key), str):
            return str(payload[key])
    if isinstance(content := payload.get("content"), str | list):
        return message_text(content)
    return compact({key: value for key, value in payload.items() if key != "type"})
