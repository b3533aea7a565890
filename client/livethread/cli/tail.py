"""``livethread tail``: print a thread's last items, and follow it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from livethread.cli.find_thread import find_thread
from livethread.cli.item_lines import item_line, last_items
from livethread.cli.output import json_option, utc_option
from livethread.composition import open_reader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from livethread.rollout.item import RolloutItem

#: Exit code of a program that Ctrl-C ended.
INTERRUPTED = 130


@click.command("tail")
@click.argument("thread", metavar="THREAD")
@click.option("-f", "--follow", is_flag=True, help="Print items as they come, until Ctrl-C.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Start with the last N.",
)
@click.option("--full", is_flag=True, help="Print whole items instead of one line each.")
@utc_option
@json_option
@click.pass_context
def command(
    context: click.Context, *, thread: str, follow: bool, last: int, full: bool, in_utc: bool, as_json: bool
) -> None:
    """Print the last items of THREAD: an id, the beginning of one, or a name. With --json, each is a line of JSON."""

    async def run() -> None:
        async with aclosing(_items(thread, last, follow=follow)) as items:
            async for item in items:
                click.echo(_json_line(item) if as_json else item_line(item, full=full, in_utc=in_utc))

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        context.exit(INTERRUPTED)


async def _items(text: str, last: int, *, follow: bool) -> AsyncGenerator[RolloutItem]:
    from livethread.types import WatchThreadParams

    async with open_reader() as reader:
        thread_id = (await find_thread(reader, text)).thread_id
        items, cursor = await last_items(reader, thread_id, last or 1)
        if not follow:
            for item in items if last else ():
                yield item
            return
        skipped = 0 if last else len(items)
        async with aclosing(reader.watch_thread(WatchThreadParams(thread_id=thread_id, cursor=cursor))) as watch:
            async for each in watch:
                if skipped:
                    skipped -= 1
                else:
                    yield each.item


def _json_line(item: RolloutItem) -> bytes:
    from livethread.rollout.item import as_json

    return as_json(item)
