"""Plays a day in fast motion: threads that are written, resumed, searched and deleted; measures what the deployment occupies."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import click

from benchmarks import load
from benchmarks.deployments import Deployment, deployed
from benchmarks.growth import end_lifetimes, occupied
from livethread import LiveThread, ResumeThreadParams, types
from livethread.composition import open_reader

_HOURS: Final = 24
#: Items of a thread: half of them when it begins, the others when it is resumed an hour later.
_ITEMS: Final = 10
#: Threads that are written at a time.
_AT_ONCE: Final = 500
#: One of so many threads is deleted, two hours after it began.
_DELETED: Final = 5
#: Searches and listings in an hour.
_SEARCHES: Final = 20


def run(threads: int) -> dict[str, Any]:
    """Return what is occupied at the beginning, at noon, in the evening, and once all lifetimes are over."""
    return asyncio.run(_run(threads))


async def _run(threads: int) -> dict[str, Any]:
    async with deployed(2) as deployment:
        warm = await load.opened(deployment.store, 1)
        await warm[0].append_items(list(load.items(0, 1)))
        await load.close(warm)
        began = time.perf_counter()
        stages = {"at 0:00": occupied(deployment)}
        hours: list[list[str]] = []
        for hour in range(_HOURS):
            share = threads * (hour + 1) // _HOURS - threads * hour // _HOURS
            hours.append(await _write(deployment, share))
            if hour >= 1:
                await _resume(deployment, hours[hour - 1])
            if hour >= 2:  # noqa: PLR2004 - two hours after
                await _delete(deployment, hours[hour - 2][::_DELETED])
            await _search(deployment)
            if hour + 1 in {_HOURS // 2, _HOURS}:
                stages[f"at {hour + 1}:00"] = occupied(deployment)
            click.echo(f"{hour + 1:>2}:00 after {time.perf_counter() - began:.0f} s", err=True)
        seconds = time.perf_counter() - began
        end_lifetimes(deployment)
        stages["days later"] = occupied(deployment)
    return {"threads": threads, "seconds": seconds, "stages": stages}


async def _write(deployment: Deployment, count: int) -> list[str]:
    """Begin *count* threads, write half of their items, and close them."""
    ids: list[str] = []
    while len(ids) < count:
        threads = await load.opened(deployment.store, min(_AT_ONCE, count - len(ids)))
        await _append(threads)
        ids += [thread.thread_id for thread in threads]
    return ids


async def _resume(deployment: Deployment, ids: list[str]) -> None:
    """Write the other half of the items."""
    for first in range(0, len(ids), _AT_ONCE):
        params = [ResumeThreadParams(thread_id=thread_id) for thread_id in ids[first : first + _AT_ONCE]]
        await _append(await asyncio.gather(*(LiveThread.resume(deployment.store, each) for each in params)))


async def _append(threads: list[LiveThread]) -> None:
    async def append(number: int, thread: LiveThread) -> None:
        for item in load.items(number, _ITEMS // 2):
            await thread.append_items([item])

    await asyncio.gather(*(append(number, thread) for number, thread in enumerate(threads)))
    await load.close(threads)


async def _delete(deployment: Deployment, ids: list[str]) -> None:
    params = types.DeleteThreadsParams(thread_ids=tuple(ids))
    assert not (await deployment.store.delete_threads(params)).failed


async def _search(deployment: Deployment) -> None:
    words = load.texts()[0].split()
    async with open_reader(deployment.settings) as reader:
        for number in range(_SEARCHES):
            term = " ".join(words[number : number + 2])
            await reader.search_threads(types.SearchThreadsParams(search_term=term))
            await reader.list_threads(types.ListThreadsParams())
