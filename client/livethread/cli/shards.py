"""``livethread shards``: which homes serve the shards; more shards; another home for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from livethread.cli.output import Column, json_option, print_json, print_table, shown_time, utc_option
from livethread.cli.place import has_deployment
from livethread.errors import InvalidRequest

if TYPE_CHECKING:
    from livethread.queued.shards import Shards, ShardState
    from livethread_config.deployment import HomeIdentity

COLUMNS: Final = (
    Column("shard"),
    Column("new threads since"),
    Column("home"),
    Column("host", is_cut=True),
    Column("path", is_cut=True),
    Column("worker seen"),
)


@click.group("shards", invoke_without_command=True)
@utc_option
@json_option
@click.pass_context
def command(context: click.Context, *, in_utc: bool, as_json: bool) -> None:
    """List the shards and the homes that serve them; add shards, or move one to another home."""
    if context.invoked_subcommand is None:
        _list(in_utc=in_utc, as_json=as_json)


@command.command("list")
@utc_option
@json_option
def list_(*, in_utc: bool, as_json: bool) -> None:
    """List the shards; the default command."""
    _list(in_utc=in_utc, as_json=as_json)


@command.command("add")
@click.argument("count", type=click.IntRange(min=1))
@utc_option
@json_option
def add(count: int, *, in_utc: bool, as_json: bool) -> None:
    """Add COUNT shards, which take new threads a minute from now; no thread moves.

    Start workers with a new home within that minute, and they serve the new shards. Otherwise the running workers
    without -Q do.
    """
    begin, shards = asyncio.run(_add(count))
    if as_json:
        print_json({"begin": begin, "shards": shards})
        return
    at = shown_time(begin, in_utc=in_utc)
    click.echo(f"from {at} on, new threads are spread over {shards} shards instead of {shards - count}")
    click.echo("start workers with a new home before that, or the homes that are there serve the new shards")


@command.command("move")
@click.argument("shard", type=click.IntRange(min=0))
@click.option(
    "--empty", "may_be_empty", is_flag=True, help="Move the shard even if this home stores none of its threads."
)
@json_option
def move(shard: int, *, may_be_empty: bool, as_json: bool) -> None:
    """Have the home LIVETHREAD_HOME of this host serve SHARD.

    First stop all workers of the home that serves it now, and bring the files of that home here. Start workers here when
    the command has ended: it waits until all clients know the new home.
    """
    home, former = asyncio.run(_move(shard, may_be_empty=may_be_empty))
    if as_json:
        print_json({"shard": shard, "home": home.id, "former": former and former.id})
        return
    click.echo(f"shard {shard} is served by the home {home}; before: {former or 'no home'}")


def _list(*, in_utc: bool, as_json: bool) -> None:
    states = asyncio.run(_states())
    if as_json:
        print_json([state.as_dict() for state in states])
    else:
        _print(states, in_utc=in_utc)


def _print(states: list[ShardState], *, in_utc: bool) -> None:
    rows: list[tuple[str, ...]] = []
    now = datetime.now(UTC)
    for state in states:
        since = "the beginning" if state.since is None else shown_time(state.since, in_utc=in_utc)
        home = ("-", "-", "-") if state.home is None else (state.home.id, state.home.host, state.home.path)
        seen = "never" if state.seen_at is None else f"{max(0.0, (now - state.seen_at).total_seconds()):.0f} s ago"
        rows.append((str(state.shard), since, *home, seen))
    print_table(COLUMNS, rows)


@asynccontextmanager
async def _open() -> AsyncIterator[Shards]:
    from livethread.composition import open_shards
    from livethread_config import Settings

    settings = Settings()
    if not has_deployment(settings):
        raise InvalidRequest(f"the home {settings.home} does not exist, so it has no shards")
    async with AsyncExitStack() as stack:
        yield await open_shards(stack, settings)


async def _states() -> list[ShardState]:
    async with _open() as shards:
        return await shards.states()


async def _add(count: int) -> tuple[datetime, int]:
    async with _open() as shards:
        begin, epochs = await shards.add(count)
        return begin, epochs.shards


async def _move(shard: int, *, may_be_empty: bool) -> tuple[HomeIdentity, HomeIdentity | None]:
    from livethread.composition.home import new_home, stored_threads
    from livethread_config import Settings

    settings = Settings()
    home = new_home(settings)
    async with _open() as shards:
        return home, await shards.move(shard, home, None if may_be_empty else stored_threads(settings))
