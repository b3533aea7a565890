from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tests.nodes.processes import RedisServer
from tests.unit.client.queued.faulty_mailboxes import (
    AT,
    Bell,
    FaultyMailboxes,
    LostReply,
    StoppedHalfWay,
    append,
    queue,
)

from livethread.errors import Conflict, Internal, InvalidRequest, ResourceExhausted, ThreadNotFound, Unavailable
from livethread.metadata import ThreadMetadataPatch
from livethread.ordered_tasks import CreateThread, DeleteThread, OrderedTask, UpdateThreadMetadata
from livethread.queued import outbox as outbox_module
from livethread.queued.connection import connect
from livethread.queued.parked_threads import ParkedThreads
from livethread.queued.parking import ParkedThread
from livethread.queued.writer import Submission, Writer
from livethread_config import Settings
from livethread_config.deployment import ShardEpochs
from livethread_config.names import deployment_key

A = "019a93b9-f380-7600-98ff-940e6b99603a"
B = "019a93b9-f380-7600-98ff-940e6b99603b"
DEADLINE = 4.0  # seconds; only a test that hangs takes that long
SECRET_URL = "redis://:hunter2@redis.example:6379/0"


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with a URL that appears only in messages; the tests connect to another one."""
    return settings.model_copy(update={"redis_url": SECRET_URL, "mailbox_max_tasks": 3})


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_FIRST", 0.0)
    monkeypatch.setattr(outbox_module, "OFFER_AGAIN", 0.001)


@pytest.fixture
async def mailboxes(redis_server: RedisServer, settings: Settings, bell: Bell) -> AsyncIterator[FaultyMailboxes]:
    async with sending(redis_server, settings, bell) as mailboxes:
        yield mailboxes


@pytest.fixture
async def impatient(redis_server: RedisServer, settings: Settings, bell: Bell) -> AsyncIterator[FaultyMailboxes]:
    """Mailboxes whose callers time out at once."""
    async with sending(redis_server, settings.model_copy(update={"enqueue_timeout_s": 1e-9}), bell) as mailboxes:
        yield mailboxes


@asynccontextmanager
async def sending(redis_server: RedisServer, settings: Settings, bell: Bell) -> AsyncIterator[FaultyMailboxes]:
    """Mailboxes whose outbox is started."""
    redis = connect(settings.model_copy(update={"redis_url": redis_server.url}))
    mailboxes = FaultyMailboxes(redis, redis_server.client, settings, bell)
    mailboxes.outbox.start()
    try:
        yield mailboxes
    finally:
        await mailboxes.outbox.stop()
        await redis.aclose()


def reply(text: str) -> Exception:
    """Return the error that redis-py makes of a reply; it strips the codes that it knows."""
    error = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
    assert isinstance(error, RedisError)
    return error


async def outcomes(*submissions: Submission) -> list[Any]:
    """Return each submission's position or error, once all are known."""
    futures = [submission.accepted for submission in submissions]
    async with asyncio.timeout(DEADLINE):
        return await asyncio.gather(*futures, return_exceptions=True)


def kept(writer: Writer) -> list[bytes]:
    """Return the lines that *writer* still holds, in order."""
    return [submission.task.lines for submission in (*writer.unapplied, *writer.queue)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - no event is set for it
            await asyncio.sleep(0.001)


async def accepted(submission: Submission) -> str:
    """Wait as the store does: cancelling ends only the wait."""
    return await asyncio.shield(submission.accepted)


async def until_sent(writer: Writer) -> None:
    """Wait until *writer* has no queued tasks."""
    async with asyncio.timeout(DEADLINE):
        while writer.queue:
            writer.changed.clear()
            await writer.changed.wait()


# -- joining -----------------------------------------------------------------------------------------------


async def test_a_task_is_sent_and_accepted_with_its_position(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)

    (submission,) = mailboxes.submit(writer, "one")

    assert await outcomes(submission) == mailboxes.positions(A)
    assert mailboxes.tasks(A) == [(writer.id, 1, b"one")]


async def test_tasks_submitted_during_a_call_are_sent_together_in_the_next_call(
    mailboxes: FaultyMailboxes,
) -> None:
    first, second = mailboxes.new_writer(A), mailboxes.new_writer(B)
    mailboxes.open.clear()
    sent = mailboxes.submit(first, "a1")
    await mailboxes.called.wait()

    for text in ("a2", "a3"):
        sent += mailboxes.submit(first, text)
    sent += mailboxes.submit(second, "b1")
    mailboxes.open.set()

    assert await outcomes(*sent) == [*mailboxes.positions(A), *mailboxes.positions(B)]
    assert mailboxes.calls == [{A: [1]}, {A: [2, 3], B: [1]}]
    assert mailboxes.lines(A) == [b"a1", b"a2", b"a3"]


async def test_a_call_sends_one_task_if_two_would_exceed_its_size_limit(
    mailboxes: FaultyMailboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "BATCH_BYTES", 6)

    sent = mailboxes.submit(mailboxes.new_writer(A), "four", "4444", "longer than any call")

    assert await outcomes(*sent) == mailboxes.positions(A)
    assert mailboxes.calls == [{A: [1]}, {A: [2]}, {A: [3]}]


async def test_the_doorbell_is_rung_only_when_redis_asks_for_it(mailboxes: FaultyMailboxes, bell: Bell) -> None:
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "loud"))
    assert bell.rung == [0]

    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "quiet: the first doorbell is outstanding"))

    assert bell.rung == [0]


async def test_a_script_that_redis_forgot_is_sent_again(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "one"))
    mailboxes.forget_scripts()

    await outcomes(*mailboxes.submit(writer, "two"))

    assert mailboxes.lines(A) == [b"one", b"two"]
    assert mailboxes.calls == [{A: [1]}, {A: [2]}]


# -- losing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "known"),
    [
        (RedisConnectionError("refused"), [0, 1]),
        (RedisTimeoutError("slow"), [0, 1]),
        (OSError("no route"), [0, 1]),
        # Only the last position of an earlier call is known, and it is safe to wait for.
        (LostReply(), [1, 1]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_call_without_a_reply_is_repeated_with_the_same_counters(
    mailboxes: FaultyMailboxes, fault: Exception, known: list[int]
) -> None:
    mailboxes.faults.extend([fault, fault])

    sent = mailboxes.submit(mailboxes.new_writer(A), "one", "two")

    positions = mailboxes.positions
    assert await outcomes(*sent) == [positions(A)[number] for number in known]
    assert mailboxes.calls == [{A: [1, 2]}] * 3
    assert mailboxes.lines(A) == [b"one", b"two"]


async def test_tasks_that_redis_lost_are_sent_again_before_new_tasks(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "one", "two"))
    mailboxes.lose_everything()

    (third,) = mailboxes.submit(writer, "three")

    assert await outcomes(third) == mailboxes.positions(A)[2:]
    assert mailboxes.lines(A) == [b"one", b"two", b"three"]
    assert [s.n for s in writer.unapplied] == [1, 2, 3]


async def test_applied_tasks_are_not_sent_again(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "one"))
    await outcomes(*mailboxes.submit(writer, "two"))
    writer.note_applied(1, "1-0")
    mailboxes.lose_everything()

    await outcomes(*mailboxes.submit(writer, "three"))

    assert mailboxes.lines(A) == [b"two", b"three"]


# -- refusing ----------------------------------------------------------------------------------------------


async def test_a_full_mailbox_refuses_tasks_one_by_one_and_later_tasks_get_new_counters(
    mailboxes: FaultyMailboxes,
) -> None:
    writer = mailboxes.new_writer(A)
    mailboxes.open.clear()
    sent = mailboxes.submit(writer, "1", "2", "3", "4", "5")
    await mailboxes.called.wait()
    mailboxes.open.set()

    results = await outcomes(*sent)

    assert results[:3] == mailboxes.positions(A)
    assert [type(result) for result in results[3:]] == [ResourceExhausted] * 2
    assert mailboxes.calls == [{A: [1, 2, 3, 4, 5]}, {A: [4]}]
    assert "has 3 unapplied tasks" in str(results[3])


async def test_only_the_first_task_fails_if_the_mailbox_has_room_again(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "1", "2", "3"))
    mailboxes.meanwhile.extend([lambda: None, partial(mailboxes.empty, A)])  # a worker took them

    refused, later = await outcomes(*mailboxes.submit(writer, "4", "5"))

    assert (type(refused), later) == (ResourceExhausted, mailboxes.positions(A)[0])
    assert mailboxes.calls[-2:] == [{A: [4, 5]}, {A: [4]}]
    assert mailboxes.tasks(A) == [(writer.id, 4, b"5")]


async def test_an_append_with_a_stale_expected_position_is_refused_alone(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "one"))
    stale, later = queue(writer, append("stale"), "0-7"), queue(writer, append("later"))
    mailboxes.outbox.send(writer)

    results = await outcomes(stale, later)

    last = mailboxes.positions(A)[0]
    assert (type(results[0]), str(results[0])) == (Conflict, str(Conflict.of_position(A, last, "0-7")))
    assert results[1] == mailboxes.positions(A)[1]
    assert mailboxes.lines(A) == [b"one", b"later"]
    assert later.n == 2


async def test_creating_a_thread_that_exists_also_fails_the_tasks_after_the_creation(
    mailboxes: FaultyMailboxes,
) -> None:
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "another writer's"))
    writer = mailboxes.new_writer(A)
    creation = queue(writer, OrderedTask(CreateThread(at=AT, session_meta={"id": A})).encode())

    results = await outcomes(creation, *mailboxes.submit(writer, "1", "2"))

    assert [(type(r), str(r)) for r in results] == [(Conflict, f"thread {A} exists; resume it instead")] * 3
    assert mailboxes.lines(A) == [b"another writer's"]


@pytest.mark.parametrize(
    ("message", "error"),
    [("OOM command not allowed when used memory > 'maxmemory'.", ResourceExhausted), ("WRONGTYPE", Internal)],
)
async def test_a_task_fails_if_redis_refuses_it_and_the_next_task_is_sent(
    mailboxes: FaultyMailboxes, message: str, error: type[Exception]
) -> None:
    writer = mailboxes.new_writer(A)
    mailboxes.faults.append(reply(message))

    (failed,) = await outcomes(*mailboxes.submit(writer, "one"))
    (accepted,) = await outcomes(*mailboxes.submit(writer, "two"))

    assert isinstance(failed, error)
    assert str(reply(message)).rstrip(".") in str(failed)
    assert [accepted] == mailboxes.positions(A)
    assert mailboxes.lines(A) == [b"two"]


async def test_a_task_that_cannot_be_encoded_fails_alone_and_blocks_no_other_task(mailboxes: FaultyMailboxes) -> None:
    odd = ThreadMetadataPatch.model_construct(_fields_set={"approval_mode"}, approval_mode=object())
    header = UpdateThreadMetadata.model_construct(op="update_thread_metadata", at=AT, patch=odd)
    writer = mailboxes.new_writer(A)
    (before,) = mailboxes.submit(writer, "before")

    with pytest.raises(InvalidRequest):
        queue(writer, OrderedTask(header).encode())
    (after,) = mailboxes.submit(writer, "after")
    (other,) = mailboxes.submit(mailboxes.new_writer(B), "other")

    assert await outcomes(before, after, other) == [*mailboxes.positions(A), *mailboxes.positions(B)]
    assert mailboxes.lines(A) == [b"before", b"after"]


# -- accepted tasks are never dropped ----------------------------------------------------------------------


async def test_an_accepted_task_is_kept_if_the_mailbox_is_full_when_it_is_sent_again(
    mailboxes: FaultyMailboxes,
) -> None:
    writer, other = mailboxes.new_writer(A), mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "mine"))
    marker = writer.marker
    mailboxes.lose_everything()
    await outcomes(*mailboxes.submit(other, "1", "2", "3"))
    calls = len(mailboxes.calls)

    mailboxes.submit(writer, "new")
    await until(lambda: len(mailboxes.calls) > calls + 3)  # the loss is noticed, and the task is offered repeatedly

    assert kept(writer) == [b"mine", b"new"]
    assert not writer.is_applied_up_to(marker)
    mailboxes.empty(A)  # a worker took them
    await until_sent(writer)
    assert mailboxes.lines(A) == [b"mine", b"new"]


async def test_an_accepted_task_is_sent_again_even_if_its_expected_position_is_gone(
    mailboxes: FaultyMailboxes,
) -> None:
    writer = mailboxes.new_writer(A)
    [position] = await outcomes(*mailboxes.submit(writer, "one"))
    compared = queue(writer, append("two"), position)
    mailboxes.outbox.send(writer)
    assert await outcomes(compared) == mailboxes.positions(A)[1:]
    mailboxes.lose_everything()

    await outcomes(*mailboxes.submit(writer, "three"))
    await until_sent(writer)

    assert mailboxes.lines(A) == [b"one", b"two", b"three"]


async def test_an_accepted_creation_is_kept_even_if_another_writer_came_first_after_a_loss(
    mailboxes: FaultyMailboxes,
) -> None:
    """Creating a thread that exists does nothing, so the creation is offered again without its condition."""
    writer, other = mailboxes.new_writer(A), mailboxes.new_writer(A)
    creation = queue(writer, OrderedTask(CreateThread(at=AT, session_meta={"id": A})).encode())
    mailboxes.outbox.send(writer)
    await outcomes(creation)
    mailboxes.lose_everything()
    await outcomes(*mailboxes.submit(other, "theirs"))

    (new,) = await outcomes(*mailboxes.submit(writer, "new"))
    await until_sent(writer)

    assert isinstance(new, str)
    assert mailboxes.lines(A) == [b"theirs", b"", b"new"]


@pytest.mark.parametrize("message", ["OOM command not allowed", "READONLY You can't write", "MISCONF disk"])
async def test_an_accepted_task_is_kept_if_redis_refuses_it_when_it_is_offered_again(
    mailboxes: FaultyMailboxes, message: str
) -> None:
    """Otherwise a flush would find no outstanding task and report tasks as durable that no worker has seen."""
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "mine"))
    marker = writer.marker
    mailboxes.faults.append(reply(message))
    mailboxes.called.clear()

    writer.rewind(0)
    mailboxes.outbox.send(writer)
    await mailboxes.called.wait()
    await outcomes(*mailboxes.submit(mailboxes.new_writer(B), "Redis has replied to another call since"))

    assert not writer.is_applied_up_to(marker)


OOM = reply("OOM command not allowed when used memory > 'maxmemory'.")


async def test_a_task_whose_reply_was_lost_is_not_refused_if_redis_holds_it(mailboxes: FaultyMailboxes) -> None:
    """The reply is lost and the repeated call is refused, but the counters show that Redis holds the task."""
    mailboxes.faults.extend([LostReply(), OOM])
    writer = mailboxes.new_writer(A)

    (first,) = await outcomes(*mailboxes.submit(writer, "one"))
    (second,) = await outcomes(*mailboxes.submit(writer, "two"))

    assert [first, second] == mailboxes.positions(A)
    assert mailboxes.tasks(A) == [(writer.id, 1, b"one"), (writer.id, 2, b"two")]


async def test_a_task_that_never_reached_redis_is_refused_and_its_counter_is_reused(
    mailboxes: FaultyMailboxes,
) -> None:
    mailboxes.faults.extend([RedisConnectionError("refused"), OOM])
    writer = mailboxes.new_writer(A)

    (first,) = await outcomes(*mailboxes.submit(writer, "one"))
    (second,) = await outcomes(*mailboxes.submit(writer, "two"))

    assert (type(first), [second]) == (ResourceExhausted, mailboxes.positions(A))
    assert mailboxes.tasks(A) == [(writer.id, 1, b"two")]


async def test_after_a_script_stops_halfway_only_the_tasks_it_did_not_store_are_refused(
    mailboxes: FaultyMailboxes,
) -> None:
    mailboxes.faults.append(StoppedHalfWay(1, OOM))
    writer, other = mailboxes.new_writer(A), mailboxes.new_writer(B)
    mailboxes.open.clear()
    busy = mailboxes.submit(mailboxes.new_writer(B), "keeps the sender busy")
    mailboxes.faults.appendleft(None)
    await mailboxes.called.wait()
    sent = [*mailboxes.submit(writer, "1", "2"), *mailboxes.submit(other, "1", "2")]
    mailboxes.open.set()

    await outcomes(*busy)
    results = await outcomes(*sent)

    assert results[0::2] == [mailboxes.positions(A)[0], mailboxes.positions(B)[1]]
    assert [type(result) for result in results[1::2]] == [ResourceExhausted] * 2
    assert mailboxes.lines(A) == [b"1"]
    assert await outcomes(*mailboxes.submit(writer, "3")) == mailboxes.positions(A)[1:]
    assert mailboxes.tasks(A)[-1] == (writer.id, 2, b"3")


async def test_no_task_is_refused_while_the_counters_cannot_be_read(mailboxes: FaultyMailboxes) -> None:
    mailboxes.faults.extend([LostReply(), OOM])
    mailboxes.read_faults.append(RedisConnectionError("refused"))
    writer = mailboxes.new_writer(A)

    (result,) = await outcomes(*mailboxes.submit(writer, "one"))

    assert [result] == mailboxes.positions(A)
    assert mailboxes.calls == [{A: [1]}] * 3
    assert mailboxes.lines(A) == [b"one"]


NOT_NOW = [
    "BUSY Redis is busy running a script.",
    "CLUSTERDOWN The cluster is down",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down",
    "MISCONF Redis is configured to save RDB snapshots",
    "READONLY You can't write against a read only replica.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
]


@pytest.mark.parametrize("message", NOT_NOW, ids=lambda message: message.split()[0])
async def test_a_task_is_retried_and_not_refused_if_redis_cannot_take_it_for_now(
    mailboxes: FaultyMailboxes, message: str
) -> None:
    mailboxes.faults.extend([reply(message)] * 2)

    assert await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "one", "two")) == mailboxes.positions(A)

    assert mailboxes.calls == [{A: [1, 2]}] * 3


async def test_a_task_that_was_reported_as_queued_is_never_refused_later(impatient: FaultyMailboxes) -> None:
    impatient.faults.extend([RedisConnectionError("refused"), OOM, OOM])
    writer = impatient.new_writer(A)

    (failure,) = await outcomes(*impatient.submit(writer, "promised"))
    await until_sent(writer)

    assert isinstance(failure, Unavailable)
    assert failure.is_queued
    assert impatient.lines(A) == [b"promised"]


@pytest.mark.parametrize("expected", ["0-0", "9-9"], ids=["it holds", "it does not"])
async def test_an_append_with_an_expected_position_is_not_promised_before_redis_replies(
    impatient: FaultyMailboxes, expected: str
) -> None:
    """Otherwise an append with a stale position would be offered forever and block all later tasks."""
    impatient.faults.append(RedisConnectionError("refused"))
    writer = impatient.new_writer(A)
    conditional = queue(writer, append("conditional"), expected)

    failure, _ = await outcomes(conditional, *impatient.submit(writer, "after"))
    await until_sent(writer)

    assert isinstance(failure, Unavailable)
    assert (failure.is_queued, f"takes effect only if the last position is still {expected}" in str(failure)) == (
        False,
        True,
    )
    assert impatient.lines(A) == [b"conditional", b"after"][expected != "0-0" :]


async def test_a_compare_and_append_that_comes_too_late_blocks_no_later_task(
    mailboxes: FaultyMailboxes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller no longer waits, and another writer came first."""
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "theirs"))
    compared = queue(writer, append("mine"), "0-0")
    compared.accepted.cancel()
    mailboxes.outbox.send(writer)

    (after,) = await outcomes(*mailboxes.submit(writer, "after"))

    assert isinstance(after, str)
    assert compared not in (*writer.unapplied, *writer.queue)
    assert mailboxes.lines(A) == [b"theirs", b"after"]
    assert f"a compare-and-append to thread {A} came too late" in caplog.text


# -- deletion ----------------------------------------------------------------------------------------------


async def test_no_task_is_accepted_after_a_threads_deletion(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    deletion = queue(writer, OrderedTask(DeleteThread(at=AT)).encode())

    results = await outcomes(deletion, *mailboxes.submit(writer, "late", "later"))

    assert results[:1] == mailboxes.positions(A)
    assert [(type(r), str(r)) for r in results[1:]] == [(ThreadNotFound, f"thread {A} not found: it was deleted")] * 2
    assert mailboxes.calls == [{A: [1, 2, 3]}]


async def test_even_a_promised_task_is_dropped_once_its_thread_is_deleted(mailboxes: FaultyMailboxes) -> None:
    """The thread is gone with all its items; a task that is kept would block its flush forever."""
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "mine"))
    mailboxes.lose_everything()
    mailboxes.mark_deleted(A)

    mailboxes.submit(writer, "new")
    await until_sent(writer)

    assert (kept(writer), writer.has_outstanding) == ([], False)


async def test_a_deletion_that_is_offered_again_still_deletes(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    deletion = queue(writer, OrderedTask(DeleteThread(at=AT)).encode())
    mailboxes.outbox.send(writer)
    await outcomes(deletion)
    mailboxes.lose_everything()

    writer.rewind(0)
    mailboxes.outbox.send(writer)
    await until_sent(writer)

    assert mailboxes.calls == [{A: [1]}] * 2
    assert mailboxes.is_marked_deleted(A)


# -- fences ------------------------------------------------------------------------------------------------


def fenced_writer(mailboxes: FaultyMailboxes) -> Writer:
    """Return a writer that opened its thread before the thread's newest epoch."""
    writer = mailboxes.new_writer(A)
    writer.raise_epoch(6)
    mailboxes.begin_epoch(A, 7)
    return writer


async def test_a_fenced_writers_tasks_are_refused_one_by_one(mailboxes: FaultyMailboxes) -> None:
    writer = fenced_writer(mailboxes)
    patch = OrderedTask(UpdateThreadMetadata(at=AT, patch=ThreadMetadataPatch(name="n")))

    sent = [queue(writer, task) for task in (append("fenced"), patch.encode())]
    results = await outcomes(*sent, *mailboxes.submit(writer, "fenced, too"))

    assert [type(result) for result in results] == [Conflict, Conflict, Conflict]
    assert "a newer exclusive writer took over thread" in str(results[0])
    assert mailboxes.lines(A) == []


async def test_a_writer_that_opened_the_thread_again_is_served(mailboxes: FaultyMailboxes) -> None:
    writer = fenced_writer(mailboxes)
    await outcomes(*mailboxes.submit(writer, "fenced"))

    writer.raise_epoch(7)
    await outcomes(*mailboxes.submit(writer, "served"))

    assert mailboxes.lines(A) == [b"served"]


async def test_a_change_of_a_thread_that_is_not_open_passes_every_fence(mailboxes: FaultyMailboxes) -> None:
    fenced_writer(mailboxes)
    writer = mailboxes.new_writer(A)

    await outcomes(*mailboxes.submit(writer, "cold"))

    assert mailboxes.lines(A) == [b"cold"]


async def test_a_fenced_writers_lost_tasks_are_sent_again_but_its_new_tasks_are_refused(
    mailboxes: FaultyMailboxes,
) -> None:
    writer = fenced_writer(mailboxes)
    mailboxes.begin_epoch(A, 0)
    await outcomes(*mailboxes.submit(writer, "one", "two"))
    mailboxes.lose_everything()
    mailboxes.begin_epoch(A, 7)

    results = await outcomes(*mailboxes.submit(writer, "new"))

    assert [type(result) for result in results] == [Conflict]
    assert mailboxes.lines(A) == [b"one", b"two"]


async def test_a_task_that_was_reported_as_queued_is_accepted_even_if_its_writer_is_fenced(
    impatient: FaultyMailboxes,
) -> None:
    impatient.faults.append(RedisConnectionError("refused"))
    writer = fenced_writer(impatient)

    (failure,) = await outcomes(*impatient.submit(writer, "promised"))
    await until_sent(writer)

    assert isinstance(failure, Unavailable)
    assert impatient.lines(A) == [b"promised"]


# -- poking ------------------------------------------------------------------------------------------------


async def test_poking_a_thread_sends_no_task_and_rings_if_the_thread_has_tasks(
    mailboxes: FaultyMailboxes, bell: Bell
) -> None:
    await mailboxes.poke(A)
    assert (mailboxes.positions(A), bell.rung) == ([], [])
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "one"))
    mailboxes.forget_doorbell(A)

    await mailboxes.poke(A)

    assert (mailboxes.lines(A), bell.rung) == ([b"one"], [0, 0])


async def test_unparking_a_thread_makes_it_ready_and_rings_the_doorbell(
    mailboxes: FaultyMailboxes, bell: Bell
) -> None:
    mailboxes.park(A)
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "one"))
    assert bell.rung == []

    parked_threads = ParkedThreads(mailboxes)
    assert await parked_threads.unpark(await parked_threads.require(A))

    assert (mailboxes.is_parked(A), mailboxes.lines(A), bell.rung) == (False, [b"one"], [0])


async def test_unparking_a_thread_that_is_not_parked_changes_nothing(mailboxes: FaultyMailboxes, bell: Bell) -> None:
    mailboxes.park(B)
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "one"))
    mailboxes.forget_doorbell(A)

    assert not await ParkedThreads(mailboxes).unpark(ParkedThread(A, mailboxes.place(A).shard, b"{}"))

    assert (mailboxes.is_parked(B), bell.rung) == (True, [0])


async def test_a_thread_that_is_parked_in_a_wrong_shard_is_unparked_there(
    redis_server: RedisServer, settings: Settings, bell: Bell
) -> None:
    async with sending(redis_server, settings.model_copy(update={"shards": 8}), bell) as mailboxes:
        wrong = mailboxes.shard(mailboxes.place(B).shard)
        redis_server.client.xadd(wrong.mailbox(A), {"task": "another program's"})
        redis_server.client.hset(wrong.parked, A, "{}")
        parked_threads = ParkedThreads(mailboxes)

        assert await parked_threads.unpark(await parked_threads.require(A))

        assert await parked_threads.all() == []
    assert redis_server.client.zscore(wrong.ready, A) is not None


async def test_poking_raises_if_redis_does_not_answer(
    redis_server: RedisServer, settings: Settings, bell: Bell
) -> None:
    redis = connect(settings.model_copy(update={"redis_url": "unix:///nowhere/redis.sock"}))
    mailboxes = FaultyMailboxes(redis, redis_server.client, settings, bell)

    with pytest.raises(RedisConnectionError):
        await mailboxes.poke(A)

    await redis.aclose()


# -- waiting -----------------------------------------------------------------------------------------------


async def test_a_caller_gets_an_error_after_the_timeout_and_its_task_is_still_sent(
    impatient: FaultyMailboxes,
) -> None:
    impatient.faults.extend([RedisConnectionError("refused")] * 3)
    writer = impatient.new_writer(A)
    submission = impatient.submit(writer, "late")[0]

    (failure,) = await outcomes(submission)
    await until_sent(writer)

    assert isinstance(failure, Unavailable)
    assert "it stays queued in this process, in order" in str(failure)
    assert impatient.lines(A) == [b"late"]
    assert failure.is_queued
    assert kept(writer) == [b"late"]


async def test_a_timeout_message_does_not_contain_the_password(impatient: FaultyMailboxes) -> None:
    impatient.faults.append(RedisConnectionError("refused"))

    (failure,) = await outcomes(*impatient.submit(impatient.new_writer(A), "late"))

    assert "redis.example:6379" in str(failure)
    assert "hunter2" not in str(failure)


async def test_cancelling_the_wait_for_an_unsent_task_does_not_withdraw_the_task(
    mailboxes: FaultyMailboxes,
) -> None:
    """A caller that cancels cannot know whether the task was sent, so the task is appended in either case."""
    writer = mailboxes.new_writer(A)
    mailboxes.open.clear()
    first = mailboxes.submit(writer, "first")[0]
    await mailboxes.called.wait()
    unsent, later = mailboxes.submit(writer, "unsent", "later")
    waiting = asyncio.create_task(accepted(unsent))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])
    mailboxes.open.set()

    assert waiting.cancelled()
    assert await outcomes(first, unsent, later) == mailboxes.positions(A)
    assert mailboxes.lines(A) == [b"first", b"unsent", b"later"]


async def test_cancelling_the_wait_for_a_sent_task_does_not_withdraw_the_task(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    mailboxes.open.clear()
    sent = mailboxes.submit(writer, "sent")[0]
    waiting = asyncio.create_task(accepted(sent))
    await mailboxes.called.wait()

    waiting.cancel()
    await asyncio.wait([waiting])
    mailboxes.open.set()
    await until_sent(writer)

    assert waiting.cancelled()
    assert mailboxes.lines(A) == [b"sent"]
    assert writer.last_accepted == 1


async def test_stopping_fails_the_queued_tasks(mailboxes: FaultyMailboxes) -> None:
    mailboxes.open.clear()
    sent = mailboxes.submit(mailboxes.new_writer(A), "one", "two")
    await mailboxes.called.wait()

    await mailboxes.outbox.stop()

    results = await outcomes(*sent)
    assert [(type(r), str(r)) for r in results] == [
        (Unavailable, "the store was closed before Redis accepted the task")
    ] * 2


async def test_stopping_fails_tasks_that_wait_for_an_earlier_task_to_be_offered_again(
    mailboxes: FaultyMailboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise their callers would wait forever."""
    monkeypatch.setattr(outbox_module, "OFFER_AGAIN", 60.0)
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(writer, "mine"))
    mailboxes.lose_everything()
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "1", "2", "3"))
    (waiting,) = mailboxes.submit(writer, "waiting")
    await until(lambda: writer in mailboxes.outbox._postponed)  # the loss is noticed; the first is refused

    await mailboxes.outbox.stop()

    (result,) = await outcomes(waiting)
    assert isinstance(result, Unavailable)


async def test_a_forgotten_writers_tasks_are_not_sent(mailboxes: FaultyMailboxes) -> None:
    mailboxes.open.clear()
    busy = mailboxes.submit(mailboxes.new_writer(B), "keeps the sender busy")
    await mailboxes.called.wait()
    forgotten = mailboxes.new_writer(A)
    mailboxes.submit(forgotten, "never sent")

    mailboxes.outbox.forget(forgotten)
    mailboxes.open.set()

    assert await outcomes(*busy) == mailboxes.positions(B)
    assert mailboxes.calls == [{B: [1]}]


async def test_each_shard_has_its_own_sender(redis_server: RedisServer, settings: Settings, bell: Bell) -> None:
    async with sending(redis_server, settings.model_copy(update={"shards": 8}), bell) as mailboxes:
        mailboxes.open.clear()
        sent = [*mailboxes.submit(mailboxes.new_writer(A), "a"), *mailboxes.submit(mailboxes.new_writer(B), "b")]
        await until(lambda: len(mailboxes.calls) == 2)  # both are under way at once
        mailboxes.open.set()
        results = await outcomes(*sent)

    assert results == [*mailboxes.positions(A), *mailboxes.positions(B)]
    assert len(set(bell.rung)) == 2


# -- waiting for room --------------------------------------------------------------------------------------


async def test_a_shard_whose_threads_moved_away_after_an_outage_has_no_failure(
    redis_server: RedisServer, settings: Settings, mailboxes: FaultyMailboxes
) -> None:
    await mailboxes.deployment.refresh()
    key, longer = deployment_key(settings.key_prefix), ShardEpochs.of((0, 1), (1, 8))
    mailboxes.faults.append(RedisConnectionError("refused"))
    mailboxes.meanwhile.append(lambda: redis_server.client.hset(key, "epochs", longer.text))
    writer = mailboxes.new_writer(A)
    assert (writer.place.shard, longer.shard_of(A) > 0) == (0, True)

    await accepted(mailboxes.submit(writer, "one")[0])

    assert mailboxes.outbox._lanes[0].failure is None


def in_an_hour() -> float:
    return asyncio.get_running_loop().time() + 3600


def submit_patient(mailboxes: FaultyMailboxes, writer: Writer, *texts: str, deadline: float) -> list[Submission]:
    submissions = [queue(writer, append(text), deadline=deadline) for text in texts]
    mailboxes.outbox.send(writer)
    return submissions


@pytest.mark.parametrize("why", ["the mailbox is full", "Redis is out of memory"])
async def test_a_task_that_may_wait_is_offered_until_there_is_room(mailboxes: FaultyMailboxes, why: str) -> None:
    writer = mailboxes.new_writer(A)
    if why == "the mailbox is full":
        await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "1", "2", "3"))
        mailboxes.meanwhile.extend([lambda: None, lambda: None, partial(mailboxes.empty, A)])
    else:
        mailboxes.faults.extend([OOM, OOM])

    results = await outcomes(*submit_patient(mailboxes, writer, "a", "b", deadline=in_an_hour()))

    assert len(mailboxes.calls) > 2
    assert all(isinstance(result, str) for result in results)
    assert mailboxes.lines(A) == [b"a", b"b"]


async def test_a_task_that_may_wait_is_refused_after_its_deadline(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "1", "2", "3"))

    (early,) = submit_patient(mailboxes, writer, "early", deadline=asyncio.get_running_loop().time() + 0.02)
    (late,) = submit_patient(mailboxes, writer, "late", deadline=in_an_hour())
    (refused,) = await outcomes(early)
    mailboxes.empty(A)

    assert isinstance(refused, ResourceExhausted)
    assert isinstance((await outcomes(late))[0], str)
    assert mailboxes.tasks(A) == [(writer.id, 1, b"late")]


async def test_a_task_that_waits_for_room_can_be_withdrawn(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "1", "2", "3"))
    first, second, third = submit_patient(mailboxes, writer, "a", "b", "c", deadline=in_an_hour())
    await until(lambda: first.is_postponed)

    withdrawn = writer.withdraw(second)
    mailboxes.empty(A)
    await until_sent(writer)

    assert withdrawn
    assert [first.n, third.n] == [1, 2]
    assert mailboxes.lines(A) == [b"a", b"c"]


async def test_a_task_that_was_sent_cannot_be_withdrawn(mailboxes: FaultyMailboxes) -> None:
    writer = mailboxes.new_writer(A)
    mailboxes.open.clear()
    (sent,) = submit_patient(mailboxes, writer, "a", deadline=in_an_hour())
    await mailboxes.called.wait()

    assert not writer.withdraw(sent)

    mailboxes.open.set()
    await outcomes(sent)
    assert not writer.withdraw(sent)


# -- an append and its derived patch -----------------------------------------------------------------------

PATCH = OrderedTask(UpdateThreadMetadata(at=AT, patch=ThreadMetadataPatch(title="t"), derived=True)).encode()


def submit_pair(mailboxes: FaultyMailboxes, writer: Writer, text: str) -> Submission:
    pair = queue(writer, append(text), patch=PATCH)
    mailboxes.outbox.send(writer)
    return pair


async def test_a_mailbox_with_room_for_one_task_refuses_a_whole_pair(mailboxes: FaultyMailboxes) -> None:
    await outcomes(*mailboxes.submit(mailboxes.new_writer(A), "1", "2"))
    writer = mailboxes.new_writer(A)

    pair, single = submit_pair(mailboxes, writer, "pair"), *mailboxes.submit(writer, "single")

    results = await outcomes(pair, single)
    assert (type(results[0]), results[1]) == (ResourceExhausted, mailboxes.positions(A)[-1])
    assert mailboxes.lines(A) == [b"1", b"2", b"single"]


async def test_a_pair_whose_reply_was_lost_is_stored_once(mailboxes: FaultyMailboxes) -> None:
    mailboxes.faults.append(LostReply())
    writer = mailboxes.new_writer(A)

    results = await outcomes(submit_pair(mailboxes, writer, "pair"))

    assert results == mailboxes.positions(A)[1:]
    assert mailboxes.headers(A) == [append("pair").header, PATCH.header]


@pytest.mark.parametrize("kept", [0, 1])
async def test_the_lost_tasks_of_a_pair_are_sent_again(mailboxes: FaultyMailboxes, kept: int) -> None:
    writer = mailboxes.new_writer(A)
    await outcomes(submit_pair(mailboxes, writer, "pair"))
    if kept:
        mailboxes.lose_tasks_after(writer, kept)
    else:
        mailboxes.lose_everything()

    await outcomes(*mailboxes.submit(writer, "later"))

    assert mailboxes.headers(A) == [append("pair").header, PATCH.header, append("later").header]
    assert [n for _, n, _ in mailboxes.tasks(A)] == [1, 2, 3]
    assert mailboxes.calls[-1] == {A: [kept + 1, 3]}


async def test_a_patch_is_never_refused_once_redis_holds_its_append(mailboxes: FaultyMailboxes) -> None:
    """The patch is promised: it is offered again after Redis had no memory for it."""
    writer = mailboxes.new_writer(A)
    mailboxes.faults.extend([None, OOM])
    await outcomes(*mailboxes.submit(writer, "before"))
    pair = queue(writer, append("pair"), patch=PATCH)
    accepted = pair.accepted
    writer.take(1)
    writer.accept(2, mailboxes.add_by_hand(writer, 2, append("pair")), 1)

    mailboxes.outbox.send(writer)

    async with asyncio.timeout(DEADLINE):
        assert await accepted == mailboxes.positions(A)[-1]
    assert mailboxes.headers(A)[1:] == [append("pair").header, PATCH.header]
