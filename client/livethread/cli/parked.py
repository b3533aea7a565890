"""``livethread parked``: threads with a task that cannot be applied."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import click

from livethread.cli.output import json_option, print_json
from livethread.errors import ThreadNotFound
from livethread.open_store import open_doorbell, open_redis
from livethread.queued.outbox import Outbox
from livethread.types import ArchiveThreadParams
from livethread_config import Settings, names


@click.group("parked", invoke_without_command=True)
@json_option
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """List threads with a task that cannot be applied, and why; or let them be tried again.

    A parked thread waits, with its tasks in order; all others go on. Mend the cause, then retry.
    """
    if context.invoked_subcommand is None:
        parked = asyncio.run(_list())
        if as_json:
            print_json(parked)
        elif not parked:
            click.echo("no thread is parked")
        for thread in () if as_json else parked:
            click.echo(f"{thread['thread_id']}  {thread['reason']}")


@command.command("retry")
@click.argument("thread_ids", nargs=-1, required=True, metavar="THREAD…")
def retry(thread_ids: tuple[str, ...]) -> None:
    """Let workers try each THREAD again, from the task at which it stopped."""
    asyncio.run(_retry([ArchiveThreadParams(thread_id=thread_id).thread_id for thread_id in thread_ids]))


async def _list() -> list[dict[str, Any]]:
    settings = Settings()
    async with AsyncExitStack() as stack:
        redis = await open_redis(stack, settings)
        found: list[dict[str, Any]] = []
        for shard in range(settings.shards):
            parked = await redis.hgetall(names.ShardKeys(settings.key_prefix, shard).parked)
            for thread_id, why in parked.items():
                found.append({"thread_id": _text(thread_id), **json.loads(why)})
        return sorted(found, key=lambda thread: str(thread["thread_id"]))


async def _retry(thread_ids: list[str]) -> None:
    settings = Settings()
    async with AsyncExitStack() as stack:
        redis = await open_redis(stack, settings)
        outbox = Outbox(redis, settings, open_doorbell(stack, settings).ring)
        for thread_id in thread_ids:
            if not await outbox.unpark(thread_id):
                raise ThreadNotFound(thread_id, "it is not parked")
            click.echo(f"{thread_id} is tried again")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
