"""``livethread export``: print a whole thread, to keep it or to give it away."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from livethread.cli.find_thread import find_thread
from livethread.cli.output import compact, printable, shown_time, utc_option
from livethread.composition import open_queue_state, open_reader

if TYPE_CHECKING:
    from livethread.rollout.item import RolloutItem

FORMATS: Final = ("jsonl", "markdown", "html")


@click.command("export")
@click.argument("thread", metavar="THREAD")
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True)
@utc_option
def command(*, thread: str, form: str, in_utc: bool) -> None:
    """Print all of THREAD: its items as JSON lines, or what a person reads of it as Markdown or as one HTML file.

    The JSON lines are a rollout, which codex reads and livethread import takes. Lines that a fork shares with its source
    are copied into it.
    """
    if form == "jsonl":
        for line in _rollout(asyncio.run(_items(thread))):
            _print(line)
    else:
        _print(asyncio.run(_transcript(thread, form, in_utc=in_utc)))


def _print(text: str) -> None:
    """Print *text* as it is, except on a terminal, which would obey it."""
    click.echo(printable(text) if sys.stdout.isatty() else text)


async def _items(text: str) -> tuple[RolloutItem, ...]:
    from livethread.types import LoadThreadHistoryParams

    async with open_reader() as reader:
        thread = await find_thread(reader, text)
        return (await reader.load_history(LoadThreadHistoryParams(thread_id=thread.thread_id))).items


async def _transcript(text: str, form: str, *, in_utc: bool) -> str:
    from livethread.web.markdown import markdown
    from livethread.web.transcript import Transcript
    from livethread_config import Settings

    async with open_reader() as reader, open_queue_state(Settings()) as queue:
        thread = await find_thread(reader, text)
        transcript = Transcript(reader, queue, thread.thread_id)
        if form == "html":
            from livethread.web.share import html_file

            return await html_file(transcript)
        turns = await transcript.whole()
    return "\n\n".join(markdown(thread, turns, lambda at: shown_time(at, in_utc=in_utc)))


def _rollout(items: tuple[RolloutItem, ...]) -> Iterator[str]:
    """Yield the lines of a rollout of *items* that needs no other one."""
    meta = items[0].payload if items and items[0].type == "session_meta" else None
    is_shared = isinstance(meta, dict) and meta.get("history_base") is not None
    for number, item in enumerate(items):
        payload: Any = item.payload
        if is_shared and item is items[0]:
            payload = {key: value for key, value in payload.items() if key != "history_base"}
        ordinal = number if is_shared else item.ordinal
        record = {"timestamp": item.timestamp} | ({} if ordinal is None else {"ordinal": ordinal})
        yield compact(record | {"type": item.type, **item.extra, "payload": payload})
