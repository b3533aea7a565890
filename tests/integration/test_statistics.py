"""What Redis says about its own state, read from any host."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import append, flush, message, new_thread, read
from tests.nodes.processes import READY, RedisServer, worker_process
from tests.nodes.statuses import SHARD
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import HandWorker, celery_worker

from livethread import QueuedThreadStore
from livethread.queued.connection import connect
from livethread.queued.parked_threads import ParkedThreads
from livethread.queued.statistics import (
    StatisticsReader,
    WaitingThread,
    WorkerSign,
)
from livethread_config import Settings, names
from livethread_worker.membership import SIGNS_KEPT_MS, Membership
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock

NOTHING = replace(SHARD, home=None, looked_at=None, swept_at=None)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "local"})


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[StatisticsReader]:
    redis = connect(settings)
    yield StatisticsReader(redis, settings)
    await redis.aclose()


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings) as store:
        yield store


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_a_deployment_in_which_nothing_has_happened(
    settings: Settings, redis_server: RedisServer, reader: StatisticsReader, *, is_recorded: bool
) -> None:
    record = names.deployment_key(settings.key_prefix)
    if is_recorded:
        redis_server.client.hset(record, mapping={"wire": "1", "epochs": "[[0,1]]"})

    statistics = await reader.read()

    assert (statistics.shards, statistics.workers) == ((NOTHING,), ())
    assert await reader.longest_waiting(10) == []
    assert bool(redis_server.client.exists(record)) == is_recorded


async def test_tasks_before_and_after_they_are_applied(
    reader: StatisticsReader, store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    start = (await reader.read()).now
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await append(store, thread_id, message("two"))

    waiting = await reader.read()
    [thread] = await reader.longest_waiting(10)
    await asyncio.to_thread(hand_worker.drain)
    applied = (await reader.read()).shards[0]

    [before] = waiting.shards
    assert before.oldest_unapplied_at is not None
    assert int(start * 1000) / 1000 <= before.oldest_unapplied_at <= waiting.now
    assert thread == WaitingThread(
        thread_id, 0, before.oldest_unapplied_at, tasks=3, reason=None, failures=0, is_parked=False
    )
    accepted = {"append_items": 2, "create_thread": 1}
    assert before == replace(
        NOTHING,
        oldest_unapplied_at=before.oldest_unapplied_at,
        unapplied_tasks=3,
        waiting_threads=1,
        ready_threads=1,
        accepted=accepted,
        doorbells=before.doorbells,
    )
    assert applied == replace(
        NOTHING, accepted=accepted, applied=3, lag=applied.lag, looked_at=applied.looked_at, doorbells=1
    )
    assert sum(applied.lag.counts) == 3
    assert applied.looked_at is not None


async def test_threads_that_are_parked_or_retried_with_the_reason(
    reader: StatisticsReader, store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    parked, retried = [await new_thread(store) for _ in range(2)]
    for thread_id in (parked, retried):
        await append(store, thread_id, message("one"))
    await asyncio.to_thread(hand_worker.drain)
    for thread_id in (parked, retried):
        await flush(store, thread_id)
        path = (await read(store, thread_id)).rollout_path
        assert path is not None
        path.rename(path.with_suffix(".away"))
        if thread_id == retried:  # opening it fails, as with a full disk
            path.symlink_to(path.with_suffix(".away"))
        await append(store, thread_id, message("two"))
    await asyncio.to_thread(hand_worker.drain)

    statistics = await reader.read()
    threads = {thread.thread_id: thread for thread in await reader.longest_waiting(10)}

    [shard] = statistics.shards
    assert (shard.parked_threads, shard.parked_total, shard.retrying_threads) == (1, 1, 1)
    assert (shard.unapplied_tasks, shard.waiting_threads, shard.failures) == (2, 1, 1)
    assert threads.keys() == {parked, retried}
    assert (threads[parked].is_parked, threads[parked].tasks, threads[parked].failures) == (True, 1, 0)
    assert "ThreadNotFound" in (threads[parked].reason or "")
    assert statistics.now - 60 < threads[parked].since <= statistics.now
    assert threads[retried] == WaitingThread(
        retried, 0, shard.oldest_unapplied_at or 0.0, 1, threads[retried].reason, failures=1, is_parked=False
    )
    assert "OSError" in (threads[retried].reason or "")
    assert len(await reader.longest_waiting(1)) == 1


async def test_a_damaged_count_is_taken_as_zero(
    settings: Settings,
    reader: StatisticsReader,
    store: QueuedThreadStore,
    hand_worker: HandWorker,
    redis_server: RedisServer,
) -> None:
    keys, thread_id = names.ShardKeys(settings.key_prefix, 0), await new_thread(store)
    await append(store, thread_id, message("one"))
    redis_server.client.hset(keys.stats, mapping={"failures": "many", "lag:5": "", "accepted:create_thread": "x"})
    redis_server.client.hset(keys.attempts, thread_id, "many times")

    [shard] = (await reader.read()).shards
    [damaged] = await reader.longest_waiting(10)
    hand_worker.home.create()
    with file_lock(hand_worker.home.thread_lock(thread_id)):
        await asyncio.to_thread(hand_worker.drain)
        [put_back] = await reader.longest_waiting(10)

    assert (shard.failures, shard.applied, shard.accepted) == (0, 0, {"append_items": 1, "create_thread": 0})
    assert (damaged.failures, damaged.reason) == (0, "times")
    assert put_back.reason == f"{thread_id}.lock is held by another writer"


async def test_names_and_signs_that_another_program_damaged_hide_nothing_else(
    settings: Settings, reader: StatisticsReader, store: QueuedThreadStore, redis_server: RedisServer
) -> None:
    keys, thread_id = names.ShardKeys(settings.key_prefix, 0), await new_thread(store)
    await append(store, thread_id, message("one"))
    redis = redis_server.client
    redis.zadd(keys.waiting, {b"\xff": 1})
    redis.hset(keys.parked, b"\xfe", b"\xfe")
    redis.set(keys.looked, "lately")
    signs: dict[Any, Any] = {
        "a": "",
        "b": "1 {}",
        "c": b"\xff",
        "d": "soon []",
        "e": '1 {"valid_s": "long"}',
        "f": "1 null",
    }
    redis.hset(names.workers_key(settings.key_prefix), mapping=signs)

    statistics = await reader.read()
    waiting = await reader.longest_waiting(10)
    parked = await ParkedThreads(store._mailboxes).all()

    assert [thread.thread_id for thread in parked] == ["\ufffd"]
    assert (statistics.workers, statistics.shards[0].looked_at) == ((), None)
    assert {thread.thread_id for thread in waiting} == {thread_id, "\ufffd"}
    assert len(waiting) == 3


# -- workers' signs of life --------------------------------------------------------------------------------


async def test_an_idle_worker_gives_signs_of_life_until_it_ends(settings: Settings, reader: StatisticsReader) -> None:
    async def signs(*, after: float = 0.0) -> list[WorkerSign]:
        return [worker for worker in (await reader.read()).workers if worker.seen_at > after]

    with celery_worker(settings.model_copy(update={"sweep_interval_s": 0.05})):
        first: list[WorkerSign] = await eventually(signs, "a sign of life")
        second: list[WorkerSign] = await eventually(lambda: signs(after=first[0].seen_at), "another sign of life")
        statistics = await reader.read()

    host = socket.gethostname()
    node = f"in-process-{os.getpid()}@test"
    assert second == [WorkerSign(node, host, str(settings.home), (0,), second[0].seen_at, is_live=True)]
    assert statistics.shards[0].home == f"{host}:{settings.home}"
    assert statistics.shards[0].swept_at is not None
    assert (await reader.read()).workers == ()


async def test_a_killed_worker_counts_as_dead_and_is_forgotten_later(
    settings: Settings, reader: StatisticsReader, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis, key = redis_server.client, names.workers_key(settings.key_prefix)
    killed = worker_process(settings, tmp_path, "killed")
    killed.start()
    await asyncio.to_thread(killed.wait_for_log, READY)
    killed.kill()
    [sign] = (await reader.read()).workers

    async def look_after(seconds: float) -> list[tuple[str, bool]]:
        """Return which workers live that much later, in the eyes of one that lives."""
        ms = int((sign.seen_at - seconds) * 1000)
        shown = json.dumps({"host": sign.host, "home": sign.home, "shards": sign.shards, "valid_s": 10})
        redis.hset(key, sign.name, f"{ms} {shown}")
        membership = Membership(redis, Home(settings.home), settings)
        membership.sign("lives@test", [0])
        return [(worker.name, worker.is_live) for worker in (await reader.read()).workers]

    assert sign.is_live
    assert await look_after(60) == [(sign.name, False), ("lives@test", True)]
    assert await look_after(SIGNS_KEPT_MS / 1000) == [("lives@test", True)]
