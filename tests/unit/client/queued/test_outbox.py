from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from redis._parsers.base import BaseParser
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tests.unit.client.queued.fake_mailboxes import FakeMailboxes, LostReply, StoppedHalfWay

from livethread.errors import Conflict, Internal, InvalidRequest, ResourceExhausted, ThreadNotFound, Unavailable
from livethread.metadata import ThreadMetadataPatch
from livethread.ordered_tasks import (
    AppendItems,
    CreateThread,
    DeleteThread,
    EncodedTask,
    OrderedTask,
    UpdateThreadMetadata,
)
from livethread.queued import outbox as outbox_module
from livethread.queued.outbox import Outbox
from livethread.queued.writer import Budget, Submission, Writer
from livethread_config import Settings

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
A = "019a93b9-f380-7600-98ff-940e6b99603a"
B = "019a93b9-f380-7600-98ff-940e6b99603b"
DEADLINE = 4.0  # seconds; nothing here takes one, but a test that hangs must end
SECRET_URL = "redis://:hunter2@redis.example:6379/0"


class Bell:
    """Notes which shards were rung for."""

    def __init__(self) -> None:
        self.rung: list[int] = []

    def __call__(self, shard: int) -> None:
        self.rung.append(shard)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
async def redis() -> FakeMailboxes:
    return FakeMailboxes()


@pytest.fixture
def settings() -> Settings:
    return Settings(redis_url=SECRET_URL, mailbox_max_tasks=3)


@pytest.fixture
async def outbox(
    redis: FakeMailboxes, settings: Settings, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Outbox]:
    monkeypatch.setattr(outbox_module, "RETRY_FIRST", 0.0)
    monkeypatch.setattr(outbox_module, "OFFER_AGAIN", 0.001)
    outbox = Outbox(cast("Redis", redis), settings, bell)
    outbox.start()
    yield outbox
    await outbox.stop()


def new_writer(thread_id: str) -> Writer:
    return Writer(thread_id, Budget(1_000_000), 1_000)


def reply(text: str) -> Exception:
    """The error that redis-py makes of an answer: it takes the code off those that it knows."""
    error = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
    assert isinstance(error, RedisError)
    return error


def append(text: str) -> EncodedTask:
    return OrderedTask(AppendItems(at=AT), (text.encode(),)).encode()


def submit(outbox: Outbox, writer: Writer, *texts: str) -> list[Submission]:
    submissions = [writer.submit(append(text)) for text in texts]
    outbox.send(writer)
    return submissions


async def outcomes(*submissions: Submission) -> list[Any]:
    """Each submission's position or error, once all are known."""
    futures = [submission.accepted for submission in submissions]
    async with asyncio.timeout(DEADLINE):
        return await asyncio.gather(*futures, return_exceptions=True)


def kept(writer: Writer) -> list[bytes]:
    """The lines that *writer* still holds, in order."""
    return [submission.task.lines for submission in (*writer.unapplied, *writer.queue)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


async def accepted(submission: Submission) -> str:
    """Wait as the store does: who cancels stops waiting, and nothing else."""
    return await asyncio.shield(submission.accepted)


async def until_sent(writer: Writer) -> None:
    """Wait until nothing of *writer* is queued any more."""
    async with asyncio.timeout(DEADLINE):
        while writer.queue:
            writer.changed.clear()
            await writer.changed.wait()


# -- joining -----------------------------------------------------------------------------------------------


async def test_a_task_is_sent_and_accepted_with_its_position(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)

    (submission,) = submit(outbox, writer, "one")

    assert await outcomes(submission) == ["1-0"]
    assert redis.mailboxes[A].entries == [(writer.id, 1, b"one")]


async def test_what_is_submitted_while_a_call_is_under_way_goes_with_one_next_call(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    first, second = new_writer(A), new_writer(B)
    redis.open.clear()
    sent = submit(outbox, first, "a1")
    await redis.called.wait()

    for text in ("a2", "a3"):
        sent += submit(outbox, first, text)
    sent += submit(outbox, second, "b1")
    redis.open.set()

    assert await outcomes(*sent) == ["1-0", "2-0", "2-1", "2-0"]
    assert redis.calls == [{A: [1]}, {A: [2, 3], B: [1]}]
    assert redis.mailboxes[A].lines() == [b"a1", b"a2", b"a3"]


async def test_one_call_takes_no_more_than_its_limit(
    outbox: Outbox, redis: FakeMailboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "BATCH_BYTES", 6)

    sent = submit(outbox, new_writer(A), "four", "4444", "longer than any call")

    assert await outcomes(*sent) == ["1-0", "2-0", "3-0"]
    assert redis.calls == [{A: [1]}, {A: [2]}, {A: [3]}]


async def test_a_doorbell_is_rung_only_when_redis_says_so(outbox: Outbox, redis: FakeMailboxes, bell: Bell) -> None:
    await outcomes(*submit(outbox, new_writer(A), "quiet"))
    assert bell.rung == []
    redis.must_ring = True

    await outcomes(*submit(outbox, new_writer(A), "loud"))

    assert bell.rung == [0]


# -- losing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "positions"),
    [
        (RedisConnectionError("refused"), ["1-0", "1-1"]),
        (RedisTimeoutError("slow"), ["1-0", "1-1"]),
        (OSError("no route"), ["1-0", "1-1"]),
        # Of a task that an earlier call brought only the last one's position is known, and safe to wait for.
        (LostReply(), ["1-1", "1-1"]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_call_without_an_answer_is_repeated_with_the_same_counters(
    outbox: Outbox, redis: FakeMailboxes, fault: Exception, positions: list[str]
) -> None:
    redis.faults.extend([fault, fault])

    sent = submit(outbox, new_writer(A), "one", "two")

    assert await outcomes(*sent) == positions
    assert redis.calls == [{A: [1, 2]}] * 3
    assert redis.mailboxes[A].lines() == [b"one", b"two"]


async def test_what_redis_lost_is_sent_again_before_what_is_new(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)
    await outcomes(*submit(outbox, writer, "one", "two"))
    redis.lose_everything()

    (third,) = submit(outbox, writer, "three")

    assert await outcomes(third) == ["3-2"]
    assert redis.mailboxes[A].lines() == [b"one", b"two", b"three"]
    assert [s.n for s in writer.unapplied] == [1, 2, 3]


async def test_what_is_applied_is_not_sent_again(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)
    await outcomes(*submit(outbox, writer, "one"))
    await outcomes(*submit(outbox, writer, "two"))
    writer.note_applied(1, "1-0")
    redis.lose_everything()

    await outcomes(*submit(outbox, writer, "three"))

    assert redis.mailboxes[A].lines() == [b"two", b"three"]


# -- refusing ----------------------------------------------------------------------------------------------


async def test_a_full_mailbox_refuses_task_by_task_and_the_later_ones_get_new_counters(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    writer = new_writer(A)
    redis.open.clear()
    sent = submit(outbox, writer, "1", "2", "3", "4", "5")
    await redis.called.wait()
    redis.open.set()

    results = await outcomes(*sent)

    assert results[:3] == ["1-0", "1-1", "1-2"]
    assert [type(result) for result in results[3:]] == [ResourceExhausted] * 2
    assert redis.calls == [{A: [1, 2, 3, 4, 5]}, {A: [4]}]
    assert "has 3 unapplied tasks" in str(results[3])


async def test_only_the_first_task_fails_where_the_mailbox_has_room_again(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    writer = new_writer(A)
    await outcomes(*submit(outbox, writer, "1", "2", "3"))
    redis.meanwhile.extend([lambda: None, redis.mailboxes[A].entries.clear])  # a worker took them

    refused, later = await outcomes(*submit(outbox, writer, "4", "5"))

    assert (type(refused), later) == (ResourceExhausted, "3-0")
    assert redis.calls[-2:] == [{A: [4, 5]}, {A: [4]}]
    assert redis.mailboxes[A].entries == [(writer.id, 4, b"5")]


async def test_an_append_that_expects_another_position_is_refused_alone(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)
    await outcomes(*submit(outbox, writer, "one"))
    stale, later = writer.submit(append("stale"), "0-7"), writer.submit(append("later"))
    outbox.send(writer)

    results = await outcomes(stale, later)

    assert (type(results[0]), str(results[0])) == (Conflict, "the thread's last position is 1-0, not 0-7")
    assert results[1] == "3-0"
    assert redis.mailboxes[A].lines() == [b"one", b"later"]
    assert later.n == 2


async def test_creating_a_thread_that_exists_fails_all_that_stands_behind_the_creation(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    await outcomes(*submit(outbox, new_writer(A), "somebody else's"))
    writer = new_writer(A)
    creation = writer.submit(OrderedTask(CreateThread(at=AT, session_meta={"id": A})).encode())

    results = await outcomes(creation, *submit(outbox, writer, "1", "2"))

    assert [(type(r), str(r)) for r in results] == [(Conflict, f"thread {A} exists; resume it instead")] * 3
    assert redis.mailboxes[A].lines() == [b"somebody else's"]


@pytest.mark.parametrize(
    ("message", "error"),
    [("OOM command not allowed when used memory > 'maxmemory'.", ResourceExhausted), ("WRONGTYPE", Internal)],
)
async def test_what_redis_refuses_to_run_fails_and_the_next_is_sent(
    outbox: Outbox, redis: FakeMailboxes, message: str, error: type[Exception]
) -> None:
    writer = new_writer(A)
    redis.faults.append(reply(message))

    (failed,) = await outcomes(*submit(outbox, writer, "one"))
    (accepted,) = await outcomes(*submit(outbox, writer, "two"))

    assert isinstance(failed, error)
    assert str(reply(message)) in str(failed)
    assert accepted == "1-0"
    assert redis.mailboxes[A].lines() == [b"two"]


async def test_a_task_that_cannot_be_encoded_fails_alone_and_holds_nobody_up(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    odd = ThreadMetadataPatch.model_construct(_fields_set={"approval_mode"}, approval_mode=object())
    header = UpdateThreadMetadata.model_construct(op="update_thread_metadata", at=AT, patch=odd)
    writer = new_writer(A)
    (before,) = submit(outbox, writer, "before")

    with pytest.raises(InvalidRequest):
        writer.submit(OrderedTask(header).encode())
    (behind,) = submit(outbox, writer, "behind")
    (other,) = submit(outbox, new_writer(B), "other")

    assert await outcomes(before, behind, other) == ["1-0", "1-1", "1-0"]
    assert redis.mailboxes[A].lines() == [b"before", b"behind"]


# -- nothing that was accepted is ever dropped -------------------------------------------------------------


async def test_an_accepted_task_is_kept_though_the_mailbox_is_full_when_it_is_sent_again(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    writer, other = new_writer(A), new_writer(A)
    await outcomes(*submit(outbox, writer, "mine"))
    marker = writer.marker
    redis.lose_everything()
    await outcomes(*submit(outbox, other, "1", "2", "3"))
    calls = len(redis.calls)

    submit(outbox, writer, "new")
    await until(lambda: len(redis.calls) > calls + 3)  # the loss is noticed, and the task is offered, and again

    assert kept(writer) == [b"mine", b"new"]
    assert not writer.is_applied_up_to(marker)
    redis.mailboxes[A].entries.clear()  # a worker took them
    await until_sent(writer)
    assert redis.mailboxes[A].lines() == [b"mine", b"new"]


async def test_an_accepted_task_is_sent_again_though_its_expected_position_is_gone(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    writer = new_writer(A)
    await outcomes(*submit(outbox, writer, "one"))
    compared = writer.submit(append("two"), "1-0")
    outbox.send(writer)
    assert await outcomes(compared) == ["2-0"]
    redis.lose_everything()

    await outcomes(*submit(outbox, writer, "three"))
    await until_sent(writer)

    assert redis.mailboxes[A].lines() == [b"one", b"two", b"three"]


async def test_an_accepted_creation_is_kept_though_another_writer_was_first_after_a_loss(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    """Creating a thread that exists does nothing, so it is offered again without its condition."""
    writer, other = new_writer(A), new_writer(A)
    creation = writer.submit(OrderedTask(CreateThread(at=AT, session_meta={"id": A})).encode())
    outbox.send(writer)
    await outcomes(creation)
    redis.lose_everything()
    await outcomes(*submit(outbox, other, "theirs"))

    (new,) = await outcomes(*submit(outbox, writer, "new"))
    await until_sent(writer)

    assert isinstance(new, str)
    assert redis.mailboxes[A].lines() == [b"theirs", b"", b"new"]
    assert [task.kind for task in redis.offered if task.lines == b""] == ["create", ""]


@pytest.mark.parametrize("message", ["OOM command not allowed", "READONLY You can't write", "MISCONF disk"])
async def test_an_accepted_task_is_kept_though_redis_refuses_it_when_it_is_offered_again(
    outbox: Outbox, redis: FakeMailboxes, message: str
) -> None:
    """Else a flush would find nothing outstanding, and call durable what no worker has seen."""
    writer = new_writer(A)
    await outcomes(*submit(outbox, writer, "mine"))
    marker = writer.marker
    redis.faults.append(reply(message))
    redis.called.clear()

    writer.rewind(0)
    outbox.send(writer)
    await redis.called.wait()
    await outcomes(*submit(outbox, new_writer(B), "another call has been answered since"))

    assert not writer.is_applied_up_to(marker)


OOM = reply("OOM command not allowed when used memory > 'maxmemory'.")


async def test_a_task_whose_answer_was_lost_is_not_refused_where_redis_holds_it(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    """The answer is lost, the repetition is refused: the counters tell that the task was stored."""
    redis.faults.extend([LostReply(), OOM])
    writer = new_writer(A)

    (first,) = await outcomes(*submit(outbox, writer, "one"))
    (second,) = await outcomes(*submit(outbox, writer, "two"))

    assert (first, second) == ("1-0", "2-0")
    assert redis.mailboxes[A].entries == [(writer.id, 1, b"one"), (writer.id, 2, b"two")]


async def test_a_task_that_never_came_to_redis_is_refused_and_its_counter_is_free(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    redis.faults.extend([RedisConnectionError("refused"), OOM])
    writer = new_writer(A)

    (first,) = await outcomes(*submit(outbox, writer, "one"))
    (second,) = await outcomes(*submit(outbox, writer, "two"))

    assert (type(first), second) == (ResourceExhausted, "1-0")
    assert redis.mailboxes[A].entries == [(writer.id, 1, b"two")]


async def test_of_a_script_that_was_stopped_half_way_only_what_was_not_done_is_refused(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    redis.faults.append(StoppedHalfWay(1, OOM))
    writer, other = new_writer(A), new_writer(B)
    redis.open.clear()
    busy = submit(outbox, new_writer(B), "keeps the line busy")
    redis.faults.appendleft(None)
    await redis.called.wait()
    sent = [*submit(outbox, writer, "1", "2"), *submit(outbox, other, "1", "2")]
    redis.open.set()

    await outcomes(*busy)
    results = await outcomes(*sent)

    assert results[0::2] == ["2-0", "2-0"]
    assert [type(result) for result in results[1::2]] == [ResourceExhausted] * 2
    assert redis.mailboxes[A].lines() == [b"1"]
    assert await outcomes(*submit(outbox, writer, "3")) == ["3-0"]
    assert redis.mailboxes[A].entries[-1] == (writer.id, 2, b"3")


async def test_while_the_counters_cannot_be_read_nothing_is_refused(outbox: Outbox, redis: FakeMailboxes) -> None:
    redis.faults.extend([LostReply(), OOM])
    redis.read_faults.append(RedisConnectionError("refused"))
    writer = new_writer(A)

    (result,) = await outcomes(*submit(outbox, writer, "one"))

    assert result == "1-0"
    assert redis.calls == [{A: [1]}] * 3
    assert redis.mailboxes[A].lines() == [b"one"]


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
async def test_what_redis_will_not_do_now_is_tried_again_and_not_refused(
    outbox: Outbox, redis: FakeMailboxes, message: str
) -> None:
    redis.faults.extend([reply(message)] * 2)

    assert await outcomes(*submit(outbox, new_writer(A), "one", "two")) == ["1-0", "1-1"]

    assert redis.calls == [{A: [1, 2]}] * 3


async def test_a_task_that_is_said_to_stay_queued_is_never_refused_after_all(
    redis: FakeMailboxes, settings: Settings, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_FIRST", 0.0)
    monkeypatch.setattr(outbox_module, "OFFER_AGAIN", 0.001)
    outbox = Outbox(cast("Redis", redis), settings.model_copy(update={"enqueue_timeout_s": 1e-9}), bell)
    outbox.start()
    redis.faults.extend([RedisConnectionError("refused"), OOM, OOM])
    writer = new_writer(A)

    (told,) = await outcomes(*submit(outbox, writer, "promised"))
    await until_sent(writer)
    await outbox.stop()

    assert isinstance(told, Unavailable)
    assert told.is_queued
    assert redis.mailboxes[A].lines() == [b"promised"]


@pytest.mark.parametrize("expected", ["0-0", "9-9"], ids=["it holds", "it does not"])
async def test_what_expects_a_position_is_promised_nothing_before_redis_answers(
    redis: FakeMailboxes, settings: Settings, bell: Bell, monkeypatch: pytest.MonkeyPatch, expected: str
) -> None:
    """Else one whose position is not the last would be offered for ever, and hold up all behind it."""
    monkeypatch.setattr(outbox_module, "RETRY_FIRST", 0.0)
    outbox = Outbox(cast("Redis", redis), settings.model_copy(update={"enqueue_timeout_s": 1e-9}), bell)
    outbox.start()
    redis.faults.append(RedisConnectionError("refused"))
    writer = new_writer(A)
    conditional = writer.submit(append("conditional"), expected)

    told, _ = await outcomes(conditional, *submit(outbox, writer, "behind"))
    await until_sent(writer)
    await outbox.stop()

    assert isinstance(told, Unavailable)
    assert (told.is_queued, f"last position is {expected} then" in str(told)) == (False, True)
    assert redis.mailboxes[A].lines() == [b"conditional", b"behind"][expected != "0-0" :]


async def test_a_compare_and_append_that_comes_too_late_holds_up_nobody(
    outbox: Outbox, redis: FakeMailboxes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller no longer waits, and another writer was first."""
    writer = new_writer(A)
    await outcomes(*submit(outbox, new_writer(A), "theirs"))
    compared = writer.submit(append("mine"), "0-0")
    compared.accepted.cancel()
    outbox.send(writer)

    (behind,) = await outcomes(*submit(outbox, writer, "behind"))

    assert isinstance(behind, str)
    assert compared.is_refused
    assert redis.mailboxes[A].lines() == [b"theirs", b"behind"]
    assert "a compare-and-append came too late" in caplog.messages


# -- deletion ----------------------------------------------------------------------------------------------


async def test_behind_a_threads_deletion_nothing_is_accepted(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)
    deletion = writer.submit(OrderedTask(DeleteThread(at=AT)).encode())

    results = await outcomes(deletion, *submit(outbox, writer, "late", "later"))

    assert results[0] == "1-0"
    assert [(type(r), str(r)) for r in results[1:]] == [(ThreadNotFound, f"thread {A} not found: it was deleted")] * 2
    assert redis.calls == [{A: [1, 2, 3]}]


async def test_of_a_deleted_thread_not_even_what_was_promised_is_offered_for_ever(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    """The thread is gone with all of its items; keeping this one would hold up its flush for good."""
    writer = new_writer(A)
    await outcomes(*submit(outbox, writer, "mine"))
    redis.lose_everything()
    redis.mailboxes[A].is_deleted = True

    submit(outbox, writer, "new")
    await until_sent(writer)

    assert (kept(writer), writer.has_outstanding) == ([], False)


async def test_a_deletion_that_is_offered_again_still_deletes(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)
    deletion = writer.submit(OrderedTask(DeleteThread(at=AT)).encode())
    outbox.send(writer)
    await outcomes(deletion)
    redis.lose_everything()

    writer.rewind(0)
    outbox.send(writer)
    await until_sent(writer)

    assert [task.kind for task in redis.offered] == ["delete", "delete"]
    assert redis.mailboxes[A].is_deleted


# -- fences ------------------------------------------------------------------------------------------------


def fenced_writer(redis: FakeMailboxes) -> Writer:
    """Return a writer that opened its thread before the thread's newest epoch."""
    writer = new_writer(A)
    writer.epoch, redis.mailboxes[A].epoch = 6, 7
    return writer


async def test_a_fenced_writers_tasks_are_refused_one_by_one(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = fenced_writer(redis)
    patch = OrderedTask(UpdateThreadMetadata(at=AT, patch=ThreadMetadataPatch(name="n")))

    sent = [writer.submit(task) for task in (append("fenced"), patch.encode())]
    results = await outcomes(*sent, *submit(outbox, writer, "fenced, too"))

    assert [type(result) for result in results] == [Conflict, Conflict, Conflict]
    assert "a newer exclusive writer has taken thread" in str(results[0])
    assert redis.mailboxes[A].lines() == []


async def test_a_writer_that_opened_the_thread_again_is_served(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = fenced_writer(redis)
    await outcomes(*submit(outbox, writer, "fenced"))

    writer.epoch = 7
    await outcomes(*submit(outbox, writer, "served"))

    assert redis.mailboxes[A].lines() == [b"served"]


async def test_a_change_of_a_thread_that_is_not_open_passes_every_fence(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = fenced_writer(redis)
    writer.epoch = None

    await outcomes(*submit(outbox, writer, "cold"))

    assert redis.mailboxes[A].lines() == [b"cold"]


async def test_what_redis_held_of_a_fenced_writer_and_lost_goes_in_and_nothing_new_with_it(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    writer = fenced_writer(redis)
    redis.mailboxes[A].epoch = 0
    await outcomes(*submit(outbox, writer, "one", "two"))
    redis.lose_everything()
    redis.mailboxes[A].epoch = 7

    results = await outcomes(*submit(outbox, writer, "new"))

    assert [type(result) for result in results] == [Conflict]
    assert redis.mailboxes[A].lines() == [b"one", b"two"]


async def test_what_was_said_to_stay_queued_goes_in_though_its_writer_is_fenced_meanwhile(
    redis: FakeMailboxes, settings: Settings, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_FIRST", 0.0)
    monkeypatch.setattr(outbox_module, "OFFER_AGAIN", 0.001)
    outbox = Outbox(cast("Redis", redis), settings.model_copy(update={"enqueue_timeout_s": 1e-9}), bell)
    outbox.start()
    redis.faults.append(RedisConnectionError("refused"))
    writer = fenced_writer(redis)

    (told,) = await outcomes(*submit(outbox, writer, "promised"))
    await until_sent(writer)
    await outbox.stop()

    assert isinstance(told, Unavailable)
    assert redis.mailboxes[A].lines() == [b"promised"]


# -- poking ------------------------------------------------------------------------------------------------


async def test_poking_a_thread_offers_nothing_and_rings_where_redis_says_so(
    outbox: Outbox, redis: FakeMailboxes, bell: Bell
) -> None:
    await outbox.poke(A)
    assert (redis.calls, redis.mailboxes[A].tail, bell.rung) == ([{A: []}], None, [])
    redis.must_ring = True

    await outbox.poke(A)

    assert (redis.offered, redis.mailboxes[A].last, bell.rung) == ([], {}, [0])


async def test_a_parked_thread_is_tried_again_and_rung_for(outbox: Outbox, redis: FakeMailboxes, bell: Bell) -> None:
    redis.parked.add(A)
    redis.must_ring = True

    assert await outbox.unpark(A)

    assert (redis.parked, redis.calls, bell.rung) == (set(), [{A: []}], [0])


async def test_a_thread_that_is_not_parked_is_left_alone(outbox: Outbox, redis: FakeMailboxes, bell: Bell) -> None:
    redis.parked.add(B)
    redis.must_ring = True

    assert not await outbox.unpark(A)

    assert (redis.parked, redis.calls, bell.rung) == ({B}, [], [])


async def test_whoever_pokes_hears_that_redis_does_not_answer(outbox: Outbox, redis: FakeMailboxes) -> None:
    redis.faults.append(RedisConnectionError("refused"))

    with pytest.raises(RedisConnectionError):
        await outbox.poke(A)


# -- waiting -----------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(settings: Settings) -> Settings:
    return settings.model_copy(update={"enqueue_timeout_s": 1e-9})


async def test_a_waiter_is_told_after_the_timeout_and_its_task_is_sent_all_the_same(
    redis: FakeMailboxes, impatient: Settings, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_FIRST", 0.0)
    outbox = Outbox(cast("Redis", redis), impatient, bell)
    outbox.start()
    redis.faults.extend([RedisConnectionError("refused")] * 3)
    writer = new_writer(A)
    submission = submit(outbox, writer, "late")[0]

    (failure,) = await outcomes(submission)
    await until_sent(writer)
    await outbox.stop()

    assert isinstance(failure, Unavailable)
    assert "it stays queued in this process, in order" in str(failure)
    assert redis.mailboxes[A].lines() == [b"late"]
    assert failure.is_queued
    assert kept(writer) == [b"late"]


async def test_the_message_of_a_timeout_does_not_tell_the_password(
    redis: FakeMailboxes, impatient: Settings, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_FIRST", 0.0)
    outbox = Outbox(cast("Redis", redis), impatient, bell)
    outbox.start()
    redis.faults.append(RedisConnectionError("refused"))

    (failure,) = await outcomes(*submit(outbox, new_writer(A), "late"))
    await outbox.stop()

    assert "redis.example:6379" in str(failure)
    assert "hunter2" not in str(failure)


async def test_cancelling_the_wait_for_a_task_that_was_never_sent_does_not_take_it_back(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    """Whoever cancels cannot know how far it came, so there is one answer for all: it is appended."""
    writer = new_writer(A)
    redis.open.clear()
    first = submit(outbox, writer, "first")[0]
    await redis.called.wait()
    unsent, later = submit(outbox, writer, "unsent", "later")
    waiting = asyncio.create_task(accepted(unsent))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])
    redis.open.set()

    assert waiting.cancelled()
    assert await outcomes(first, unsent, later) == ["1-0", "2-0", "2-1"]
    assert redis.mailboxes[A].lines() == [b"first", b"unsent", b"later"]


async def test_cancelling_the_wait_for_a_task_on_its_way_leaves_it_on_its_way(
    outbox: Outbox, redis: FakeMailboxes
) -> None:
    writer = new_writer(A)
    redis.open.clear()
    sent = submit(outbox, writer, "sent")[0]
    waiting = asyncio.create_task(accepted(sent))
    await redis.called.wait()

    waiting.cancel()
    await asyncio.wait([waiting])
    redis.open.set()
    await until_sent(writer)

    assert waiting.cancelled()
    assert redis.mailboxes[A].lines() == [b"sent"]
    assert writer.last_accepted == 1


async def test_stopping_fails_what_is_queued(outbox: Outbox, redis: FakeMailboxes) -> None:
    redis.open.clear()
    sent = submit(outbox, new_writer(A), "one", "two")
    await redis.called.wait()

    await outbox.stop()

    results = await outcomes(*sent)
    assert [(type(r), str(r)) for r in results] == [
        (Unavailable, "the store was closed before Redis accepted the task")
    ] * 2


async def test_stopping_fails_what_waits_behind_a_task_that_is_to_be_offered_again(
    outbox: Outbox, redis: FakeMailboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it would wait for ever."""
    monkeypatch.setattr(outbox_module, "OFFER_AGAIN", 0.05)
    writer = new_writer(A)
    await outcomes(*submit(outbox, writer, "mine"))
    redis.lose_everything()
    await outcomes(*submit(outbox, new_writer(A), "1", "2", "3"))
    calls = len(redis.calls)
    (behind,) = submit(outbox, writer, "behind")
    await until(lambda: len(redis.calls) == calls + 2)  # the loss is noticed; the first is refused
    await asyncio.sleep(0.01)

    await outbox.stop()

    assert not behind.accepted.done() or behind.is_refused

    (result,) = await outcomes(behind)
    assert isinstance(result, Unavailable)


async def test_a_forgotten_writer_is_not_sent_for(outbox: Outbox, redis: FakeMailboxes) -> None:
    redis.open.clear()
    busy = submit(outbox, new_writer(B), "keeps the line busy")
    await redis.called.wait()
    forgotten = new_writer(A)
    submit(outbox, forgotten, "never sent")

    outbox.forget(forgotten)
    redis.open.set()

    assert await outcomes(*busy) == ["1-0"]
    assert redis.calls == [{B: [1]}]


async def test_each_shard_has_its_own_sender(redis: FakeMailboxes, settings: Settings, bell: Bell) -> None:
    outbox = Outbox(cast("Redis", redis), settings.model_copy(update={"shards": 8}), bell)
    outbox.start()
    redis.must_ring = True

    results = await outcomes(*submit(outbox, new_writer(A), "a"), *submit(outbox, new_writer(B), "b"))
    await outbox.stop()

    assert sorted(results) == ["1-0", "2-0"]
    assert len(redis.calls) == 2
    assert len(set(bell.rung)) == 2


# -- waiting for room --------------------------------------------------------------------------------------


def in_an_hour() -> float:
    return asyncio.get_running_loop().time() + 3600


def submit_patient(outbox: Outbox, writer: Writer, *texts: str, deadline: float) -> list[Submission]:
    submissions = [writer.submit(append(text), None, deadline) for text in texts]
    outbox.send(writer)
    return submissions


@pytest.mark.parametrize("why", ["the mailbox is full", "Redis is out of memory"])
async def test_a_task_that_may_wait_is_offered_until_there_is_room(
    outbox: Outbox, redis: FakeMailboxes, why: str
) -> None:
    writer = new_writer(A)
    if why == "the mailbox is full":
        await outcomes(*submit(outbox, new_writer(A), "1", "2", "3"))
        redis.meanwhile.extend([lambda: None, lambda: None, redis.mailboxes[A].entries.clear])
    else:
        redis.faults.extend([OOM, OOM])

    results = await outcomes(*submit_patient(outbox, writer, "a", "b", deadline=in_an_hour()))

    assert len(redis.calls) > 2
    assert all(isinstance(result, str) for result in results)
    assert redis.mailboxes[A].lines() == [b"a", b"b"]


async def test_a_task_that_may_wait_is_refused_when_its_time_is_over(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)
    await outcomes(*submit(outbox, new_writer(A), "1", "2", "3"))

    (early,) = submit_patient(outbox, writer, "early", deadline=asyncio.get_running_loop().time() + 0.02)
    (late,) = submit_patient(outbox, writer, "late", deadline=in_an_hour())
    (refused,) = await outcomes(early)
    redis.mailboxes[A].entries.clear()

    assert isinstance(refused, ResourceExhausted)
    assert isinstance((await outcomes(late))[0], str)
    assert redis.mailboxes[A].entries == [(writer.id, 1, b"late")]


async def test_who_waits_in_vain_for_room_can_take_his_task_back(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)
    await outcomes(*submit(outbox, new_writer(A), "1", "2", "3"))
    first, second, third = submit_patient(outbox, writer, "a", "b", "c", deadline=in_an_hour())
    await until(lambda: first.is_postponed)

    taken_back = writer.withdraw(second)
    redis.mailboxes[A].entries.clear()
    await until_sent(writer)

    assert taken_back
    assert [first.n, third.n] == [1, 2]
    assert redis.mailboxes[A].lines() == [b"a", b"c"]


async def test_a_task_that_is_on_its_way_cannot_be_taken_back(outbox: Outbox, redis: FakeMailboxes) -> None:
    writer = new_writer(A)
    redis.open.clear()
    (sent,) = submit_patient(outbox, writer, "a", deadline=in_an_hour())
    await redis.called.wait()

    assert not writer.withdraw(sent)

    redis.open.set()
    await outcomes(sent)
    assert not writer.withdraw(sent)
