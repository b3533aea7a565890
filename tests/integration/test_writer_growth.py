"""Redis forgets each writer that ends, however often its thread is opened and changed, and keeps no thread for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from tests.nodes.items import append, flush, history, message, new_thread, texts, update
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import celery_worker
from tests.store_spec.operations import delete

from livethread import (
    DiscardThreadParams,
    QueuedThreadStore,
    ResumeThreadParams,
    Settings,
    ShutdownThreadParams,
    ThreadMetadataPatch,
)
from livethread_config import names

TIMES = 20


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    return redis_server.client


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    settings = settings.model_copy(update={"reads": "local"})
    with celery_worker(settings):
        yield settings


def writers(redis: Redis, settings: Settings, thread_id: str) -> set[str]:
    """Return the writers that Redis knows of a thread."""
    fields = redis.hkeys(names.ShardKeys(settings.key_prefix, 0).writers(thread_id))
    return {str(field, "ascii") for field in fields} - {"tail", names.EPOCH}  # type: ignore[arg-type]  # it is bytes


async def written(store: QueuedThreadStore) -> str:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("first"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))
    return thread_id


@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_thread_that_is_resumed_again_and_again_keeps_no_writer(
    settings: Settings, redis: Redis, *, exclusive: bool
) -> None:
    async with opened(settings) as store:
        thread_id = await written(store)
    for n in range(TIMES):
        async with opened(settings) as store:
            await store.resume_thread(ResumeThreadParams(thread_id=thread_id, exclusive=exclusive))
            await append(store, thread_id, message(f"{n}"))
            if n % 2:  # otherwise, closing the store closes the thread
                await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    await eventually(lambda: not writers(redis, settings, thread_id), "the end of all writers")
    async with opened(settings) as store:
        await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
        assert texts(await history(store, thread_id)) == ["first", *(f"{n}" for n in range(TIMES))]


async def test_changes_of_a_thread_that_is_not_open_leave_no_writer(settings: Settings, redis: Redis) -> None:
    async with opened(settings) as store:
        thread_id = await written(store)

        for n in range(TIMES):
            await update(store, thread_id, ThreadMetadataPatch(name=f"{n}"))

        await eventually(lambda: not writers(redis, settings, thread_id), "the end of all writers")


async def test_a_discarded_thread_leaves_no_writer(settings: Settings, redis: Redis) -> None:
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("first"))

        await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

        await eventually(lambda: not writers(redis, settings, thread_id), "the end of the writer")


async def test_closed_and_deleted_threads_leave_only_keys_with_a_lifetime(settings: Settings, redis: Redis) -> None:
    async with opened(settings) as store:
        kept, deleted = [await written(store) for _ in range(2)]
        await update(store, kept, ThreadMetadataPatch(name="kept"))
        await store.resume_thread(ResumeThreadParams(thread_id=kept))
        await append(store, kept, message("once"), key="key")
        await delete(store, deleted)

    await eventually(lambda: not permanent(redis, settings, kept, deleted), "the end of all that has no lifetime")
    assert redis.keys(f"{settings.key_prefix}:*{deleted}*") == []


def permanent(redis: Any, settings: Settings, *thread_ids: str) -> list[bytes]:
    """Return the keys without a lifetime that name one of the threads, but for `deleted`, which sweeps trim."""
    content = {
        b"zset": lambda key: redis.zrange(key, 0, -1),
        b"hash": redis.hgetall,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"set": redis.smembers,
    }
    return [
        key
        for key in redis.keys(f"{settings.key_prefix}:*")
        if redis.ttl(key) == -1 and key.decode() != names.ShardKeys(settings.key_prefix, 0).deleted
        if any(id_ in repr((key, content.get(redis.type(key), lambda _: ())(key))) for id_ in thread_ids)
    ]


async def test_the_writer_of_an_open_thread_is_kept(settings: Settings, redis: Redis) -> None:
    async with opened(settings) as store, opened(settings) as other:
        thread_id = await written(store)
        for each in (store, other):
            await each.resume_thread(ResumeThreadParams(thread_id=thread_id))
            await append(each, thread_id, message("again"))
            await flush(each, thread_id)

        await other.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

        await eventually(lambda: len(writers(redis, settings, thread_id)) == 2, "the other's end")
        await asyncio.gather(*(append(store, thread_id, message(f"{n}")) for n in range(3)))
        await flush(store, thread_id)
