"""``livethread show``: print a thread's metadata and items."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

import click

from livethread.cli.find_thread import find_thread
from livethread.cli.item_lines import item_line, last_items
from livethread.cli.output import compact, fresh_option, json_option, one_line, print_json, shown_time, utc_option
from livethread.composition import open_reader

if TYPE_CHECKING:
    from livethread.metadata import StoredThread


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
        for item in found.history.items if found.history else ():
            click.echo(item_line(item, full=full, in_utc=in_utc))


async def _read(text: str, last: int | None, *, fresh: bool) -> StoredThread:
    from livethread.metadata import StoredThreadHistory
    from livethread.types import LoadThreadHistoryParams

    async with open_reader() as reader:
        thread = await find_thread(reader, text, fresh=fresh)
        if last is None:
            history = await reader.load_history(LoadThreadHistoryParams(thread_id=thread.thread_id))
        else:
            items, _ = await last_items(reader, thread.thread_id, last)
            history = StoredThreadHistory(thread.thread_id, items, thread.position)
        return thread.model_copy(update={"history": history})


def _print_facts(thread: StoredThread, *, in_utc: bool) -> None:
    facts = thread.model_dump(mode="json", exclude={"history"})
    width = max(map(len, facts))
    for name, value in facts.items():
        known = getattr(thread, name)
        text = shown_time(known, in_utc=in_utc) if isinstance(known, datetime) else compact(value)
        if value is not None and text:
            click.echo(f"{name:{width}}  {one_line(text)}")
