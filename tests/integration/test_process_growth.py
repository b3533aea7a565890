"""Client and worker keep nothing of threads that are over, except in caches, which have bounds."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter, deque
from functools import lru_cache

import pytest
from tests.nodes.items import append, new_thread, read, said
from tests.nodes.stores import opened
from tests.nodes.workers import HandWorker, draining
from tests.store_spec.operations import archive, delete

from livethread import QueuedThreadStore, Settings, ShutdownThreadParams
from livethread.queued import progress
from livethread_worker.store.index import state_cache

THREADS = 36
#: Bound of each cache of ours; those of `lru_cache` are emptied.
CACHED = 5


def kept() -> Counter[str]:
    """Count livethread's objects by their type, and what each collection holds that is an attribute of theirs."""
    for each in gc.get_objects():
        if isinstance(each, type(lru_cache(kept))) and each.cache_parameters()["maxsize"]:
            each.cache_clear()
    gc.collect()
    counts: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        if not str(kind.__module__).startswith("livethread"):
            continue
        counts[kind.__qualname__] += 1
        for name in (*getattr(each, "__dict__", ()), *getattr(kind, "__slots__", ())):
            if isinstance(value := getattr(each, name, None), (dict, list, set, deque)) and not name.startswith("__"):
                counts[f"{kind.__qualname__}.{name}"] += len(value)
    return counts


async def play(store: QueuedThreadStore) -> None:
    """Write threads; archive some, and delete others."""

    async def one(number: int) -> None:
        thread_id = await new_thread(store)
        await append(store, thread_id, said(f"{number}"))
        await append(store, thread_id, said("more"))
        await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))
        if number % 3:
            await read(store, thread_id)
            await (archive if number % 3 == 1 else delete)(store, thread_id)

    await asyncio.gather(*(one(number) for number in range(THREADS)))


async def test_client_and_worker_keep_nothing_of_threads_that_are_over(
    settings: Settings, hand_worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_cache, "MAX_STATES", CACHED)
    monkeypatch.setattr(progress, "COLD_THREADS", CACHED)
    settings = settings.model_copy(update={"reads": "local"})

    async with opened(settings) as store:
        counts = []
        for _ in range(2):
            async with draining(hand_worker):
                await play(store)
            await asyncio.to_thread(hand_worker.drain)  # what is left: deletions
            counts.append(kept())

    once, twice = counts
    assert {name: count for name, count in (twice - once).items() if count > 2 * CACHED} == {}
