"""``livethread shards``: which homes serve the shards; more shards; another home for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from livethread.cli.output import console, json_option, local_time, print_json

if TYPE_CHECKING:
    from livethread.queued.shards import Shards, ShardState
    from livethread_config.deployment import HomeIdentity


@click.group("shards", invoke_without_command=True)
@json_option
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """List the shards and the homes that serve them; add shards, or move one to another home."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@command.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the shards; the default command."""
    _list(as_json=as_json)


@command.command("add")
@click.argument("count", type=click.IntRange(min=1))
@json_option
def add(count: int, *, as_json: bool) -> None:
    """Add COUNT shards, which take new threads a minute from now; no thread moves.

    Start workers with a new home within that minute, and they serve the new shards. Otherwise the running workers
    without -Q do.
    """
    begin, shards = asyncio.run(_add(count))
    if as_json:
        print_json({"begin": begin, "shards": shards})
        return
    click.echo(
        f"from {local_time(begin)} on, new threads are spread over {shards} shards instead of {shards - count}"
    )
    click.echo("start workers with a new home before that, or the homes that are there serve the new shards")


@command.command("move")
@click.argument("shard", type=click.IntRange(min=0))
@json_option
def move(shard: int, *, as_json: bool) -> None:
    """Have the home LIVETHREAD_HOME of this host serve SHARD.

    First stop all workers of the home that serves it now, and bring the files of that home here.
    """
    home, former = asyncio.run(_move(shard))
    if as_json:
        print_json({"shard": shard, "home": home.id, "former": former and former.id})
        return
    click.echo(f"shard {shard} is served by the home {home}; before: {former or 'no home'}")


def _list(*, as_json: bool) -> None:
    states = asyncio.run(_states())
    if as_json:
        print_json([state.as_dict() for state in states])
    else:
        _print(states)


def _print(states: list[ShardState]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("shard", "new threads since", "home", "host", "path", "worker seen"):
        table.add_column(column)
    now = datetime.now(UTC)
    for state in states:
        since = "the beginning" if state.since is None else local_time(state.since)
        home = ("-", "-", "-") if state.home is None else (state.home.id, state.home.host, escape(state.home.path))
        seen = "never" if state.seen_at is None else f"{max(0.0, (now - state.seen_at).total_seconds()):.0f} s ago"
        table.add_row(str(state.shard), since, *home, seen)
    console().print(table)


@asynccontextmanager
async def _open() -> AsyncIterator[Shards]:
    from livethread.composition import open_shards
    from livethread_config import Settings

    async with AsyncExitStack() as stack:
        yield await open_shards(stack, Settings())


async def _states() -> list[ShardState]:
    async with _open() as shards:
        return await shards.states()


async def _add(count: int) -> tuple[datetime, int]:
    async with _open() as shards:
        begin, epochs = await shards.add(count)
        return begin, epochs.shards


async def _move(shard: int) -> tuple[HomeIdentity, HomeIdentity | None]:
    from livethread.composition import new_home
    from livethread_config import Settings

    home = new_home(Settings())
    async with _open() as shards:
        return home, await shards.move(shard, home)
