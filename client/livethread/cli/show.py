"""``livethread show``: print a thread's metadata and items."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from livethread.cli.output import compact, console, fresh_option, json_option, one_line, print_json
from livethread.composition import open_reader
from livethread.metadata import StoredThread
from livethread.rollout.item import RolloutItem
from livethread.types import ReadThreadParams


@click.command("show")
@click.argument("thread_id", metavar="THREAD")
@click.option("--full", is_flag=True, help="Print whole items instead of one line each.")
@fresh_option
@json_option
def command(thread_id: str, full: bool, fresh: bool, as_json: bool) -> None:
    """Show the metadata and the items of THREAD."""
    thread = asyncio.run(_read(ReadThreadParams(thread_id=thread_id, include_history=True, fresh=fresh)))
    if as_json:
        print_json(thread.model_dump(mode="json"))
    else:
        _print(thread, full=full)


async def _read(params: ReadThreadParams) -> StoredThread:
    async with open_reader() as reader:
        return await reader.read_thread(params)


def _print(thread: StoredThread, *, full: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in thread.model_dump(mode="json", exclude={"history"}).items():
        if value is not None and value != "":
            facts.add_row(name, escape(compact(value)))
    out.print(facts)
    out.print()
    for item in thread.history.items if thread.history else ():
        kind = f"{item.type}/{item.kind}" if item.kind else item.type
        text = compact(item.payload) if full else one_line(_summary(item), max(20, out.width - 44))
        ordinal = "" if item.ordinal is None else item.ordinal  # older lines of codex have no ordinal
        line = f"[dim]{ordinal:>5}[/] {escape(kind):36} {escape(text)}"
        out.print(line, soft_wrap=full, no_wrap=not full, overflow="ellipsis", crop=not full)


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
