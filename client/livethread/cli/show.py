"""``livethread show``: one thread, its metadata and its items."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from livethread.cli.output import console, json_option, one_line, print_json
from livethread.open_store import open_reader
from livethread.types import ReadThreadParams
from livethread_config import Settings

if TYPE_CHECKING:
    from livethread.metadata import StoredThread
    from livethread.rollout_item import RolloutItem


@click.command("show")
@click.argument("thread_id", metavar="THREAD")
@click.option("--full", is_flag=True, help="Items whole, not a line each.")
@json_option
def command(thread_id: str, full: bool, as_json: bool) -> None:
    """Show the thread whose id is THREAD."""
    thread = asyncio.run(_read(ReadThreadParams(thread_id=thread_id, include_history=True)))
    if as_json:
        print_json(thread.model_dump(mode="json"))
    else:
        _print(thread, full=full)


async def _read(params: ReadThreadParams) -> StoredThread:
    async with open_reader(Settings()) as reader:
        return await reader.read_thread(params)


def _print(thread: StoredThread, *, full: bool) -> None:
    out = console()
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in thread.model_dump(mode="json", exclude={"history"}).items():
        if value not in {None, ""} if isinstance(value, str | None) else True:
            facts.add_row(name, escape(str(value)))
    out.print(facts)
    out.print()
    for item in thread.history.items if thread.history else ():
        kind = f"{item.type}/{item.kind}" if item.kind else item.type
        text = str(item.payload) if full else one_line(_summary(item), 100)
        out.print(f"[dim]{item.ordinal!s:>6} {escape(item.timestamp or ''):24}[/] {escape(kind)}  {escape(text)}")


def _summary(item: RolloutItem) -> str:
    """Return the words of an item that say most, or its payload."""
    payload: Any = item.payload
    if not isinstance(payload, dict):
        return str(payload)
    for key in ("message", "text", "arguments", "output", "name", "cwd"):
        if isinstance(payload.get(key), str):
            return str(payload[key])
    content = payload.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str({key: value for key, value in payload.items() if key != "type"})
