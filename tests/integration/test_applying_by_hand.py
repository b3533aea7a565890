"""Client and worker on a real Redis; the worker drains only when a test says so."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from celery import Celery
from tests.nodes.items import append, flush, history, message, new_thread, said, texts, update
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually, wait_until
from tests.nodes.workers import HandWorker

from livethread import (
    Conflict,
    CreateThreadParams,
    DiscardThreadParams,
    LiveThread,
    QueuedThreadStore,
    ReadThreadParams,
    Receipt,
    ResourceExhausted,
    ResumeThreadParams,
    Settings,
    TasksApplied,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadParked,
    ThreadStoreError,
    Unavailable,
)
from livethread.position import START, position_key
from livethread.queued.parked_threads import ParkedThreads
from livethread_config import names
from livethread_worker.drain import drain
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.write.batch import apply_batch

T = TypeVar("T")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "local"})


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings) as store:
        yield store


def keys(settings: Settings) -> names.ShardKeys:
    return names.ShardKeys(settings.key_prefix, 0)


async def drained_while(worker: HandWorker, call: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
    """Return the result of *call*, while the worker drains repeatedly."""
    running = asyncio.ensure_future(call)
    while not running.done():
        await asyncio.to_thread(worker.drain)
        await asyncio.wait([running], timeout=0.02)
    return await running


async def drained_until_flushed(worker: HandWorker, store: QueuedThreadStore, thread_id: str) -> None:
    await drained_while(worker, flush(store, thread_id, timeout_s=15))


async def rollout_of(store: QueuedThreadStore, thread_id: str) -> Path:
    path = (await store.read_thread(ReadThreadParams(thread_id=thread_id))).rollout_path
    assert path is not None
    return path


# -- no worker ---------------------------------------------------------------------------------------------


async def test_without_a_worker_a_flush_fails_and_the_tasks_are_applied_later(
    store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    thread_id = await new_thread(store)
    for n in range(5):
        await append(store, thread_id, message(f"{n}"))

    with pytest.raises(Unavailable, match=r"(?i)within 0\.05 s.*nothing is lost.*is a worker running") as failure:
        await flush(store, thread_id, timeout_s=0.05)

    assert thread_id in str(failure.value)
    await asyncio.to_thread(hand_worker.drain)
    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == [f"{n}" for n in range(5)]


@pytest.mark.parametrize("call", ["progress", "backlogs"])
async def test_a_wait_ends_in_time_although_redis_py_swallows_its_cancellation(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    impatient = settings.model_copy(update={"flush_timeout_s": 0.1})
    async with opened(impatient) as writing, opened(impatient) as reading:
        thread_id = await new_thread(writing)
        await append(writing, thread_id, message("one"))
        store = writing if call == "progress" else reading
        ask = getattr(store._mailboxes, call)

        async def swallowing(*args: Any) -> object:
            answer = await ask(*args)
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.2)
            return answer

        monkeypatch.setattr(store._mailboxes, call, swallowing)
        if call == "progress":
            waiting = asyncio.create_task(flush(store, thread_id))
        else:
            waiting = asyncio.create_task(fresh_read(store, thread_id))
        await asyncio.wait([waiting], timeout=3)

        assert waiting.done()
        with pytest.raises(Unavailable, match=r"within 0\.1 s"):
            await waiting


async def fresh_read(store: QueuedThreadStore, thread_id: str) -> None:
    await store.read_thread(ReadThreadParams(thread_id=thread_id, fresh=True))


async def test_a_shutdown_that_times_out_leaves_the_thread_open(settings: Settings, hand_worker: HandWorker) -> None:
    async with opened(settings.model_copy(update={"flush_timeout_s": 0.05})) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        await thread.append_items([message("one")])
        with pytest.raises(Unavailable):
            await thread.shutdown()
        await thread.append_items([message("two")])

        await drained_while(hand_worker, thread.shutdown(timeout_s=15))

        assert texts(await history(store, thread.thread_id)) == ["one", "two"]


async def test_an_acknowledgement_before_the_receipt_reaches_observers_and_flushes(
    store: QueuedThreadStore, hand_worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's message may come before Redis' answer to the append."""
    thread_id = await new_thread(store)
    writer, enqueue = store._threads.require(thread_id), store._mailboxes.enqueue
    applied: list[str] = []

    def note(event: object) -> None:
        if isinstance(event, TasksApplied):
            applied.append(event.position)

    async def enqueue_with_late_answer(*arguments: Any) -> Any:
        answer = await enqueue(*arguments)
        await asyncio.to_thread(hand_worker.drain)
        await eventually(lambda: writer.applied != START, "the worker's message")
        return answer

    async def ask(*_: object) -> None:
        raise AssertionError("the store asked Redis for an acknowledgement")

    monkeypatch.setattr(store._mailboxes, "enqueue", enqueue_with_late_answer)
    monkeypatch.setattr(store._progress, "ask", ask)
    store.observers.subscribe(note)

    receipt = await append(store, thread_id, message("one"))
    await flush(store, thread_id)

    assert applied == [receipt.position]


async def test_a_flush_waits_for_earlier_appends_but_not_for_later_ones(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis_server: RedisServer
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("before"))
    flushing = asyncio.ensure_future(flush(store, thread_id))
    await asyncio.sleep(0)  # the flush has begun
    await asyncio.to_thread(hand_worker.drain)
    await append(store, thread_id, message("after"))

    await flushing

    assert redis_server.client.xlen(keys(settings).mailbox(thread_id)) == 1


async def test_a_read_of_an_open_thread_waits_for_its_tasks(
    store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    reading = asyncio.ensure_future(history(store, thread_id))
    await asyncio.wait([reading], timeout=0.05)
    waited = not reading.done()

    await asyncio.to_thread(hand_worker.drain)

    assert waited
    assert texts(await reading) == ["one"]


async def test_a_read_waits_for_a_patch_to_a_thread_that_is_not_open(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await asyncio.to_thread(hand_worker.drain)
    async with opened(settings) as other:
        await update(other, thread_id, ThreadMetadataPatch(name="A name"))
        reading = asyncio.ensure_future(other.read_thread(ReadThreadParams(thread_id=thread_id)))
        await asyncio.wait([reading], timeout=0.05)

        await asyncio.to_thread(hand_worker.drain)

        assert (await reading).name == "A name"


async def started(store: QueuedThreadStore, worker: HandWorker) -> Receipt:
    """Return the receipt of the first append to a new thread, after it is applied."""
    thread_id = await new_thread(store)
    receipt = await append(store, thread_id, message("start"))
    await drained_while(worker, flush(store, thread_id))
    return receipt


async def overtaken(store: QueuedThreadStore, other: QueuedThreadStore, start: Receipt) -> Conflict:
    """Have *other* append after *start*; return the conflict of *store*, which expects *start* to be the last."""
    await other.resume_thread(ResumeThreadParams(thread_id=start.thread_id))
    theirs = await append(other, start.thread_id, message("theirs"))
    with pytest.raises(Conflict) as conflict:
        await append(store, start.thread_id, message("stale"), expected=start.position)
    assert conflict.value.last_position == theirs.position
    return conflict.value


async def test_a_read_after_a_conflict_shows_the_other_stores_append(
    settings: Settings, store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    start = await started(store, hand_worker)
    async with opened(settings) as other:
        conflict = await overtaken(store, other, start)
        reading = asyncio.ensure_future(history(store, start.thread_id))
        await asyncio.wait([reading], timeout=0.05)
        assert not reading.done()  # no worker has applied it yet

        assert texts(await drained_while(hand_worker, reading)) == ["start", "theirs"]
        await append(store, start.thread_id, message("mine"), expected=conflict.last_position)


@pytest.mark.parametrize(
    ("what", "is_applied", "left"), [("applied", True, ["start", "theirs"]), ("mailbox", False, ["start"])]
)
async def test_a_read_after_a_conflict_does_not_wait_for_what_redis_lost(
    settings: Settings,
    store: QueuedThreadStore,
    hand_worker: HandWorker,
    what: str,
    left: list[str],
    *,
    is_applied: bool,
) -> None:
    """Redis expires a thread's applied position, and may lose its mailbox."""
    start = await started(store, hand_worker)
    async with opened(settings) as other:
        await overtaken(store, other, start)
        if is_applied:
            await drained_while(hand_worker, flush(other, start.thread_id))
        hand_worker.redis.delete(getattr(keys(settings), what)(start.thread_id))

        async with asyncio.timeout(5):
            assert texts(await history(store, start.thread_id)) == left
        await other.discard_thread(DiscardThreadParams(thread_id=start.thread_id))


async def test_a_read_does_not_wait_for_tasks_that_redis_lost(
    settings: Settings, store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    start = await started(store, hand_worker)
    async with opened(settings) as other:
        await update(other, start.thread_id, ThreadMetadataPatch(name="A name"))
        for key in hand_worker.redis.scan_iter(f"{settings.key_prefix}:*"):
            hand_worker.redis.delete(key)

        async with asyncio.timeout(5):
            assert texts(await history(other, start.thread_id)) == ["start"]


async def test_a_resume_waits_for_the_tasks_in_the_mailbox(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await update(store, thread_id, ThreadMetadataPatch(name="A name"))
    async with opened(settings) as other:
        resuming = asyncio.ensure_future(other.resume_thread(ResumeThreadParams(thread_id=thread_id)))
        await asyncio.wait([resuming], timeout=0.05)
        waited = not resuming.done()

        await asyncio.to_thread(hand_worker.drain)

        assert waited
        assert (await resuming).name == "A name"


# -- the mailbox's bound -----------------------------------------------------------------------------------


async def test_a_full_mailbox_refuses_an_append_until_a_drain(settings: Settings, hand_worker: HandWorker) -> None:
    async with opened(settings.model_copy(update={"mailbox_max_tasks": 3})) as store:
        thread_id, other = await new_thread(store), await new_thread(store)
        for n in range(2):  # plus the creation
            await append(store, thread_id, message(f"{n}"))

        with pytest.raises(ResourceExhausted, match=r"3 tasks of thread .* wait to be applied"):
            await append(store, thread_id, message("refused"))

        await append(store, other, message("another thread"))
        await asyncio.to_thread(hand_worker.drain)
        await append(store, thread_id, message("2"))
        await asyncio.to_thread(hand_worker.drain)
        await flush(store, thread_id)
        assert texts(await history(store, thread_id)) == ["0", "1", "2"]


async def test_an_append_refused_by_a_full_mailbox_stores_nothing(
    settings: Settings, hand_worker: HandWorker
) -> None:
    """Otherwise a caller that appends again would store the items twice. The derived patch is a task, too."""
    async with opened(settings.model_copy(update={"mailbox_max_tasks": 2})) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        accepted = []
        for n in range(10):
            try:
                await thread.append_items([said(f"{n}")])
            except ResourceExhausted:
                break
            accepted.append(f"{n}")

        await asyncio.to_thread(hand_worker.drain)
        await drained_while(hand_worker, thread.flush(timeout_s=15))
        assert texts(await history(store, thread.thread_id)) == accepted


async def test_a_live_thread_with_a_small_mailbox_stores_every_item_once(
    settings: Settings, hand_worker: HandWorker
) -> None:
    async with opened(settings.model_copy(update={"mailbox_max_tasks": 3})) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        for n in range(10):
            while True:
                try:
                    await thread.append_items([said(f"{n}")])
                    break
                except ResourceExhausted:
                    await asyncio.to_thread(hand_worker.drain)

        await asyncio.to_thread(hand_worker.drain)
        await drained_while(hand_worker, thread.flush(timeout_s=15))
        assert texts(await history(store, thread.thread_id)) == [f"{n}" for n in range(10)]


@pytest.fixture
def patient(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"mailbox_max_tasks": 3, "backpressure": "wait", "backpressure_timeout_s": 20.0}
    )


async def test_appends_wait_for_room_until_a_worker_drains_and_keep_their_order(
    patient: Settings, hand_worker: HandWorker
) -> None:
    async with opened(patient) as store:
        thread_id = await new_thread(store)
        waiting = [asyncio.ensure_future(append(store, thread_id, message(f"{n}"))) for n in range(20)]
        await asyncio.wait(waiting[:2], timeout=15)
        await asyncio.wait(waiting[2:], timeout=0.1)
        accepted = [task.done() for task in waiting]

        receipts = await drained_while(hand_worker, asyncio.wait_for(asyncio.gather(*waiting), 15))

        assert accepted == [True] * 2 + [False] * 18
        positions = [position_key(receipt.position) for receipt in receipts]
        assert positions == sorted(set(positions))
        await drained_until_flushed(hand_worker, store, thread_id)
        assert texts(await history(store, thread_id)) == [f"{n}" for n in range(20)]


async def test_two_writers_wait_for_room_in_the_same_mailbox(patient: Settings, hand_worker: HandWorker) -> None:
    """Neither reaches its own bound: Redis reports that the mailbox is full."""
    async with opened(patient) as store, opened(patient) as other:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("mine 0"))
        await asyncio.to_thread(hand_worker.drain)
        await other.resume_thread(ResumeThreadParams(thread_id=thread_id))
        waiting = [
            asyncio.ensure_future(append(each, thread_id, message(f"{whose} {n}")))
            for n in range(1, 4)
            for each, whose in ((store, "mine"), (other, "theirs"))
        ]
        await asyncio.wait(waiting, timeout=0.1)
        accepted = sum(task.done() for task in waiting)

        await drained_while(hand_worker, asyncio.wait_for(asyncio.gather(*waiting), 15))
        await drained_until_flushed(hand_worker, store, thread_id)
        await drained_until_flushed(hand_worker, other, thread_id)

        assert accepted == 3
        said = texts(await history(store, thread_id))
        assert [text for text in said if text.startswith("mine")] == [f"mine {n}" for n in range(4)]
        assert [text for text in said if text.startswith("theirs")] == [f"theirs {n}" for n in range(1, 4)]


async def test_an_append_that_waits_in_vain_or_is_cancelled_stores_nothing(
    patient: Settings, hand_worker: HandWorker
) -> None:
    async with opened(patient.model_copy(update={"backpressure_timeout_s": 0.3})) as store, opened(patient) as other:
        thread = await LiveThread.create(store, CreateThreadParams())
        await thread.append_items([message("0")])
        await asyncio.to_thread(hand_worker.drain)
        await other.resume_thread(ResumeThreadParams(thread_id=thread.thread_id))
        for n in range(3):
            await append(other, thread.thread_id, message(f"other {n}"))

        cancelled = asyncio.ensure_future(thread.append_items([said("cancelled")]))
        too_long = asyncio.ensure_future(thread.append_items([said("too long")]))
        writer = store._threads.require(thread.thread_id)
        await eventually(lambda: writer.queue and writer.queue[0].is_postponed, "the answer")
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(ResourceExhausted, match="has 3 unapplied tasks"):
            await too_long

        await asyncio.to_thread(hand_worker.drain)
        await thread.append_items([said("a title")])
        await drained_while(hand_worker, thread.flush(timeout_s=15))
        assert texts(await history(store, thread.thread_id)) == ["0", "other 0", "other 1", "other 2", "a title"]
        assert (await thread.read_thread()).title == "a title"


async def test_appends_wait_for_room_in_bytes(patient: Settings, hand_worker: HandWorker) -> None:
    bounded = patient.model_copy(update={"mailbox_max_tasks": 100, "outbox_max_bytes": 4096})
    async with opened(bounded) as store:
        threads = [await new_thread(store) for _ in range(3)]
        waiting = [
            asyncio.ensure_future(append(store, thread_id, message("x" * 700)))
            for _ in range(4)
            for thread_id in threads
        ]
        await asyncio.wait(waiting, timeout=0.1)
        accepted = sum(task.done() for task in waiting)

        await drained_while(hand_worker, asyncio.wait_for(asyncio.gather(*waiting), 15))

        assert 0 < accepted < 12
        for thread_id in threads:
            await drained_until_flushed(hand_worker, store, thread_id)
            assert len(await history(store, thread_id)) == 4


@pytest.mark.parametrize("backpressure", ["refuse", "wait"])
async def test_a_thread_is_not_created_if_its_first_append_has_no_room(
    patient: Settings, hand_worker: HandWorker, backpressure: str
) -> None:
    bounded = {"outbox_max_bytes": 3000, "backpressure": backpressure, "backpressure_timeout_s": 0.1}
    async with opened(patient.model_copy(update=bounded)) as store:
        full, thread_id = await new_thread(store), await new_thread(store)
        await append(store, full, message("x" * 1500))

        with pytest.raises(ResourceExhausted, match="bytes of tasks wait to be applied"):
            await append(store, thread_id, message("x" * 900))

        await drained_until_flushed(hand_worker, store, full)
        with pytest.raises(ThreadNotFound):
            await store.read_thread(ReadThreadParams(thread_id=thread_id))
        await append(store, thread_id, message("y" * 900))
        await drained_until_flushed(hand_worker, store, thread_id)
        assert texts(await history(store, thread_id)) == ["y" * 900]


async def test_discarding_a_thread_ends_the_waits_for_room_in_it(patient: Settings, hand_worker: HandWorker) -> None:
    async with opened(patient) as store:
        thread_id = await new_thread(store)
        waiting = [asyncio.ensure_future(append(store, thread_id, message(f"{n}"))) for n in range(4)]
        await asyncio.wait(waiting, timeout=0.1)

        await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

        async with asyncio.timeout(5):
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [Receipt] * 2 + [ThreadNotFound] * 2


# -- parking -----------------------------------------------------------------------------------------------


async def a_parked_thread(store: QueuedThreadStore, worker: HandWorker) -> tuple[str, Path, Path]:
    """Return a thread that is parked because its rollout was moved, and both paths."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await asyncio.to_thread(worker.drain)
    await flush(store, thread_id)
    path = await rollout_of(store, thread_id)
    away = path.with_suffix(".away")
    path.rename(away)
    await append(store, thread_id, message("two"))
    await asyncio.to_thread(worker.drain)
    return thread_id, path, away


async def test_a_thread_without_its_rollout_is_parked_and_a_flush_gives_the_reason(
    store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    thread_id, _, _ = await a_parked_thread(store, hand_worker)

    with pytest.raises(ThreadParked, match="ThreadNotFound") as failure:
        await flush(store, thread_id)

    assert failure.value.thread_id == thread_id
    assert "are kept, in order" in str(failure.value)


async def test_a_worker_logs_which_thread_it_parked_and_why(
    store: QueuedThreadStore, hand_worker: HandWorker, caplog: pytest.LogCaptureFixture
) -> None:
    thread_id, _, _ = await a_parked_thread(store, hand_worker)

    [line] = [record for record in caplog.records if getattr(record, "action", "") == "park"]
    mailbox = names.ShardKeys(store._settings.key_prefix, 0).mailbox(thread_id)
    waiting: Any = hand_worker.redis.xrange(mailbox)
    position = waiting[0][0].decode()

    shown = logging.Formatter(Celery(set_as_current=False).conf.worker_log_format).format(line)
    assert f"thread {thread_id} is parked at {position}: ThreadNotFound" in shown
    assert vars(line)["thread_id"] == thread_id
    assert (vars(line)["shard"], vars(line)["position"]) == (0, position)
    assert "two" not in shown


async def test_other_threads_go_on_while_one_is_parked(store: QueuedThreadStore, hand_worker: HandWorker) -> None:
    parked, _, _ = await a_parked_thread(store, hand_worker)
    await append(store, parked, message("three"))
    other = await new_thread(store)
    await append(store, other, message("one"))

    await asyncio.to_thread(hand_worker.drain)

    await flush(store, other)
    assert texts(await history(store, other)) == ["one"]


async def test_an_unparked_thread_is_applied_in_order_once_its_cause_is_fixed(
    store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    thread_id, path, away = await a_parked_thread(store, hand_worker)
    with pytest.raises(ThreadParked):
        await flush(store, thread_id)
    await append(store, thread_id, message("three"))

    away.rename(path)
    parked_threads = ParkedThreads(store._mailboxes)
    await parked_threads.unpark(await parked_threads.require(thread_id))
    await asyncio.to_thread(hand_worker.drain)

    await eventually(lambda: not store._threads.require(thread_id).has_outstanding, "the publication")
    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["one", "two", "three"]


async def test_a_flush_after_an_unpark_waits_for_the_worker(
    store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    thread_id, path, away = await a_parked_thread(store, hand_worker)
    with pytest.raises(ThreadParked):
        await flush(store, thread_id)

    away.rename(path)
    parked_threads = ParkedThreads(store._mailboxes)
    await parked_threads.unpark(await parked_threads.require(thread_id))

    await drained_until_flushed(hand_worker, store, thread_id)


async def test_a_failing_thread_is_retried_and_parked_after_the_last_attempt(
    settings: Settings, redis_server: RedisServer, hand_worker: HandWorker
) -> None:
    """A symlink at the rollout's path raises `OSError`, as a full disk does."""
    hand_worker.settings = settings.model_copy(update={"park_after_attempts": 2})
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        await asyncio.to_thread(hand_worker.drain)
        await flush(store, thread_id)
        path = await rollout_of(store, thread_id)
        path.rename(path.with_suffix(".away"))
        path.symlink_to(path.with_suffix(".away"))
        await append(store, thread_id, message("two"))

        await asyncio.to_thread(hand_worker.drain)
        after_one = (
            [value.partition(b" ")[0] for value in redis_server.client.hvals(keys(settings).attempts)],  # type: ignore[arg-type]  # bytes
            redis_server.client.hlen(keys(settings).parked),
        )
        wait_until(lambda: hand_worker.drain()["parked"], "a parked thread")

        assert after_one == ([b"1"], 0)
        with pytest.raises(ThreadParked, match="failed 2 times"):
            await flush(store, thread_id)


async def test_a_locked_thread_waits_without_counting_an_attempt(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis_server: RedisServer
) -> None:
    """codex holds the same lock while it writes a thread."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    lock = Path(hand_worker.home.thread_lock(thread_id))
    hand_worker.home.create()
    hold = (
        "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.flock(f,fcntl.LOCK_EX); print('held',flush=True); input()"
    )
    holder = subprocess.Popen(  # noqa: ASYNC220 - the loop has nothing else to do
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        counts = await asyncio.to_thread(hand_worker.drain)
        attempts = redis_server.client.hgetall(keys(settings).attempts)
        due = redis_server.client.zscore(keys(settings).ready, thread_id)
    finally:
        holder.communicate("\n")

    why = f"0 {thread_id}.lock is held by another writer".encode()
    assert (counts["put_back"], counts["tasks"], attempts) == (1, 0, {thread_id.encode(): why})
    assert due is not None
    await drained_until_flushed(hand_worker, store, thread_id)
    assert texts(await history(store, thread_id)) == ["one"]


async def test_a_thread_that_is_put_back_again_and_again_is_logged_once_for_each_reason(
    store: QueuedThreadStore,
    hand_worker: HandWorker,
    settings: Settings,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("zero"))
    await drained_until_flushed(hand_worker, store, thread_id)

    async def put_back(times: int) -> None:
        with file_lock(hand_worker.home.thread_lock(thread_id)):
            for _ in range(times):
                assert (await asyncio.to_thread(hand_worker.drain))["put_back"] == 1
                redis_server.client.zadd(keys(settings).ready, {thread_id: 1})  # as after the wait

    first = await append(store, thread_id, message("one"))
    await put_back(3)
    await drained_until_flushed(hand_worker, store, thread_id)
    second = await append(store, thread_id, message("two"))
    await put_back(1)

    why = f"{thread_id}.lock is held by another writer"
    logged = [record for record in caplog.records if getattr(record, "action", "") == "put_back"]
    assert [record.getMessage() for record in logged if record.levelno == logging.WARNING] == [
        f"thread {thread_id} is put back at {position}: {why}" for position in (first.position, second.position)
    ]


async def test_an_entry_that_is_not_a_task_parks_its_thread_after_the_tasks_before_it(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings, redis_server: RedisServer
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    redis_server.client.xadd(keys(settings).mailbox(thread_id), {"junk": "1"}, id="99999999999999-0")

    await asyncio.to_thread(hand_worker.drain)

    reason = json.loads(redis_server.client.hget(keys(settings).parked, thread_id) or b"{}")["reason"]
    assert reason.startswith("the entry at 99999999999999-0 is not a task")
    lines = next(settings.home.glob(f"sessions/*/*/*/*{thread_id}.jsonl")).read_bytes().splitlines()
    assert len(lines) == 2


# -- workers -----------------------------------------------------------------------------------------------


async def test_a_task_of_a_worker_that_died_before_it_settled_is_not_written_again(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    """The next worker finds the writer's counter in the index."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"), message("two"))
    dead = hand_worker.mailbox()
    dead._settings = settings.model_copy(update={"claim_ttl_s": 0.001})
    _, [claim] = dead.claim()
    apply_batch(hand_worker.home, hand_worker.index(), {thread_id: claim.entries}, sync=True)

    await append(store, thread_id, message("three"))
    await drained_until_flushed(hand_worker, store, thread_id)

    assert texts(await history(store, thread_id)) == ["one", "two", "three"]


async def test_a_half_written_task_is_completed_and_its_torn_line_quarantined(
    store: QueuedThreadStore, hand_worker: HandWorker, settings: Settings
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"), message("two"), message("three"))
    dead = hand_worker.mailbox()
    dead._settings = settings.model_copy(update={"claim_ttl_s": 0.001})
    _, [claim] = dead.claim()
    apply_batch(hand_worker.home, hand_worker.index(), {thread_id: claim.entries}, sync=True)
    path = next(settings.home.glob(f"sessions/*/*/*/*{thread_id}.jsonl"))
    whole = path.read_bytes()
    # Undo the transaction, and cut the write in the third line.
    hand_worker.index().db.conn.execute("DELETE FROM rollouts")
    hand_worker.index().db.conn.execute("DELETE FROM threads")
    hand_worker.index().db.conn.execute("DELETE FROM writers")
    os.truncate(path, whole.index(b"two") + 20)

    await drained_until_flushed(hand_worker, store, thread_id)

    assert path.read_bytes() == whole
    assert len(list((settings.home / "livethread" / "quarantine").iterdir())) == 1


async def test_a_drain_that_finds_nothing_ends_without_a_doorbell(
    store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    counts = await asyncio.to_thread(hand_worker.drain)

    assert counts == {"batches": 0, "threads": 0, "tasks": 0, "lines": 0, "put_back": 0, "parked": 0}
    assert hand_worker.rings == 0


async def test_a_drain_returns_its_counts(store: QueuedThreadStore, hand_worker: HandWorker) -> None:
    for _ in range(3):
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"), message("two"))

    counts = await asyncio.to_thread(hand_worker.drain)

    assert counts == {"batches": 1, "threads": 3, "tasks": 6, "lines": 6, "put_back": 0, "parked": 0}


async def test_a_drain_leaves_no_message_unindexed(store: QueuedThreadStore, hand_worker: HandWorker) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    await asyncio.to_thread(hand_worker.drain)

    assert hand_worker.index().db.execute("SELECT count(*) FROM messages_fts_docsize").fetchone()[0] == 1


async def test_an_idle_drain_repeats_maintenance_while_there_is_more(
    store: QueuedThreadStore, hand_worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, done = iter([True, True, False]), []

    def maintain(_index: Index, *, is_idle: bool = False) -> bool:
        done.append(is_idle)
        return is_idle and next(more)

    monkeypatch.setattr(Index, "maintain", maintain)
    await append(store, await new_thread(store), message("one"))

    await asyncio.to_thread(hand_worker.drain)

    assert done == [False, True, True, True]


async def test_a_drain_ends_though_maintenance_never_finishes(
    store: QueuedThreadStore, hand_worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def maintain(_index: Index, *, is_idle: bool = False) -> bool:
        done.append(is_idle)
        return True

    monkeypatch.setattr(Index, "maintain", maintain)
    monkeypatch.setattr(drain, "MAX_IDLE_MAINTENANCE", 0.0)
    await append(store, await new_thread(store), message("one"))

    await asyncio.to_thread(hand_worker.drain)

    assert done == [False, True]


@pytest.mark.parametrize("fault", [IndexUnavailable("locked"), Unavailable("no home")])
async def test_a_drain_succeeds_though_maintenance_fails(
    store: QueuedThreadStore, hand_worker: HandWorker, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    for_the_batch = iter([hand_worker.index()])

    def open_index() -> Index:
        for index in for_the_batch:
            return index
        raise fault

    monkeypatch.setattr(hand_worker, "index", open_index)
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    counts = await asyncio.to_thread(hand_worker.drain)

    assert counts["tasks"] == 2
    await flush(store, thread_id)


@pytest.mark.parametrize("fault", [IndexUnavailable("a newer release made it"), Unavailable("no home")])
async def test_an_index_that_cannot_be_opened_parks_no_thread(
    store: QueuedThreadStore,
    settings: Settings,
    hand_worker: HandWorker,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
) -> None:
    def fail() -> Index:
        raise fault

    hand_worker.settings = settings.model_copy(update={"park_after_attempts": 1})
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    with monkeypatch.context() as patched:
        patched.setattr(hand_worker, "index", fail)
        counts = await asyncio.to_thread(hand_worker.drain)

    assert (counts["parked"], counts["put_back"] > 0) == (0, True)
    await drained_until_flushed(hand_worker, store, thread_id)
    assert texts(await history(store, thread_id)) == ["one"]


# -- conflicts, cancellation and closing -------------------------------------------------------------------


async def test_creating_the_same_thread_in_a_second_process_conflicts(
    store: QueuedThreadStore, settings: Settings, hand_worker: HandWorker
) -> None:
    async with opened(settings) as other:
        thread_id = await new_thread(store)
        await new_thread(other, thread_id=thread_id)
        await append(store, thread_id, message("mine"))

        with pytest.raises(Conflict, match="exists"):
            await append(other, thread_id, message("theirs"))

    await asyncio.to_thread(hand_worker.drain)
    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["mine"]


async def test_a_cancelled_append_leaves_the_thread_usable(store: QueuedThreadStore, hand_worker: HandWorker) -> None:
    thread_id = await new_thread(store)
    cancelled = asyncio.ensure_future(append(store, thread_id, message("cancelled")))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)

    await append(store, thread_id, message("one"))

    await drained_until_flushed(hand_worker, store, thread_id)
    assert texts(await history(store, thread_id))[-1] == "one"


async def test_a_closed_store_raises_instead_of_waiting(settings: Settings) -> None:
    async with opened(settings) as store:
        thread_id = await new_thread(store)
    async with asyncio.timeout(5):
        with pytest.raises(ThreadStoreError):
            await append(store, thread_id, message("late"))


@pytest.mark.parametrize("turns", range(5))
async def test_a_store_closes_while_an_answer_arrives(settings: Settings, turns: int) -> None:
    """redis-py must not swallow a cancellation that coincides with an answer."""
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        pending = asyncio.ensure_future(append(store, thread_id, message("two")))
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(0.02)  # noqa: ASYNC251 - the loop must not see the answer before the store is closed

    [result] = await asyncio.gather(pending, return_exceptions=True)
    assert isinstance(result, Receipt | ThreadStoreError | asyncio.CancelledError), result
