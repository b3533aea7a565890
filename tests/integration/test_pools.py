"""A worker serves with every kind of pool, and warns if its tasks run one at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.nodes.items import append, flush, history, message, new_thread, texts
from tests.nodes.processes import READY, worker_process
from tests.nodes.stores import opened

from livethread import Settings

THREADS = 40
APPENDS = 5


async def test_a_pool_of_threads_serves_several_shards(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"shards": 4, "reads": "celery"})
    worker = worker_process(settings, tmp_path / "worker", "worker", "--pool", "threads", "--concurrency", "8")
    worker.start()
    await asyncio.to_thread(worker.wait_for_log, READY)

    async with opened(settings) as store:

        async def session() -> list[str]:
            thread_id = await new_thread(store)
            for n in range(APPENDS):
                await append(store, thread_id, message(f"{n}"))
                await flush(store, thread_id)
            return texts(await history(store, thread_id))

        histories = await asyncio.gather(*(session() for _ in range(THREADS)))

    worker.stop()
    assert histories == [[f"{n}" for n in range(APPENDS)]] * THREADS
    assert "the pool thread shares one index between its tasks" in worker.logs()
    assert "put back" not in worker.logs()
    assert "batch failed" not in worker.logs()


async def test_a_pool_of_spawned_processes_serves(settings: Settings, tmp_path: Path) -> None:
    """As on macOS, where it is the default."""
    settings = settings.model_copy(update={"reads": "celery"})
    worker = worker_process(settings, tmp_path / "worker", "worker", "--pool-start-method", "spawn")
    worker.start()
    await asyncio.to_thread(worker.wait_for_log, READY)

    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        await flush(store, thread_id)
        stored = texts(await history(store, thread_id))

    worker.stop()
    assert stored == ["one"]
