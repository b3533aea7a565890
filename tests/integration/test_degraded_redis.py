"""Stores keep going, within their bounds and in order, while Redis is missing, down or slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, said, texts
from tests.nodes.processes import RedisServer
from tests.nodes.proxy import RedisProxy
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import HandWorker, draining

from livethread import (
    CreateThreadParams,
    ListThreadsParams,
    LiveThread,
    QueuedThreadStore,
    ReadThreadParams,
    ResourceExhausted,
    ResumeThreadParams,
    Settings,
    ThreadNotFound,
    Unavailable,
    new_thread_id,
)

THREADS = 5


@pytest.fixture
def hasty(own_settings: Settings) -> Settings:
    """Return settings of a session that does not wait for Redis."""
    return own_settings.model_copy(update={"enqueue_timeout_s": 0.05, "require_redis": False})


@pytest.fixture
async def proxied(proxy: RedisProxy, own_settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(own_settings.model_copy(update={"redis_url": proxy.url})) as store:
        yield store


async def queue(store: QueuedThreadStore, thread_id: str, text: str) -> None:
    """Append, and accept that the item is only queued."""
    try:
        await append(store, thread_id, message(text))
    except Unavailable as error:
        if not error.is_queued:
            raise


async def append_all(store: QueuedThreadStore, thread_id: str, numbers: range) -> None:
    for n in numbers:
        await queue(store, thread_id, f"{n}")


async def assert_all_applied_in_order(store: QueuedThreadStore, threads: list[str], count: int) -> None:
    await asyncio.gather(*(flush(store, thread_id, timeout_s=15) for thread_id in threads))
    expected = [f"{n}" for n in range(count)]
    assert [texts(await history(store, thread_id)) for thread_id in threads] == [expected] * len(threads)


# -- no Redis at the start ---------------------------------------------------------------------------------


async def test_a_store_opened_without_redis_sends_new_threads_later_in_order(
    hasty: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    own_redis.kill()
    async with opened(hasty) as store:
        threads = [await new_thread(store) for _ in range(3)]
        for thread_id in threads:
            with pytest.raises(Unavailable, match="do not append it again") as failure:
                await append(store, thread_id, message("0"))
            assert failure.value.is_queued
            await append_all(store, thread_id, range(1, 5))

        own_redis.start()

        async with draining(own_worker):
            await assert_all_applied_in_order(store, threads, 5)


async def test_the_listener_of_a_store_opened_without_redis_connects_later(
    hasty: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """Without a flush, the store learns of applied tasks only from publications."""
    own_redis.kill()
    async with opened(hasty) as store:
        thread_id = await new_thread(store)
        await queue(store, thread_id, "0")
        own_redis.start()
        await eventually(lambda: store._acknowledgements._is_connected, "the listener")

        async with draining(own_worker):
            await eventually(lambda: not store._threads.require(thread_id).has_outstanding, "the publication")
            assert texts(await history(store, thread_id)) == ["0"]


async def test_a_listener_that_reconnects_asks_for_what_it_missed(
    own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    async with opened(own_settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("0"))
        own_redis.client.client_kill_filter(_type="pubsub")
        await asyncio.to_thread(own_worker.drain)

        await eventually(lambda: not store._threads.require(thread_id).has_outstanding, "the answer")
        assert texts(await history(store, thread_id)) == ["0"]


async def test_without_redis_only_the_calls_that_need_it_fail(
    hasty: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    async with opened(hasty) as before:
        known = await new_thread(before)
        await queue(before, known, "0")
        async with draining(own_worker):
            await flush(before, known)
    own_redis.kill()

    async with opened(hasty.model_copy(update={"flush_timeout_s": 0.2})) as store:
        with pytest.raises(Unavailable, match="does not answer"):
            await store.resume_thread(ResumeThreadParams(thread_id=known))
        with pytest.raises(Unavailable, match="does not answer"):
            await new_thread(store, thread_id=new_thread_id())
        with pytest.raises(ThreadNotFound):
            await append(store, known, message("not open"))
        listed = await store.list_threads(ListThreadsParams(include_without_preview=True))
        thread_id = await new_thread(store)
        await queue(store, thread_id, "0")
        with pytest.raises(Unavailable, match="nothing is lost"):
            await store.read_thread(ReadThreadParams(thread_id=thread_id))
        with pytest.raises(Unavailable, match="nothing is lost"):
            await flush(store, thread_id)

        assert [thread.thread_id for thread in listed.items] == [known]
        assert texts(await history(store, known)) == ["0"]


async def test_without_redis_a_session_appends_up_to_its_bound(
    hasty: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    own_redis.kill()
    async with opened(hasty.model_copy(update={"mailbox_max_tasks": 4})) as store:
        thread_id = await new_thread(store)
        await append_all(store, thread_id, range(3))  # plus the creation

        with pytest.raises(ResourceExhausted):
            await append(store, thread_id, message("refused"))

        own_redis.start()
        async with draining(own_worker):
            await assert_all_applied_in_order(store, [thread_id], 3)


async def test_appends_that_wait_for_room_without_redis_are_accepted_later(
    hasty: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    own_redis.kill()
    patient = hasty.model_copy(
        update={"mailbox_max_tasks": 4, "backpressure": "wait", "backpressure_timeout_s": 20.0}
    )
    async with opened(patient) as store:
        thread_id = await new_thread(store)
        await append_all(store, thread_id, range(3))
        waiting = [asyncio.ensure_future(queue(store, thread_id, f"{n}")) for n in range(3, 9)]
        await asyncio.wait(waiting, timeout=0.1)
        waited = not any(task.done() for task in waiting)

        own_redis.start()

        async with draining(own_worker):
            await asyncio.gather(*waiting)
            await assert_all_applied_in_order(store, [thread_id], 9)
        assert waited


# -- Redis down for a while --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_threads_append_in_order_while_redis_is_down(
    hasty: Settings, own_redis: RedisServer, own_worker: HandWorker, how: str
) -> None:
    async with opened(hasty) as store:
        threads = [await new_thread(store) for _ in range(THREADS)]
        await asyncio.gather(*(append_all(store, thread_id, range(5)) for thread_id in threads))
        own_redis.kill() if how == "killed" else own_redis.pause()
        try:
            async with asyncio.timeout(4.0):  # Redis' own timeout is longer
                await asyncio.gather(*(append_all(store, thread_id, range(5, 15)) for thread_id in threads))
        finally:
            own_redis.start() if how == "killed" else own_redis.go_on()

        await asyncio.gather(*(append_all(store, thread_id, range(15, 20)) for thread_id in threads))
        async with draining(own_worker):
            await assert_all_applied_in_order(store, threads, 20)


async def test_derived_patches_queued_while_redis_is_down_are_applied(
    hasty: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    own_redis.kill()
    async with opened(hasty) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        with pytest.raises(Unavailable) as failure:
            await thread.append_items([said("A title")])
        own_redis.start()

        async with draining(own_worker):
            await eventually(lambda: not store._threads.require(thread.thread_id).has_outstanding, "Redis")
            await thread.flush(timeout_s=15)

            assert failure.value.is_queued
            assert (await thread.read_thread()).title == "A title"


# -- slow or lost connections ------------------------------------------------------------------------------


async def test_a_slow_redis_receives_all_tasks_in_order(
    proxied: QueuedThreadStore, proxy: RedisProxy, own_worker: HandWorker
) -> None:
    proxy.delay_s = 0.05
    threads = [await new_thread(proxied) for _ in range(THREADS)]

    await asyncio.gather(*(append_all(proxied, thread_id, range(10)) for thread_id in threads))

    async with draining(own_worker):
        await assert_all_applied_in_order(proxied, threads, 10)


async def test_a_task_whose_answer_was_lost_is_applied_once(
    proxied: QueuedThreadStore, proxy: RedisProxy, own_worker: HandWorker
) -> None:
    thread_id = await new_thread(proxied)
    await append(proxied, thread_id, message("0"))
    swallowed = [proxy.swallow_reply(to=thread_id.encode()) for _ in range(3)]

    await append_all(proxied, thread_id, range(1, 4))

    assert all(event.is_set() for event in swallowed)
    async with draining(own_worker):
        await assert_all_applied_in_order(proxied, [thread_id], 4)


async def test_repeatedly_cut_connections_neither_lose_nor_repeat_a_task(
    proxied: QueuedThreadStore, proxy: RedisProxy, own_worker: HandWorker
) -> None:
    threads = [await new_thread(proxied) for _ in range(THREADS)]
    appending = asyncio.gather(*(append_all(proxied, thread_id, range(40)) for thread_id in threads))

    while not appending.done():
        await asyncio.to_thread(proxy.cut_all)
        await asyncio.wait([appending], timeout=0.02)

    await appending
    async with draining(own_worker):
        await assert_all_applied_in_order(proxied, threads, 40)
