"""Redis restarts, forgets, refuses or hangs under open stores: what was accepted is applied, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, said, texts
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import HandWorker, draining

from livethread import (
    Conflict,
    FlushThreadParams,
    Internal,
    LiveThread,
    QueuedThreadStore,
    ReadThreadParams,
    ResourceExhausted,
    ResumeThreadParams,
    Settings,
    ThreadStoreError,
    Unavailable,
)
from livethread.types import CreateThreadParams
from livethread_config import names


@pytest.fixture
async def store(own_settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(own_settings) as store:
        yield store


async def appended(store: QueuedThreadStore, count: int = 10) -> str:
    thread_id = await new_thread(store)
    for n in range(count):
        await append(store, thread_id, message(f"{n}"))
    return thread_id


def numbers(count: int) -> list[str]:
    return [f"{n}" for n in range(count)]


async def test_redis_is_killed_between_append_and_flush_and_nothing_is_lost(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store)

    own_redis.kill()
    own_redis.start()

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(10)


async def test_appends_made_while_redis_is_away_are_accepted_when_it_is_back(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store, 3)
    own_redis.kill()
    waiting = [asyncio.ensure_future(append(store, thread_id, message(f"{n}"))) for n in range(3, 6)]
    await asyncio.wait(waiting, timeout=0.1)
    none_answered = not any(task.done() for task in waiting)

    own_redis.start()
    await asyncio.gather(*waiting)

    assert none_answered
    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(6)


async def test_an_append_that_redis_does_not_accept_in_time_says_what_becomes_of_it(
    own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    async with opened(own_settings.model_copy(update={"enqueue_timeout_s": 0.2})) as store:
        thread_id = await appended(store, 1)
        own_redis.kill()

        with pytest.raises(Unavailable, match="do not append it again") as failure:
            await append(store, thread_id, message("1"))

        assert "0.2 s" in str(failure.value)
        own_redis.start()
        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
        assert texts(await history(store, thread_id)) == numbers(2)


async def test_what_redis_forgot_is_sent_again_in_order_and_once(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store)

    own_redis.client.flushall()

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(10)


async def test_a_short_flush_sends_again_what_redis_forgot_while_other_threads_go_on(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """Publications about the others say nothing of it: it has to be asked for."""
    thread_id = await appended(store, 3)
    own_redis.client.delete(*own_redis.client.scan_iter(f"{own_settings.key_prefix}:*:{thread_id}"))

    async def go_on() -> None:
        while True:
            store._progress.note_publication()
            await asyncio.sleep(0.01)

    others = asyncio.create_task(go_on())
    async with draining(own_worker):
        await store.flush_thread(FlushThreadParams(thread_id=thread_id, timeout_s=6))
    others.cancel()

    assert texts(await history(store, thread_id)) == numbers(3)


async def test_every_flush_says_that_redis_is_away_not_only_the_one_that_asked(
    store: QueuedThreadStore, own_redis: RedisServer
) -> None:
    threads = [await appended(store, 1) for _ in range(10)]
    own_redis.kill()

    flushes = (store.flush_thread(FlushThreadParams(thread_id=each, timeout_s=0.5)) for each in threads)
    errors = await asyncio.gather(*flushes, return_exceptions=True)

    own_redis.start()
    assert [type(error) for error in errors] == [Unavailable] * 10
    assert all("does not answer" in str(error) for error in errors)


async def test_what_redis_forgot_is_sent_again_before_what_is_appended_since(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store, 5)
    own_redis.client.flushall()

    for n in range(5, 10):
        await append(store, thread_id, message(f"{n}"))

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(10)


async def test_what_was_applied_unseen_is_sent_again_and_not_written_again(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """The publication is lost with the connection that should have brought it."""
    thread_id = await appended(store, 5)
    own_redis.client.client_kill_filter(_type="pubsub")
    await asyncio.to_thread(own_worker.drain)
    await append(store, thread_id, message("5"))

    own_redis.client.flushall()

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(6)


async def test_what_redis_forgot_is_kept_though_another_writer_was_first_to_write_again(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """The first writer has not seen its creation applied, so it sends that again, too."""
    thread_id = await appended(store, 2)
    own_redis.client.client_kill_filter(_type="pubsub")
    await asyncio.to_thread(own_worker.drain)
    await append(store, thread_id, message("2"))
    own_redis.client.flushall()
    # The first may have been quicker, where the machine is slow: then the other waits for it.
    async with opened(own_settings) as other, draining(own_worker):
        await other.resume_thread(ResumeThreadParams(thread_id=thread_id))
        await append(other, thread_id, message("other"))
        await flush(store, thread_id, timeout_s=15)
        await flush(other, thread_id, timeout_s=15)

    stored = texts(await history(store, thread_id))
    assert [text for text in stored if text != "other"] == numbers(3)
    assert stored.count("other") == 1


async def test_a_forgotten_task_is_not_applied_because_another_writers_later_one_is(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """A position says nothing any more once Redis lost data; a task is its writer and counter."""
    thread_id = await appended(store, 1)
    async with opened(own_settings) as other:
        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
            await other.resume_thread(ResumeThreadParams(thread_id=thread_id))
        await append(store, thread_id, message("1"))
        own_redis.client.flushall()
        await append(other, thread_id, message("other"))

        async with draining(own_worker):
            await flush(other, thread_id, timeout_s=15)
            await flush(store, thread_id, timeout_s=15)

    assert sorted(texts(await history(store, thread_id))) == ["0", "1", "other"]


async def test_an_accepted_compare_and_append_that_redis_forgot_is_kept(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await new_thread(store)
    first = await append(store, thread_id, message("0"))
    await append(store, thread_id, message("1"), expected=first.position)

    own_redis.client.flushall()

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(2)


async def test_accepted_tasks_that_redis_forgot_are_kept_though_others_fill_the_mailbox(
    own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    bounded = own_settings.model_copy(update={"mailbox_max_tasks": 6})
    async with opened(bounded) as store, opened(bounded) as other:
        thread_id = await appended(store, 1)
        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
            await other.resume_thread(ResumeThreadParams(thread_id=thread_id))
        for n in range(1, 6):
            await append(store, thread_id, message(f"{n}"))
        own_redis.client.flushall()
        for _ in range(4):
            await append(other, thread_id, message("other"))
        with pytest.raises(Unavailable):  # both are at work on the full mailbox, and there is no worker
            await flush(store, thread_id, timeout_s=0.3)

        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
            await flush(other, thread_id, timeout_s=15)

        stored = texts(await history(store, thread_id))
    assert [text for text in stored if text != "other"] == numbers(6)
    assert stored.count("other") == 4


async def test_a_task_that_redis_has_is_not_given_up_when_redis_refuses_to_take_it_again(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """A flush offers the last task again; out of memory, Redis refuses every such call."""
    thread_id = await appended(store, 3)
    own_redis.client.config_set("maxmemory", 1)

    with pytest.raises(ThreadStoreError):  # no worker: it cannot be durable
        await flush(store, thread_id, timeout_s=0.3)

    own_redis.client.config_set("maxmemory", 0)
    await append(store, thread_id, message("3"))
    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(4)


async def test_an_append_that_redis_has_no_memory_for_is_refused_and_can_be_made_again(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """The first of the thread: its creation is refused with it."""
    thread_id = await new_thread(store)
    own_redis.client.config_set("maxmemory", 1)
    with pytest.raises(ResourceExhausted, match="out of memory"):
        await append(store, thread_id, message("0"))
    own_redis.client.config_set("maxmemory", 0)

    await append(store, thread_id, message("0"))

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(1)


async def test_a_refusal_of_redis_is_an_error_and_the_store_goes_on(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """A mailbox of another type, as no release of ours writes it."""
    broken, good = await new_thread(store), await new_thread(store)
    key = names.ShardKeys(own_settings.key_prefix, 0).mailbox(broken)
    own_redis.client.set(key, "not a stream")

    with pytest.raises(Internal, match="WRONGTYPE"):
        await append(store, broken, message("0"))

    await append(store, good, message("0"))
    async with draining(own_worker):
        await flush(store, good, timeout_s=15)
    assert texts(await history(store, good)) == numbers(1)


async def test_an_append_whose_wait_is_cancelled_before_it_is_sent_is_still_stored(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """Another thread's call is under way on a Redis that hangs; meanwhile this thread's first append times out."""
    busy, thread_id = await new_thread(store), await new_thread(store)
    own_redis.pause()
    try:
        under_way = asyncio.ensure_future(append(store, busy, message("0")))
        await eventually(lambda: bool(store._threads.require(busy).queue and store._threads.require(busy).queue[0].n))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await append(store, thread_id, message("cancelled"))
    finally:
        own_redis.go_on()
    await under_way

    await append(store, thread_id, message("next"))

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == ["cancelled", "next"]


async def test_a_cancelled_append_is_stored_though_redis_has_no_memory_for_it_at_first(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """Whoever cancels is told that it is appended; so it is not refused either."""
    thread_id = await appended(store, 1)
    writer = store._threads.require(thread_id)
    own_redis.client.config_set("maxmemory", 1)
    own_redis.pause()
    try:
        cancelled = asyncio.ensure_future(append(store, thread_id, message("1")))
        await eventually(lambda: bool(writer.queue), "the task")
        cancelled.cancel()
        await asyncio.wait([cancelled])
    finally:
        own_redis.go_on()
    await eventually(lambda: writer not in store._outbox._waiting[0], "the refusal")
    own_redis.client.config_set("maxmemory", 0)
    await append(store, thread_id, message("2"))

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert cancelled.cancelled()
    assert texts(await history(store, thread_id)) == numbers(3)


async def test_a_flush_outlives_a_redis_that_is_away(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store, 3)
    flushing = asyncio.ensure_future(flush(store, thread_id, timeout_s=20))
    own_redis.kill()
    await asyncio.wait([flushing], timeout=0.2)
    waited = not flushing.done()

    own_redis.start()

    assert waited
    async with draining(own_worker):
        await flushing
    assert texts(await history(store, thread_id)) == numbers(3)


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_a_store_closes_while_redis_is_away_and_a_doorbell_is_due(
    own_settings: Settings, own_redis: RedisServer, how: str
) -> None:
    try:
        async with opened(own_settings) as store:
            await appended(store, 1)
            own_redis.kill() if how == "killed" else own_redis.pause()
            store._mailboxes._doorbell.ring(0)
    finally:
        own_redis.go_on()


async def test_metadata_observed_before_redis_forgot_it_is_applied_as_well(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread = await LiveThread.create(store, CreateThreadParams())
    await thread.append_items([said("A title")])

    own_redis.client.flushall()

    async with draining(own_worker):
        await thread.flush(timeout_s=15)
    stored: Any = await store.read_thread(ReadThreadParams(thread_id=thread.thread_id))
    assert (stored.title, texts(await history(store, thread.thread_id))) == ("A title", ["A title"])


async def test_what_redis_forgot_of_a_fenced_writer_goes_in_and_what_is_new_does_not(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store, 1)
    async with opened(own_settings) as other:
        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
            await append(store, thread_id, message("1"))
            own_redis.client.flushall()
            await other.resume_thread(ResumeThreadParams(thread_id=thread_id, exclusive=True))

            with pytest.raises(Conflict):
                await append(store, thread_id, message("fenced"))

            await flush(store, thread_id, timeout_s=15)
        assert texts(await history(other, thread_id)) == numbers(2)
