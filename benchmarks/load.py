"""The load of session code: many threads that append at once, or operations at a fixed rate."""

from __future__ import annotations

import asyncio
import gc
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from benchmarks.homes import Words
from livethread import CreateThreadParams, LiveThread, TasksApplied, ThreadMetadataPatch
from livethread.position import Position, position_key
from livethread.queued.queued_store import QueuedThreadStore
from livethread.types import Receipt

#: Words of an item: with its envelope, about 500 bytes.
_WORDS: Final = 60

#: Threads that are opened, or closed, at a time.
_OPENING: Final = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a load."""

    threads: int
    #: To each thread.
    appends: int
    #: Appends between patches of a thread's metadata; 0: no patches.
    patch_every: int = 0
    #: Concurrent appends of one thread.
    at_once: int = 1

    @property
    def operations(self) -> int:
        """Appends and patches, of all threads."""
        return self.threads * (self.appends + (self.appends // self.patch_every if self.patch_every else 0))

    def __str__(self) -> str:
        return f"{self.threads:,} x {self.appends:,}".replace(",", " ")


@dataclass(frozen=True, slots=True)
class Run:
    """The cost of one run, from its first append until everything is durable."""

    seconds: float
    #: In the process that appends.
    cpu_s: float


@lru_cache(maxsize=1)
def texts() -> tuple[str, ...]:
    """Return different texts to append; all of them are indexed for search."""
    words = Words()
    return tuple(words.text(_WORDS) for _ in range(10_000))


def items(number: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield the items of one thread: a request of the user, then messages of the agent."""
    kind, of_all = "user_message", texts()
    for n in range(count):
        yield {"type": "event_msg", "payload": {"type": kind, "message": of_all[(number * 37 + n) % len(of_all)]}}
        kind = "agent_message"


def patch(number: int) -> ThreadMetadataPatch:
    """Return an explicit patch: it changes the file, the row, and the texts that listings search."""
    return ThreadMetadataPatch(title=f"After {number} appends")


async def opened(store: QueuedThreadStore, count: int) -> list[LiveThread]:
    """Return new threads of *store*."""
    threads: list[LiveThread] = []
    while len(threads) < count:
        several = min(_OPENING, count - len(threads))
        params = [CreateThreadParams(cwd="/benchmark") for _ in range(several)]
        threads += await asyncio.gather(*(LiveThread.create(store, each) for each in params))
    return threads


async def close(threads: list[LiveThread]) -> None:
    """Shut *threads* down."""
    for begin in range(0, len(threads), _OPENING):
        await asyncio.gather(*(thread.shutdown() for thread in threads[begin : begin + _OPENING]))


async def write(store: QueuedThreadStore, shape: Shape) -> Run:
    """Write *shape* through new threads of *store* concurrently; each thread awaits its own operations."""
    threads = await opened(store, shape.threads)
    texts()
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_write_one(thread, number, shape) for number, thread in enumerate(threads)))
    run = Run(time.perf_counter() - began, time.process_time() - cpu)
    await close(threads)
    return run


async def _write_one(thread: LiveThread, number: int, shape: Shape) -> None:
    left = enumerate(items(number, shape.appends), start=1)

    async def append() -> None:
        for n, item in left:
            await thread.append_items([item])
            if shape.patch_every and n % shape.patch_every == 0:
                await thread.update_metadata(patch(n))

    if shape.at_once == 1:
        await append()
    else:
        await asyncio.gather(*(append() for _ in range(shape.at_once)))
    await thread.flush()


async def latencies(store: QueuedThreadStore, threads: int, per_second: int, seconds: float) -> list[float]:
    """Return the seconds of each operation, from its due time until this process hears that it is durable.

    The operations are due at a fixed rate, however long those before them take; every eleventh is a patch. The threads
    are there before: none of the operations has to make a file.
    """
    opened_threads = await opened(store, threads)
    for thread in opened_threads:
        await thread.persist()
    await asyncio.gather(*(thread.flush() for thread in opened_threads))
    applied: dict[str, list[tuple[tuple[int, int], float]]] = defaultdict(list)

    def note(event: object) -> None:
        if isinstance(event, TasksApplied):
            applied[event.thread_id].append((position_key(event.position), time.perf_counter()))

    async def one(number: int, due: float) -> tuple[str, Position, float]:
        thread = opened_threads[number % threads]
        receipt: Receipt
        if number % 11 == 10:  # noqa: PLR2004 - see above
            receipt = await thread.update_metadata(patch(number))
        else:
            receipt = await thread.append_items(list(items(number, 1)))
        return receipt.thread_id, receipt.position, due

    unsubscribe = store.observers.subscribe(note)
    gc.collect()
    gc.freeze()  # a collection of objects from other measurements takes fifty milliseconds
    began = time.perf_counter()
    tasks = []
    for number in range(int(per_second * seconds)):
        due = began + number / per_second
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(one(number, due)))
    done = await asyncio.gather(*tasks)
    await close(opened_threads)
    unsubscribe()
    gc.unfreeze()
    return [_applied_at(applied[thread_id], position) - due for thread_id, position, due in done]


def _applied_at(events: list[tuple[tuple[int, int], float]], position: Position) -> float:
    """Return when the first of a thread's *events* came that covers *position*."""
    return events[bisect_left(events, position_key(position), key=lambda event: event[0])][1]
