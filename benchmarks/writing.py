"""Measures writing: a batch as a drain commits it, and an append to a thread of a million lines."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from benchmarks import homes
from benchmarks.timing import medians
from livethread.model import utc_now
from livethread.ordered_tasks import AppendItems, MailboxEntry, OrderedTask
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import encode_line
from livethread.types import AppendThreadItemsParams, ResumeThreadParams
from livethread_config import Settings
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.local import LocalThreadStore
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write.batch import apply_batch
from livethread_worker.store.write.outcome import OutcomeKind

#: A drain's batch: threads, and appends to each. `LiveThread` sends metadata with each of them.
_BATCH_THREADS: Final = 200
_BATCH_APPENDS: Final = 10

_ITEM: Final = RolloutItem(type="event_msg", payload={"type": "agent_reasoning", "text": "thinking " * 40})

#: The length of one measurement; the disk's time varies from write to write.
_MEASURED: Final = 0.1  # seconds

#: The first thread number of the benchmark of appends.
_LONG, _EMPTY = 1, 2


class _Writer:
    """Applies batches to some threads of a home, as if clients sent them one after another."""

    def __init__(self, home: Home, index: Index, numbers: Sequence[int], appends: int) -> None:
        self._home, self._index, self._appends = home, index, appends
        self._threads = [homes.thread_id(number) for number in numbers]
        self._counter = count(1)
        self._writer = f"w{id(self)}"

    def write(self) -> None:
        """Apply one batch, with this number of appends to each thread."""
        now = utc_now()
        append = OrderedTask(AppendItems(at=now), (encode_line(_ITEM, now, max_bytes=10_000),))
        counters = [next(self._counter) for _ in range(self._appends)]
        entries = [MailboxEntry(f"{n}-0", self._writer, n, append) for n in counters]
        outcomes = apply_batch(self._home, self._index, dict.fromkeys(self._threads, entries), sync=True)
        assert all(outcome.kind is OutcomeKind.DONE for outcome in outcomes.values())


def batches(made: Home, threads: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of a batch on a copy of the home *made*, with and without the indexes for filters."""
    numbers = range(0, threads, threads // _BATCH_THREADS)
    with_all, without = (_copied(made, numbers, name) for name in ("batches", "batches-unfiltered"))
    indexes = Index(with_all), Index(without)
    dropped = _drop_filter_indexes(indexes[1])
    operations = {
        name: _Writer(home, index, numbers, _BATCH_APPENDS).write
        for name, home, index in zip(("product", "bare"), (with_all, without), indexes, strict=True)
    }
    seconds = medians(operations, repeats, _MEASURED)
    for index in indexes:
        index.close()
    return {"threads": threads, "batch": len(numbers), "appends": _BATCH_APPENDS, "dropped": dropped} | seconds


def _copied(made: Home, numbers: Sequence[int], name: str) -> Home:
    """Return a home with the whole index of *made*, and with the rollouts of the threads to be written."""
    home = Home(made.root.with_name(f"{made.root.name}-{name}"))
    shutil.rmtree(home.root, ignore_errors=True)
    home.create()
    shutil.copy(made.index, home.index)
    for number in numbers:
        path = made.require_rollout(homes.thread_id(number))
        copy = home.root / made.relative(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return home


def _drop_filter_indexes(index: Index) -> int:
    """Drop the indexes for filters of listings, and return their number."""
    rows = index.db.query("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'threads'")
    columns = tuple(f"threads_by_{name}_" for name in ("cwd", "source", "model_provider", "parent_thread_id"))
    names = [row["name"] for row in rows if row["sql"] and row["name"].startswith(columns)]
    for name in names:
        index.db.execute(f"DROP INDEX [{name}]")
    return len(names)


def appends(folder: Path, lines: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of an append to a thread of *lines* lines, and to one with few.

    Both by a batch as a worker applies it, and through the local store.
    """
    home = Home(folder / f"long-{lines}")
    if not home.index.exists():
        homes.write_long_rollout(home, _LONG, lines)
        homes.write_long_rollout(home, _EMPTY, 10)
        index = Index(home)
        rebuild(home, index)
        index.close()
    threads = {"product": _LONG, "bare": _EMPTY}
    index = Index(home)
    writers = {name: _Writer(home, index, [number], 1).write for name, number in threads.items()}
    applied = medians(writers, repeats, _MEASURED)
    index.close()
    with asyncio.Runner() as runner:
        store = runner.run(_opened(home, [homes.thread_id(number) for number in threads.values()]))
        appending = {
            name: partial(_append, runner, store, homes.thread_id(number)) for name, number in threads.items()
        }
        stored = medians(appending, repeats, _MEASURED)
        runner.run(store.aclose())
    return {"lines": lines, "batch": applied, "store": stored}


async def _opened(home: Home, thread_ids: list[str]) -> LocalThreadStore:
    store = LocalThreadStore(Settings(home=home.root))
    for thread_id in thread_ids:
        await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    return store


def _append(runner: asyncio.Runner, store: LocalThreadStore, thread_id: str) -> None:
    runner.run(store.append_items(AppendThreadItemsParams(thread_id=thread_id, items=(_ITEM,))))
