"""Redis restarts, loses data, refuses or hangs under open stores: accepted tasks are applied once, in order."""

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
    ItemsAppended,
    LiveThread,
    QueuedThreadStore,
    ReadThreadParams,
    ResourceExhausted,
    ResumeThreadParams,
    Settings,
    ThreadEvent,
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


async def test_killing_redis_between_append_and_flush_loses_nothing(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store)

    own_redis.kill()
    own_redis.start()

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(10)


async def test_appends_made_while_redis_is_down_are_accepted_later(
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


async def test_an_append_that_redis_does_not_accept_in_time_stays_queued(
    own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    async with opened(own_settings.model_copy(update={"enqueue_timeout_s": 0.2})) as store:
        thread_id = await appended(store, 1)
        events: list[ThreadEvent] = []
        store.observers.subscribe(events.append)
        own_redis.kill()

        with pytest.raises(Unavailable, match="do not append it again") as failure:
            await append(store, thread_id, message("1"))

        assert "0.2 s" in str(failure.value)
        assert events == []
        own_redis.start()
        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
        assert [event.items for event in events if isinstance(event, ItemsAppended)] == [1]
        assert texts(await history(store, thread_id)) == numbers(2)


async def test_tasks_that_redis_lost_are_sent_again_in_order(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store)

    own_redis.client.flushall()

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(10)


async def test_a_short_flush_resends_lost_tasks_while_other_threads_are_acknowledged(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """Acknowledgements of other threads must not keep the flush from asking."""
    thread_id = await appended(store, 3)
    own_redis.client.delete(*own_redis.client.scan_iter(f"{own_settings.key_prefix}:*:{thread_id}"))

    async def acknowledge_others() -> None:
        while True:
            store._progress.note_publication()
            await asyncio.sleep(0.01)

    others = asyncio.create_task(acknowledge_others())
    async with draining(own_worker):
        await store.flush_thread(FlushThreadParams(thread_id=thread_id, timeout_s=6))
    others.cancel()

    assert texts(await history(store, thread_id)) == numbers(3)


async def test_every_flush_reports_that_redis_is_down(store: QueuedThreadStore, own_redis: RedisServer) -> None:
    threads = [await appended(store, 1) for _ in range(10)]
    own_redis.kill()

    flushes = (store.flush_thread(FlushThreadParams(thread_id=each, timeout_s=0.5)) for each in threads)
    errors = await asyncio.gather(*flushes, return_exceptions=True)

    own_redis.start()
    assert [type(error) for error in errors] == [Unavailable] * 10
    assert all("does not answer" in str(error) for error in errors)


async def test_lost_tasks_are_sent_again_before_newer_ones(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await appended(store, 5)
    own_redis.client.flushall()

    for n in range(5, 10):
        await append(store, thread_id, message(f"{n}"))

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(10)


async def test_applied_tasks_without_an_acknowledgement_are_resent_but_not_rewritten(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """The acknowledgement is lost with the connection."""
    thread_id = await appended(store, 5)
    own_redis.client.client_kill_filter(_type="pubsub")
    await asyncio.to_thread(own_worker.drain)
    await append(store, thread_id, message("5"))

    own_redis.client.flushall()

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(6)


async def test_lost_tasks_are_applied_though_another_writer_appends_first(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """The first writer's creation was not acknowledged, so it is sent again, too."""
    thread_id = await appended(store, 2)
    own_redis.client.client_kill_filter(_type="pubsub")
    await asyncio.to_thread(own_worker.drain)
    await append(store, thread_id, message("2"))
    own_redis.client.flushall()
    # On a slow machine, the first store may resend first: then the other waits for it.
    async with opened(own_settings) as other, draining(own_worker):
        await other.resume_thread(ResumeThreadParams(thread_id=thread_id))
        await append(other, thread_id, message("other"))
        await flush(store, thread_id, timeout_s=15)
        await flush(other, thread_id, timeout_s=15)

    stored = texts(await history(store, thread_id))
    assert [text for text in stored if text != "other"] == numbers(3)
    assert stored.count("other") == 1


async def test_a_lost_task_does_not_count_as_applied_when_another_writers_does(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """Positions mean nothing once Redis lost data; writer and counter identify a task."""
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


async def test_a_lost_append_with_an_expected_position_is_applied(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread_id = await new_thread(store)
    first = await append(store, thread_id, message("0"))
    await append(store, thread_id, message("1"), expected=first.position)

    own_redis.client.flushall()

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(2)


async def test_lost_tasks_are_applied_though_another_writer_fills_the_mailbox(
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
        with pytest.raises(Unavailable):  # the mailbox is full, and no worker drains it
            await flush(store, thread_id, timeout_s=0.3)

        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
            await flush(other, thread_id, timeout_s=15)

        stored = texts(await history(store, thread_id))
    assert [text for text in stored if text != "other"] == numbers(6)
    assert stored.count("other") == 4


async def test_an_accepted_task_is_kept_though_redis_refuses_it_when_resent(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """A flush sends the last task again; out of memory, Redis refuses the call."""
    thread_id = await appended(store, 3)
    own_redis.client.config_set("maxmemory", 1)

    with pytest.raises(ThreadStoreError):  # no worker applies it
        await flush(store, thread_id, timeout_s=0.3)

    own_redis.client.config_set("maxmemory", 0)
    await append(store, thread_id, message("3"))
    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(4)


async def test_an_append_after_lost_tasks_that_redis_refuses_stays_queued(
    own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """Redis lost tasks that it had accepted, and has no memory to take them again: the next append must not overtake."""
    async with opened(own_settings.model_copy(update={"enqueue_timeout_s": 0.2})) as store:
        thread_id, other = await appended(store, 3), await new_thread(store)
        own_redis.client.flushall()
        own_redis.client.config_set("maxmemory", 1)

        for n in (3, 4):
            with pytest.raises(Unavailable, match=f"{thread_id} within 0.2 s .*out of memory") as failure:
                await append(store, thread_id, message(f"{n}"))
            assert failure.value.is_queued
        with pytest.raises(ResourceExhausted):
            await append(store, other, message("refused"))

        own_redis.client.config_set("maxmemory", 0)
        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
        assert texts(await history(store, thread_id)) == numbers(5)


async def test_a_reply_that_may_pass_is_never_an_internal_error(
    own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """If a right for a command in a script is missing, Redis reports an error of the script."""
    redis: Any = own_redis.client  # redis-py leaves execute_command unannotated
    redis.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    url = f"{own_redis.url}&username=app&password=secret"
    async with opened(own_settings.model_copy(update={"redis_url": url, "enqueue_timeout_s": 0.2})) as store:
        thread_id = await appended(store, 1)
        for n, right in enumerate(["xadd", "evalsha", "@all"], start=1):
            redis.execute_command("ACL", "SETUSER", "app", f"-{right}")
            with pytest.raises(Unavailable, match="no permissions") as failure:
                await append(store, thread_id, message(f"{n}"))
            assert failure.value.is_queued
            redis.execute_command("ACL", "SETUSER", "app", f"+{right}")

        async with draining(own_worker):
            await flush(store, thread_id, timeout_s=15)
        assert texts(await history(store, thread_id)) == numbers(4)


async def test_an_append_refused_for_lack_of_memory_can_be_repeated(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """It is the thread's first append, so the creation is refused with it."""
    thread_id = await new_thread(store)
    own_redis.client.config_set("maxmemory", 1)
    with pytest.raises(ResourceExhausted, match="out of memory"):
        await append(store, thread_id, message("0"))
    own_redis.client.config_set("maxmemory", 0)

    await append(store, thread_id, message("0"))

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == numbers(1)


async def test_an_unexpected_error_of_redis_is_raised_and_other_threads_go_on(
    store: QueuedThreadStore, own_settings: Settings, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """The mailbox's Redis key holds a string instead of a stream."""
    broken, good = await new_thread(store), await new_thread(store)
    key = names.ShardKeys(own_settings.key_prefix, 0).mailbox(broken)
    own_redis.client.set(key, "not a stream")

    with pytest.raises(Internal, match="WRONGTYPE"):
        await append(store, broken, message("0"))

    await append(store, good, message("0"))
    async with draining(own_worker):
        await flush(store, good, timeout_s=15)
    assert texts(await history(store, good)) == numbers(1)


async def test_an_append_that_times_out_before_it_is_sent_is_still_stored(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """While Redis hangs in another thread's call, this thread's first append times out."""
    busy, thread_id = await new_thread(store), await new_thread(store)
    own_redis.pause()
    try:
        pending = asyncio.ensure_future(append(store, busy, message("0")))
        await eventually(lambda: bool(store._threads.require(busy).queue and store._threads.require(busy).queue[0].n))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await append(store, thread_id, message("cancelled"))
    finally:
        own_redis.go_on()
    await pending

    await append(store, thread_id, message("next"))

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert texts(await history(store, thread_id)) == ["cancelled", "next"]


async def test_a_cancelled_append_is_stored_though_redis_is_out_of_memory_at_first(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    """A cancelled append counts as appended, so it must not be refused afterwards."""
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
    await eventually(lambda: writer not in store._outbox._lanes[0].waiting, "the refusal")
    own_redis.client.config_set("maxmemory", 0)
    await append(store, thread_id, message("2"))

    async with draining(own_worker):
        await flush(store, thread_id, timeout_s=15)
    assert cancelled.cancelled()
    assert texts(await history(store, thread_id)) == numbers(3)


async def test_a_flush_survives_a_restart_of_redis(
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
async def test_a_store_closes_while_redis_is_down_and_a_doorbell_is_due(
    own_settings: Settings, own_redis: RedisServer, how: str
) -> None:
    try:
        async with opened(own_settings) as store:
            thread_id = await appended(store, 1)
            own_redis.kill() if how == "killed" else own_redis.pause()
            store._mailboxes._doorbell.ring(0)

        with pytest.raises(Unavailable, match="the store was closed"):
            await append(store, thread_id, message("late"))
    finally:
        own_redis.go_on()


async def test_a_lost_derived_patch_is_applied(
    store: QueuedThreadStore, own_redis: RedisServer, own_worker: HandWorker
) -> None:
    thread = await LiveThread.create(store, CreateThreadParams())
    await thread.append_items([said("A title")])

    own_redis.client.flushall()

    async with draining(own_worker):
        await thread.flush(timeout_s=15)
    stored: Any = await store.read_thread(ReadThreadParams(thread_id=thread.thread_id))
    assert (stored.title, texts(await history(store, thread.thread_id))) == ("A title", ["A title"])


async def test_a_fenced_writers_lost_tasks_are_applied_but_new_ones_refused(
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
