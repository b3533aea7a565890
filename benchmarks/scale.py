"""Measures operations in homes of several sizes. All threads of a home lie in the folder of one day."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

from benchmarks import homes
from benchmarks.listing import made_home
from livethread import errors, types
from livethread.rollout.item import RolloutItem
from livethread_config import Settings
from livethread_worker.store.files.home import Home
from livethread_worker.store.local import LocalThreadStore

#: When the threads are created that come and go during the measurement: on the day of all others.
_AT: Final = homes.BEGIN + timedelta(hours=23, minutes=50)

#: Rounds of the operations for each measurement of a process.
_ROUNDS: Final = 10

_ITEM: Final = RolloutItem(type="event_msg", payload={"type": "user_message", "message": "Is this home large?"})


def run(folder: Path, sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Return the median seconds of each operation, by home size; homes are kept in *folder*."""
    return [{"threads": size} | asyncio.run(_measure(folder, size, repeats)) for size in sizes]


def on_one_day(size: int) -> homes.Shape:
    """Return the shape of *size* small threads of one day."""
    return replace(homes.SMALL, apart=timedelta(hours=23) / size)


async def _measure(folder: Path, size: int, repeats: int) -> dict[str, float]:
    shape = on_one_day(size)
    home = await asyncio.to_thread(made_home, folder, size, shape, "day")
    settings = Settings(home=home.root, sync="none")
    bench = _Bench(home, shape)
    for _ in range(repeats):
        async with LocalThreadStore(settings) as store:
            await bench.first_listing(store)
    async with LocalThreadStore(settings) as store:
        for _ in range(repeats * _ROUNDS):
            await bench.round(store, size)
    return {name: statistics.median(seconds) for name, seconds in bench.seconds.items()}


class _Bench:
    """Runs each operation in turn. What it adds to the folder, it deletes."""

    def __init__(self, home: Home, shape: homes.Shape) -> None:
        self._home, self._shape = home, shape
        self._numbers = count(time.time_ns() % 10**12)
        self.seconds: dict[str, list[float]] = defaultdict(list)

    async def first_listing(self, store: LocalThreadStore) -> None:
        """List threads with a new *store*, after another program changed the folder."""
        added = homes.id_of(_AT, next(self._numbers))
        self._write_rollout(added)
        await self._time("the first listing of a process", store.list_threads(types.ListThreadsParams()))
        await store.delete_thread(types.DeleteThreadParams(thread_id=added))

    async def round(self, store: LocalThreadStore, size: int) -> None:
        created, found, unknown = (homes.id_of(_AT, next(self._numbers)) for _ in range(3))
        known = self._shape.thread_id(next(self._numbers) % homes.RARE * (size // homes.RARE))  # not an archived one
        await self._time("creating a thread of a chosen id", _create(store, created))
        await self._time("reading an unknown id", _read(store, unknown))
        await self._time("looking for a name that no thread has", _find(store, unknown))
        self._write_rollout(found)
        await self._time("finding the rollout of another program", _read(store, found))
        await self._time("resuming a thread, and an append", _resume(store, known))
        for each in (created, found):
            await self._time("deleting a thread", store.delete_thread(types.DeleteThreadParams(thread_id=each)))

    async def _time(self, name: str, operation: Awaitable[object]) -> None:
        begin = time.perf_counter()
        await operation
        self.seconds[name].append(time.perf_counter() - begin)

    def _write_rollout(self, thread_id: str) -> None:
        """Write a rollout as another program would: the index learns of it from the folder."""
        first = self._shape.thread_id(0)
        like = self._home.new_rollout(first, self._shape.created_at(0)).read_bytes()
        self._home.new_rollout(thread_id, _AT).write_bytes(like.replace(first.encode(), thread_id.encode()))


async def _create(store: LocalThreadStore, thread_id: str) -> None:
    await store.create_thread(types.CreateThreadParams(thread_id=thread_id, created_at=_AT))
    await store.append_items(types.AppendThreadItemsParams(thread_id=thread_id, items=(_ITEM,)))
    await store.shutdown_thread(types.ShutdownThreadParams(thread_id=thread_id))


async def _read(store: LocalThreadStore, thread_id: str) -> None:
    with suppress(errors.ThreadNotFound):
        await store.read_thread(types.ReadThreadParams(thread_id=thread_id))


async def _find(store: LocalThreadStore, name: str) -> None:
    with suppress(errors.ThreadNotFound):
        await store.find_thread_by_name(types.FindThreadByNameParams(name=name))


async def _resume(store: LocalThreadStore, thread_id: str) -> None:
    await store.resume_thread(types.ResumeThreadParams(thread_id=thread_id))
    await store.append_items(types.AppendThreadItemsParams(thread_id=thread_id, items=(_ITEM,)))
    await store.shutdown_thread(types.ShutdownThreadParams(thread_id=thread_id))
