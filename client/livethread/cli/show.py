"""``livethread show``: print a thread's metadata and items."""

from __future__ import annotations

import asyncio
import shutil
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from livethread.cli.find_thread import find_thread
from livethread.cli.output import compact, fresh_option, json_option, one_line, print_json, shown_time, utc_option
from livethread.composition import open_reader

if TYPE_CHECKING:
    from livethread.metadata import StoredThread
    from livethread.rollout.item import RolloutItem
    from livethread.store import ThreadReader

#: Items of one page.
PAGE: Final = 1000

#: Characters for an item's kind, and a terminal's width from which there are so many.
KIND: Final = 36
WIDE: Final = 110


@click.command("show")
@click.argument("thread", metavar="THREAD")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Show only the last N items.")
@click.option("--full", is_flag=True, help="Print whole items instead of one line each.")
@fresh_option
@utc_option
@json_option
def command(*, thread: str, last: int | None, full: bool, fresh: bool, in_utc: bool, as_json: bool) -> None:
    """Show the metadata and the items of THREAD: an id, the beginning of one, or a name."""
    found = asyncio.run(_read(thread, last, fresh=fresh))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_facts(found, in_utc=in_utc)
        click.echo()
        _print_items(found.history.items if found.history else (), full=full, in_utc=in_utc)


async def _read(text: str, last: int | None, *, fresh: bool) -> StoredThread:
    from livethread.metadata import StoredThreadHistory
    from livethread.types import LoadThreadHistoryParams

    async with open_reader() as reader:
        thread = await find_thread(reader, text, fresh=fresh)
        if last is None:
            history = await reader.load_history(LoadThreadHistoryParams(thread_id=thread.thread_id))
        else:
            items = await _last_items(reader, thread.thread_id, last)
            history = StoredThreadHistory(thread.thread_id, items, thread.position)
        return thread.model_copy(update={"history": history})


async def _last_items(reader: ThreadReader, thread_id: str, count: int) -> tuple[RolloutItem, ...]:
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
        if (cursor := page.next_cursor) is None:
            break
    return tuple(reversed(items))


def _print_facts(thread: StoredThread, *, in_utc: bool) -> None:
    facts = thread.model_dump(mode="json", exclude={"history"})
    width = max(map(len, facts))
    for name, value in facts.items():
        known = getattr(thread, name)
        text = shown_time(known, in_utc=in_utc) if isinstance(known, datetime) else compact(value)
        if value is not None and text:
            click.echo(f"{name:{width}}  {' '.join(text.split())}")


def _print_items(items: tuple[RolloutItem, ...], *, full: bool, in_utc: bool) -> None:
    from livethread.model import parse_time

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() and not full else None
    kind_width = KIND if width is None or width >= WIDE else 0
    for item in items:
        kind = f"{item.type}/{item.kind}" if item.kind else item.type
        ordinal = "" if item.ordinal is None else item.ordinal  # older lines of codex have no ordinal
        at = parse_time(item.timestamp)
        begin = f"{ordinal:>5} {shown_time(at, in_utc=in_utc) if at else '':19} {kind:{kind_width}} "
        text = compact(item.payload) if full else one_line(_summary(item), width and max(1, width - len(begin)))
        click.echo(begin + text)


def _summary(item: RolloutItem) -> str:
    """Return the most telling text of an item, else its payload."""
    payload: Any = item.payload
    if not isinstance(payload, dict):
        return compact(payload)
    for key in ("message", "text", "arguments", "output", "name", "cwd"):
        if isinstance(payload.get(key), str):
            return str(payload[key])
    content = payload.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return compact({key: value for key, value in payload.items() if key != "type"})
