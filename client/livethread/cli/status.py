"""``livethread status``: whether all is well, what waits and why, and what to do."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import click

from livethread.cli.output import json_option, print_json, printable
from livethread.cli.place import deployment

if TYPE_CHECKING:
    from livethread.status.collector import StatusReader
    from livethread.status.status import Status

#: How often the screen is drawn.
INTERVAL: Final = 1.0  # seconds
#: Columns of a terminal that has room for two columns of figures.
WIDE: Final = 84
#: Rows of the screen for the heading of the threads, and for lines that are wrapped.
MARGIN: Final = 5
COLOURS: Final = {"stuck": "red", "parked": "yellow", "behind": "yellow", "idle": "yellow", "well": "green"}


@click.command("status")
@click.option("--once", is_flag=True, help="Print the status once; the default without a terminal.")
@json_option
@click.pass_context
def command(context: click.Context, *, once: bool, as_json: bool) -> None:
    """Show whether all is well, what waits and why, and what to do.

    On a terminal, it updates the screen until Ctrl-C. The exit code is 0 if all is well, and 1 if not. It starts nothing,
    and needs neither a home nor a running worker.
    """
    is_live = sys.stdout.isatty() and not once and not as_json and find_spec("rich") is not None
    status = _watch() if is_live else asyncio.run(_read())
    if as_json:
        print_json(status.as_dict())
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for text, colour in lines(status, width):
            click.secho(printable(text), fg=colour, bold=bool(colour))
    context.exit(0 if status.is_well else 1)


def lines(status: Status, width: int | None, threads: int | None = None) -> Iterator[tuple[str, str | None]]:
    """Yield the lines of the screen, each with its colour.

    *width*: a terminal's; None: nothing is cut. *threads*: the maximum number of those that wait longest.
    """
    yield f"● livethread  {status.at.astimezone():%H:%M:%S}  {status.headline}", COLOURS[status.state]
    yield from ((f"  also: {finding}", None) for finding in status.findings[1:])
    yield "", None
    figures = [f"{name:22}{value:>18}" for name, value in status.figures]
    half = (len(figures) + 1) // 2 if width is not None and width >= WIDE else len(figures)
    for n in range(half):
        yield "   ".join(figures[n::half]).rstrip(), None
    if waiting := status.waiting[:threads]:
        yield "", None
        yield f"{'waits longest':36}  {'age':>8}  {'tasks':>6}  why", None
        for thread in waiting:
            row = f"{thread.thread_id:36}  {thread.age:>8}  {thread.tasks:>6}  {thread.reason}".rstrip()
            yield row if width is None or len(row) <= width else f"{row[: width - 1]}…", None
    advice = [finding.sentence.advice for finding in status.findings if finding.sentence.advice]
    if advice:
        yield "", None
    yield from ((f"do: {text}", None) for text in advice)


def _opened() -> AbstractAsyncContextManager[StatusReader]:
    from livethread.status.collector import open_status
    from livethread_config import Settings

    settings = Settings()
    return open_status(settings, deployment(settings))


async def _read() -> Status:
    async with _opened() as reader:
        return await reader.read()


def _watch() -> Status:
    """Draw the screen until Ctrl-C, and return the last status."""
    last: list[Status] = []
    try:
        asyncio.run(_draw(last))
    except KeyboardInterrupt:
        if not last:
            raise
    return last[0]


async def _draw(last: list[Status]) -> None:
    from rich.live import Live
    from rich.text import Text

    async with _opened() as reader:
        last[:] = [await reader.read()]
        with Live(screen=True, auto_refresh=False) as live:
            while True:
                screen, (width, height) = Text(), live.console.size
                room = height - MARGIN - sum(1 for _ in lines(last[0], width, 0))
                for text, colour in lines(last[0], width, max(1, room)):
                    screen.append(f"{printable(text)}\n", f"bold {colour}" if colour else "")
                live.update(screen, refresh=True)
                await asyncio.sleep(INTERVAL)
                last[:] = [await reader.read()]
