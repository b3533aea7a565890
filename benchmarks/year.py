"""Plays a year: one busy thread that is opened every day, and short threads; measures whether anything grows without end.

Redis' clock cannot be set, so the times that it holds are set back a day, each day. Lifetimes of keys are ended.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import click

from benchmarks import load
from benchmarks.deployments import Deployment, deployed
from benchmarks.growth import end_lifetimes, occupied, processes
from livethread import CreateThreadParams, LiveThread, ResumeThreadParams, open_store, types
from livethread_config import names

_DAYS: Final = 365
_DAY_MS: Final = 86_400_000
#: Openings of the busy thread in a day, each by a client of its own, and how many of these clients die.
_OPENINGS: Final = 2
_DYING: Final = 1
#: Looks at the processes while the short threads are written: they grow until their caches are full.
_LOOKS: Final = 4
#: Threads that are deleted by one call.
_AT_ONCE: Final = 500


def run(threads: int) -> dict[str, Any]:
    """Return what is occupied after *threads* short threads, twice as many, and none; and what the busy thread keeps."""
    return {"threads": threads} | asyncio.run(_run(threads))


async def _run(threads: int) -> dict[str, Any]:
    async with deployed(1) as deployment:
        first_ids = await _short(deployment, 100)
        stages: dict[str, dict[str, int]] = {}
        sizes = {"at first": processes(deployment)}
        ids: list[str] = []
        for total in (threads, 2 * threads):
            while len(ids) < total:
                ids += await _short(deployment, min(math.ceil(2 * threads / _LOOKS), total - len(ids)))
                sizes[f"{len(ids)} threads"] = processes(deployment)
            stages[f"{total} threads"] = occupied(deployment)
            end_lifetimes(deployment)
            stages[f"{total}, days later"] = occupied(deployment)
        ids += first_ids
        for first in range(0, len(ids), _AT_ONCE):
            params = types.DeleteThreadsParams(thread_ids=tuple(ids[first : first + _AT_ONCE]))
            assert not (await deployment.store.delete_threads(params)).failed
        await deployment.until_empty()
        end_lifetimes(deployment)
        stages["all deleted"] = occupied(deployment)
        return {"stages": stages, "processes": sizes, "busy": await _busy(deployment)}


async def _short(deployment: Deployment, count: int) -> list[str]:
    ids: list[str] = []
    while len(ids) < count:
        threads = await load.opened(deployment.store, min(100, count - len(ids)))
        for item in load.items(len(ids), 2):
            await asyncio.gather(*(thread.append_items([item]) for thread in threads))
        await load.close(threads)
        ids += [thread.thread_id for thread in threads]
    return ids


async def _busy(deployment: Deployment) -> list[dict[str, int]]:
    """Open one thread again and again for a year; return what it keeps, after each quarter."""
    thread = await LiveThread.create(deployment.store, CreateThreadParams())
    await thread.append_items(list(load.items(0, 1)))
    await thread.shutdown()
    key = names.ShardKeys(deployment.settings.key_prefix, 0).writers(thread.thread_id)
    quarters = []
    for day in range(1, _DAYS + 1):
        for opening in range(_OPENINGS):
            await _open(deployment, thread.thread_id, key, dies=opening < _DYING)
        _set_back_a_day(deployment, key)
        if day * 4 // _DAYS > (day - 1) * 4 // _DAYS:
            quarters.append({"day": day, **_kept(deployment, key), **occupied(deployment)})
            click.echo(f"day {day}: {quarters[-1]['writers']} writers in Redis", err=True)
    return quarters


async def _open(deployment: Deployment, thread_id: str, key: str, *, dies: bool) -> None:
    """Append with a client of its own. If it *dies*, what it removes when it closes comes back."""
    redis: Any = deployment.redis
    async with open_store(deployment.settings) as store:
        thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread_id))
        await thread.append_items(list(load.items(0, 2)))
        await thread.flush()
        before = redis.hgetall(key)
        await thread.shutdown()
    lost = {field: value for field, value in before.items() if not redis.hexists(key, field)}
    if dies and lost:
        redis.hset(key, mapping=lost)


def _set_back_a_day(deployment: Deployment, key: str) -> None:
    """Have all writers of the thread been silent for a day longer."""
    redis: Any = deployment.redis
    earlier = {}
    for field, value in redis.hgetall(key).items():
        counter, _, position = value.decode().partition(" ")
        if position:
            ms, _, low = position.partition("-")
            earlier[field] = f"{counter} {int(ms) - _DAY_MS}-{low}"
    if earlier:
        redis.hset(key, mapping=earlier)


def _kept(deployment: Deployment, key: str) -> dict[str, int]:
    redis: Any = deployment.redis
    fields = [field.decode() for field in redis.hkeys(key)]
    return {"writers": sum(1 for field in fields if field != "tail" and ":" not in field)}
