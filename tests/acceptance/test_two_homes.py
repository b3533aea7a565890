"""Shards are added while clients write, and a second home serves them: nothing is lost, doubled, reordered or misplaced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, texts
from tests.nodes.processes import READY, ChildProcess, RedisServer, worker_process
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually

from livethread import QueuedThreadStore, Settings
from livethread.queued import shards as shards_module
from livethread.queued.connection import connect
from livethread.queued.shards import Shards

MESSAGES = ["0", "1", "2", "3"]


@pytest.fixture
def settings(own_redis: RedisServer, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=own_redis.url, home=tmp_path / "first", reads="celery", claim_ttl_s=1.0, sweep_interval_s=0.2
    )


@pytest.fixture
def first_worker(settings: Settings, tmp_path: Path) -> Iterator[ChildProcess]:
    worker = worker_process(settings, tmp_path / "workers", "first", "-Q", "livethread.0")
    worker.start()
    worker.wait_for_log(READY)
    yield worker
    worker.kill()


@pytest.fixture
def second_worker(settings: Settings, tmp_path: Path) -> Iterator[ChildProcess]:
    """A worker of another home, not yet started."""
    second = settings.model_copy(update={"home": tmp_path / "second"})
    worker = worker_process(second, tmp_path / "workers", "second")
    yield worker
    worker.kill()


class Load:
    """Writes threads until it is stopped."""

    def __init__(self, store: QueuedThreadStore) -> None:
        self._store = store
        self._is_stopped = False
        self.threads: list[str] = []

    async def write(self) -> None:
        while not self._is_stopped:
            thread_id = await new_thread(self._store)
            for text in MESSAGES:
                await append(self._store, thread_id, message(text))
            await flush(self._store, thread_id)
            self.threads.append(thread_id)

    def stop(self) -> None:
        self._is_stopped = True

    def in_new_shards(self) -> list[str]:
        return [id_ for id_ in self.threads if self._store._mailboxes.place(id_).shard > 0]


def holders(tmp_path: Path, thread_id: str) -> list[str]:
    """Return the homes that hold a rollout of the thread."""
    return [path.relative_to(tmp_path).parts[0] for path in tmp_path.glob(f"*/sessions/*/*/*/*-{thread_id}.jsonl")]


async def test_a_second_home_serves_shards_that_are_added_under_load(
    first_worker: ChildProcess,
    second_worker: ChildProcess,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards_module, "EPOCH_DELAY_MS", 1_000)
    connection = connect(settings)
    async with opened(settings) as one, opened(settings) as two:
        loads = [Load(store) for store in (one, two)]
        writers = [asyncio.create_task(load.write()) for load in loads for _ in range(8)]
        await eventually(lambda: all(load.threads for load in loads), "threads in the first home")

        await Shards(connection, settings).add(3)
        second_worker.start()
        await eventually(lambda: all(load.in_new_shards() for load in loads), "threads in the second home")
        second_worker.kill()
        second_worker.start()
        known = len(loads[0].in_new_shards())
        await eventually(lambda: len(loads[0].in_new_shards()) > known + 3, "threads after the kill")
        for load in loads:
            load.stop()
        await asyncio.gather(*writers)

        new = {id_ for load in loads for id_ in load.in_new_shards()}
        threads = [id_ for load in loads for id_ in load.threads]
        assert [texts(await history(one, id_)) for id_ in threads] == [MESSAGES] * len(threads)
    assert [holders(tmp_path, id_) for id_ in threads] == [["second" if id_ in new else "first"] for id_ in threads]
    await connection.aclose()
