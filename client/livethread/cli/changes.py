"""How commands change threads: find them all, change each in order, wait until that is durable, and say what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from livethread.cli.find_thread import described, find_thread
from livethread.cli.output import print_json
from livethread.cli.place import has_deployment
from livethread.composition import open_store
from livethread.errors import InvalidRequest, ThreadNotFound, ThreadStoreError

if TYPE_CHECKING:
    from livethread.metadata import StoredThread
    from livethread.store import ThreadStore
    from livethread.types import Receipt


@dataclass(slots=True)
class Change:
    """What became of one thread."""

    thread_id: str
    #: Its name or preview, before the change.
    name: str
    #: The task's position; None if it was refused.
    position: str | None = None
    is_applied: bool = False
    #: Why it was refused, or is not applied yet.
    reason: str | None = None


def change_threads(
    texts: Sequence[str],
    operation: Callable[[ThreadStore, str], Awaitable[Receipt]],
    done: str,
    *,
    as_json: bool,
    confirm: Callable[[list[StoredThread]], None] = lambda _: None,
) -> None:
    """Run *operation* on the threads that *texts* name, print that each is *done*, and exit with 1 if one is not.

    If one is not found, none is changed. *confirm* gets the threads before that, and may raise `click.Abort`.
    """
    changes = asyncio.run(_change(texts, operation, confirm))
    if as_json:
        print_json([asdict(change) for change in changes])
    else:
        for change in changes:
            _print(change, done)
    if any(change.position is None for change in changes):
        raise SystemExit(1)


async def _change(
    texts: Sequence[str],
    operation: Callable[[ThreadStore, str], Awaitable[Receipt]],
    confirm: Callable[[list[StoredThread]], None],
) -> list[Change]:
    from livethread_config import Settings

    settings = Settings()
    if not has_deployment(settings):
        raise InvalidRequest(f"the home {settings.home} does not exist, so it has no thread")
    async with open_store(settings) as store:
        found = {thread.thread_id: thread for thread in [await find_thread(store, text) for text in texts]}
        confirm([*found.values()])
        changes = [Change(thread.thread_id, described(thread)) for thread in found.values()]
        for change in changes:
            try:
                change.position = (await operation(store, change.thread_id)).position
            except ThreadStoreError as error:
                change.reason = str(error)
        await _wait(store, [change for change in changes if change.position is not None])
    return changes


async def _wait(store: ThreadStore, changes: list[Change]) -> None:
    """Wait until all *changes* are applied, or one is not in time."""
    from livethread.types import ReadThreadParams

    for change in changes:
        try:
            await store.read_thread(ReadThreadParams(thread_id=change.thread_id))
        except ThreadNotFound:  # deleted
            pass
        except ThreadStoreError as error:
            change.reason = str(error)
            return
        change.is_applied = True


def _print(change: Change, done: str) -> None:
    what = f"{change.thread_id} ({change.name})"
    if change.position is None:
        click.echo(f"not {done}: {what}: {change.reason}", err=True)
    elif change.is_applied:
        click.echo(f"{done}: {what}")
    else:
        why = f": {change.reason}" if change.reason else ""
        click.echo(f"will be {done}: {what}: accepted, and not applied yet{why}")
