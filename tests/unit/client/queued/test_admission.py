"""Tasks without room are refused, or admitted later and in order. Here, a writer has room for two tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.client.queued.faulty_mailboxes import new_writer

from livethread.errors import NOTHING_STORED, ResourceExhausted, ThreadNotFound, Unavailable
from livethread.metadata import ThreadMetadataPatch
from livethread.ordered_tasks import AppendItems, CreateThread, OrderedTask, UpdateThreadMetadata
from livethread.queued import admission as admission_module
from livethread.queued.admission import Admission
from livethread.queued.writer import Budget, Submission, Writer
from livethread_config import Settings

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
THREAD = "019a93b9-f380-7600-98ff-940e6b99603a"
ROOM = 2


class Gate:
    """An `Admission` to one writer, with itself as a fake outbox and a fake `ProgressWatch`."""

    def __init__(self, settings: Settings, *, limit: int = 1_000_000) -> None:
        self.budget = Budget(limit)
        self.writer = self.new_writer()
        self.asked: list[Writer] = []
        self.sent: list[Writer] = []
        self.on_ask: Callable[[], None] = lambda: None
        itself: Any = self
        self.admission = Admission(settings, self.budget, outbox=itself, progress=itself)

    def new_writer(self) -> Writer:
        return new_writer(THREAD, self.budget, max_tasks=ROOM)

    def send(self, writer: Writer) -> None:
        self.sent.append(writer)

    async def ask_all(self, first: Writer) -> None:
        self.asked.append(first)
        self.on_ask()

    async def append(self, text: str, writer: Writer | None = None) -> Submission:
        submission = Submission(OrderedTask(AppendItems(at=AT), (text.encode(),)).encode())
        await self.admission.submit(writer or self.writer, submission)
        return submission

    def start(self, *texts: str) -> list[asyncio.Task[Submission]]:
        return [asyncio.create_task(self.append(text)) for text in texts]

    def apply_one(self) -> None:
        """Release the first task, as if a worker had applied it."""
        self.writer.take(1)
        n = self.writer.last_accepted + 1
        self.writer.accept(n, f"{n}-0", 1)
        self.writer.note_applied(n, f"{n}-0")

    def texts(self) -> list[bytes]:
        return [submission.task.lines for submission in self.writer.queue]


@pytest.fixture
def waiting() -> Settings:
    return Settings(redis_url="redis://none", backpressure="wait", backpressure_timeout_s=10.0)


async def run_ready_tasks() -> None:
    """Let every asyncio task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_by_default_a_task_without_room_is_refused_at_once() -> None:
    gate = Gate(Settings(redis_url="redis://none"))
    for text in "ab":
        assert (await gate.append(text)).deadline == 0.0

    with pytest.raises(ResourceExhausted, match="2 tasks of thread"):
        await gate.append("c")

    assert gate.texts() == [b"a", b"b"]


async def test_waiting_tasks_are_admitted_in_order_as_soon_as_there_is_room(waiting: Settings) -> None:
    gate = Gate(waiting)
    tasks = gate.start("a", "b", "c", "d", "e")
    await run_ready_tasks()
    assert gate.texts() == [b"a", b"b"]
    seen = []

    while gate.writer.queue:
        seen += gate.texts()[:1]
        gate.apply_one()
        await run_ready_tasks()

    assert seen == [b"a", b"b", b"c", b"d", b"e"]
    assert [(await task).order for task in tasks] == [1, 2, 3, 4, 5]
    assert not gate.writer.admission_lock.locked()
    assert set(gate.sent) == {gate.writer}


async def test_a_new_task_does_not_overtake_a_waiting_one_even_if_there_is_room(waiting: Settings) -> None:
    """There is room, but the waiting task has not yet had the chance to take it."""
    gate = Gate(waiting)
    gate.start("a", "b", "first in line")
    await run_ready_tasks()

    gate.apply_one()
    gate.apply_one()
    await gate.append("late")

    assert gate.texts() == [b"first in line", b"late"]


async def test_a_cancelled_append_stores_nothing_and_the_others_keep_their_order(waiting: Settings) -> None:
    gate = Gate(waiting)
    tasks = gate.start("a", "b", "c", "d", "e")
    await run_ready_tasks()

    for cancelled in (tasks[2], tasks[3]):  # the first in line, and the second
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await cancelled
        assert raised.value.__notes__ == [NOTHING_STORED]
    gate.apply_one()
    await run_ready_tasks()

    assert gate.texts() == [b"b", b"e"]


async def test_a_timeout_stores_nothing_and_its_error_says_why(waiting: Settings) -> None:
    gate = Gate(waiting.model_copy(update={"backpressure_timeout_s": 0.01}))
    tasks = gate.start("a", "b", "c", "d")

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result).__mro__[1] for result in results[2:]] == [ResourceExhausted] * 2
    assert str(results[2]).startswith("waited 0.01 s for room: 2 tasks of thread")
    assert gate.texts() == [b"a", b"b"]
    assert gate.budget.used == sum(s.size for s in gate.writer.queue)
    assert not gate.writer.admission_lock.locked()


async def test_a_task_that_waits_for_bytes_is_admitted_when_any_writer_frees_them(waiting: Settings) -> None:
    size = (await Gate(waiting).append("x" * 100)).size
    gate = Gate(waiting, limit=size)
    other = gate.new_writer()
    await gate.append("x" * 100, other)
    [task] = gate.start("y" * 100)
    await run_ready_tasks()
    waited = not task.done()

    other.drop_all(Unavailable("gone"))
    await run_ready_tasks()

    assert waited
    assert task.done()


async def test_a_task_that_can_never_fit_is_refused_at_once(waiting: Settings) -> None:
    gate = Gate(waiting, limit=100)

    with pytest.raises(ResourceExhausted, match="only 100 bytes may wait to be applied"):
        await gate.append("x" * 100)


async def test_an_error_that_is_not_about_room_is_raised_at_once(waiting: Settings) -> None:
    gate = Gate(waiting)
    gate.start("a", "b")
    await run_ready_tasks()

    gate.writer.close()
    with pytest.raises(ThreadNotFound, match="it was shut down or discarded"):
        await gate.append("c", gate.writer)


async def test_redis_is_asked_if_no_acknowledgement_makes_room(
    waiting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "ASK_INTERVAL", 0.001)
    gate = Gate(waiting)
    gate.on_ask = gate.apply_one
    tasks = gate.start("a", "b", "c")

    await tasks[2]

    assert gate.asked == [gate.writer]


async def test_closing_the_store_fails_the_waiting_tasks(waiting: Settings) -> None:
    gate = Gate(waiting)
    tasks = gate.start("a", "b", "c", "d")
    await run_ready_tasks()

    gate.admission.stop()

    results = await asyncio.gather(*tasks[2:], return_exceptions=True)
    assert [str(result) for result in results] == ["the store was closed before Redis accepted the task"] * 2
    assert gate.texts() == [b"a", b"b"]


@pytest.mark.parametrize("backpressure", ["refuse", "wait"])
async def test_a_creation_is_sent_even_if_the_first_task_has_no_room(waiting: Settings, backpressure: str) -> None:
    """Otherwise it would never be applied, and its room never freed."""
    gate = Gate(waiting.model_copy(update={"backpressure": backpressure, "backpressure_timeout_s": 0.01}))
    gate.writer.creation = OrderedTask(CreateThread(at=AT, session_meta={"id": THREAD})).encode()
    patch = OrderedTask(UpdateThreadMetadata(at=AT, patch=ThreadMetadataPatch(title="t"), derived=True)).encode()
    pair = Submission(OrderedTask(AppendItems(at=AT), (b"x",)).encode(), patch=patch)

    with pytest.raises(ResourceExhausted):
        await gate.admission.submit(gate.writer, pair)

    assert [queued.task.op for queued in gate.writer.queue] == ["create_thread"]
    assert gate.writer in gate.sent
    gate.apply_one()
    await gate.admission.submit(gate.writer, pair)
    assert list(gate.writer.queue) == [pair]
