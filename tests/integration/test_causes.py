"""A flush or a read that times out says why, and for which thread."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from tests.nodes.items import append, flush, history, message, thread_with
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import DEADLINE, eventually
from tests.nodes.workers import HandWorker, applied_thread, draining

from livethread import QueuedThreadStore, Settings, Unavailable
from livethread_config import names
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock


async def why_not_applied(store: QueuedThreadStore, thread_id: str) -> str:
    with pytest.raises(Unavailable, match=thread_id) as failure:
        await flush(store, thread_id, timeout_s=0.3)
    return str(failure.value)


async def test_no_worker_was_ever_there(own_settings: Settings, own_redis: RedisServer) -> None:
    own_redis.client.flushall()
    async with opened(own_settings) as store:
        thread_id = await thread_with(store, "0")

        why = await why_not_applied(store, thread_id)

    assert "No worker has ever looked for tasks of shard 0" in why
    assert f"in the queue {own_settings.key_prefix}.0" in why


async def test_workers_went_away(own_settings: Settings, own_worker: HandWorker) -> None:
    async with opened(own_settings) as store:
        thread_id = await applied_thread(store, own_worker, "0")
        await append(store, thread_id, message("1"))

        why = await why_not_applied(store, thread_id)

    assert "No worker has looked for tasks of shard 0 since 20" in why


async def test_a_worker_runs_but_serves_another_shard(own_settings: Settings, own_worker: HandWorker) -> None:
    async with opened(own_settings) as store:
        thread_id = await thread_with(store, "0")
        own_worker.mailbox().sweep()

        why = await why_not_applied(store, thread_id)

    assert f"serve the queue {own_settings.key_prefix}.0?" in why


async def test_another_program_holds_the_threads_lock(own_settings: Settings, own_worker: HandWorker) -> None:
    async with opened(own_settings) as store:
        thread_id = await thread_with(store, "0")
        async with draining(own_worker):
            await flush(store, thread_id)
            with file_lock(Home(own_settings.home).thread_lock(thread_id), wait_s=DEADLINE):
                await append(store, thread_id, message("1"))
                attempts = names.ShardKeys(own_settings.key_prefix, 0).attempts
                await eventually(lambda: own_worker.redis.hexists(attempts, thread_id), "an attempt")
                why = await why_not_applied(store, thread_id)
            await flush(store, thread_id)

    assert f"A worker put the thread back: {thread_id}.lock is held by another writer" in why


async def test_another_program_holds_the_index(own_settings: Settings, own_worker: HandWorker) -> None:
    async with opened(own_settings) as store:
        thread_id = await applied_thread(store, own_worker, "0")
        await append(store, thread_id, message("1"))
        with closing(sqlite3.connect(Home(own_settings.home).index, isolation_level=None)) as index:
            index.execute("BEGIN IMMEDIATE")
            await asyncio.to_thread(own_worker.drain)

            why = await why_not_applied(store, thread_id)

    assert "A worker put the thread back: " in why
    assert "lock" in why


async def test_redis_is_full(own_settings: Settings, own_redis: RedisServer) -> None:
    async with opened(own_settings) as store:
        thread_id = await thread_with(store, "0")
        own_redis.client.flushall()
        own_redis.client.config_set("maxmemory", 1)

        why = await why_not_applied(store, thread_id)

    assert "answers OOM command not allowed" in why


async def test_a_read_says_why_it_timed_out(own_settings: Settings) -> None:
    async with opened(own_settings.model_copy(update={"flush_timeout_s": 0.3})) as store:
        thread_id = await thread_with(store, "0")

        with pytest.raises(Unavailable, match=f"{thread_id}.*No worker has ever looked for tasks of shard 0"):
            await history(store, thread_id)
