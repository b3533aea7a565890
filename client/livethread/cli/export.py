"""``livethread export``: print a whole thread, to keep it or to give it away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from livethread.cli.find_thread import find_thread
from livethread.cli.output import compact
from livethread.composition import open_reader

if TYPE_CHECKING:
    from livethread.rollout.item import RolloutItem


@click.command("export")
@click.argument("thread", metavar="THREAD")
def command(*, thread: str) -> None:
    """Print the items of THREAD as JSON lines: a rollout, which codex reads and livethread import takes.

    A fork that shares lines with its source gets copies of them.
    """
    for line in _rollout(asyncio.run(_items(thread))):
        click.echo(line)


async def _items(text: str) -> tuple[RolloutItem, ...]:
    from livethread.types import LoadThreadHistoryParams

    async with open_reader() as reader:
        thread = await find_thread(reader, text)
        return (await reader.load_history(LoadThreadHistoryParams(thread_id=thread.thread_id))).items


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
