"""Watchers of threads beside a real Redis: with and without a home, over restarts and lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.nodes.items import append, flush, message, thread_with
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.watchers import watching
from tests.nodes.workers import HandWorker, applied_thread, draining

from livethread import Settings, Unavailable, open_store
from livethread.changes import Changes
from livethread.composition import open_reader
from livethread.queued.change_listener import ChangeListener
from livethread.queued.connection import connect
from livethread.queued.deployment import DeploymentWatch
from livethread_config.names import ShardKeys


@asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[Changes]:
    redis = connect(settings)
    watch = DeploymentWatch(redis, settings)
    yield Changes(ChangeListener(redis, watch, settings.key_prefix).listen)
    await redis.aclose()


def channel(settings: Settings) -> str:
    return ShardKeys(settings.key_prefix, 0).changes


def subscribers(redis: RedisServer, settings: Settings) -> int:
    [(_, count)] = redis.client.pubsub_numsub(channel(settings))
    return int(count)


@pytest.mark.parametrize("reads", ["local", "celery"])
async def test_a_reader_without_a_store_follows_what_workers_apply(served: Settings, reads: str) -> None:
    async with (
        open_store(served) as store,
        open_reader(served.model_copy(update={"reads": reads})) as reader,
    ):
        thread_id = await thread_with(store, "1")
        await flush(store, thread_id)

        async with watching(reader, thread_id) as watcher:
            await watcher.until("1")
            await append(store, thread_id, message("2"))
            await watcher.until("1", "2")


async def test_all_watchers_share_one_subscription_that_ends_with_the_last(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with listening(own_settings) as changes:
        with changes.watching("one") as one, changes.watching("two") as two:
            await eventually(lambda: subscribers(own_redis, own_settings))
            await asyncio.wait_for(one.wait(), 20)  # what came before the subscription may be lost
            await asyncio.wait_for(two.wait(), 20)
            one.clear()
            two.clear()

            own_redis.client.publish(channel(own_settings), b"two \xff three")

            await asyncio.wait_for(two.wait(), 20)
            assert not one.is_set()
            assert subscribers(own_redis, own_settings) == 1

        await eventually(lambda: subscribers(own_redis, own_settings) == 0)
        with changes.watching("one"):
            await eventually(lambda: subscribers(own_redis, own_settings))


async def test_watchers_are_woken_when_redis_is_back(own_settings: Settings, own_redis: RedisServer) -> None:
    async with listening(own_settings) as changes:
        with changes.watching("one") as changed:
            await asyncio.wait_for(changed.wait(), 20)
            changed.clear()

            own_redis.kill()
            own_redis.start()

            await asyncio.wait_for(changed.wait(), 20)  # something may have been published meanwhile
            changed.clear()
            own_redis.client.publish(channel(own_settings), "one")
            await asyncio.wait_for(changed.wait(), 20)


async def test_a_watcher_goes_on_after_a_restart_of_redis(
    own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    async with opened(own_settings) as store:
        thread_id = await applied_thread(store, own_worker, "1")
        async with watching(store, thread_id) as watcher:
            await watcher.until("1")
            await append(store, thread_id, message("2"))

            own_redis.kill()
            own_redis.start()

            async with draining(own_worker):
                await append(store, thread_id, message("3"))
                await watcher.until("1", "2", "3")


async def test_a_watcher_shows_only_what_is_committed(own_settings: Settings, own_worker: HandWorker) -> None:
    async with opened(own_settings) as store:
        thread_id = await applied_thread(store, own_worker, "1")
        async with watching(store, thread_id) as watcher:
            await watcher.until("1")
            receipt = await append(store, thread_id, message("2"))
            async with watching(store, thread_id, after=receipt.position) as after:
                await append(store, thread_id, message("3"))
                assert len(watcher.texts) == 1

                async with draining(own_worker):
                    await watcher.until("1", "2", "3")
                    await after.until("3")


async def test_closing_a_store_or_a_reader_ends_its_watches(served: Settings) -> None:
    async with open_store(served) as writer:
        thread_id = await thread_with(writer, "1")
        await flush(writer, thread_id)

    for opening in (open_store(served), open_reader(served)):
        reader = await opening.__aenter__()
        async with watching(reader, thread_id) as watcher:
            await watcher.until("1")

            await opening.__aexit__(None, None, None)

            with pytest.raises(Unavailable, match="was closed"):
                await asyncio.wait_for(watcher.over(), 20)
