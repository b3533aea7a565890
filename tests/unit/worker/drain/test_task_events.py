from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery.utils.time import utcoffset
from kombu import Exchange
from kombu.clocks import LamportClock
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.unit.worker.builders import Mail

from livethread.queued.put_back import PutBack
from livethread_worker.drain.mailbox import Claim, Malformed
from livethread_worker.drain.task_events import EVENTS_KEPT, EVENTS_PER_MESSAGE, TaskEvents
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

if TYPE_CHECKING:
    from celery.events.dispatcher import EventDispatcher

STARTED_AT = 2_000.0
DONE, POISONED = OutcomeKind.DONE, OutcomeKind.POISONED

#: The fields with which a dispatcher identifies itself in each event.
SENDER = {"hostname": "worker@host", "pid": 7, "utcoffset": utcoffset()}


@dataclass
class FakeDispatcher:
    """Celery's dispatcher and its producer, with the attributes that `TaskEvents` uses."""

    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    clocks: list[int] = field(default_factory=list)
    messages: int = 0
    fault: Exception | None = None
    hostname: str = "worker@host"
    pid: int = 7
    clock: LamportClock = field(default_factory=LamportClock)
    exchange: Exchange = field(default_factory=lambda: Exchange("celeryev"))
    headers: dict[str, str] = field(default_factory=lambda: {"hostname": "worker@host"})
    delivery_mode: int = 1

    @property
    def producer(self) -> FakeDispatcher:
        return self

    def publish(self, body: bytes, **options: Any) -> None:
        if self.fault:
            raise self.fault
        assert options == {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "routing_key": "task.multi",
            "exchange": "celeryev",
            "declare": [self.exchange],
            "headers": self.headers,
            "delivery_mode": 1,
        }
        self.messages += 1
        for event in json.loads(body):
            self.clocks.append(event.pop("clock"))
            assert {name: event.pop(name) for name in SENDER} == SENDER
            self.sent.append((event.pop("type"), event))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.sent]

    def uuids(self, kind: str) -> list[str]:
        return [fields["uuid"] for sent, fields in self.sent if sent == kind]


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def dispatcher() -> FakeDispatcher:
    return FakeDispatcher()


def events(dispatcher: FakeDispatcher | None, per_second: int) -> TaskEvents:
    return TaskEvents(cast("EventDispatcher | None", dispatcher), per_second)


def report(events: TaskEvents, mail: Mail, count: int) -> None:
    entries = [mail.append("x") for _ in range(count)]
    claim = Claim(mail.thread_id, PutBack(), entries)
    events.report([claim], {mail.thread_id: Outcome(DONE, entries[-1].position)}, STARTED_AT)


def test_an_applied_task_is_received_started_and_succeeded(dispatcher: FakeDispatcher) -> None:
    mail = Mail()
    claim = Claim(mail.thread_id, PutBack(), [mail.append("hello", "wörld")])

    events(dispatcher, 100).report([claim], {mail.thread_id: Outcome(DONE, "1001-0")}, STARTED_AT)

    (received, first), (started, second), (succeeded, third) = dispatcher.sent
    size = claim.entries[0].task.size
    kwargs = f"{{'thread': '{mail.thread_id}', 'position': '1001-0', 'items': 2, 'bytes': {size}}}"
    assert (received, started, succeeded) == ("task-received", "task-started", "task-succeeded")
    assert first == {
        "timestamp": 1.001,
        "uuid": "w1-1",
        "name": "livethread.append_items",
        "args": "()",
        "kwargs": kwargs,
        "retries": 0,
        "root_id": "w1-1",
    }
    assert second == {"timestamp": STARTED_AT, "uuid": "w1-1"}
    assert (third["uuid"], third["result"]) == ("w1-1", "'durable'")
    assert third["runtime"] == third["timestamp"] - STARTED_AT
    assert (dispatcher.messages, dispatcher.clocks) == (1, [1, 2, 3])


def test_a_poisoned_task_failed_and_the_tasks_before_it_succeeded(dispatcher: FakeDispatcher) -> None:
    mail = Mail()
    claim = Claim(mail.thread_id, PutBack(), [mail.create(), mail.append("bad"), mail.append("waits")])
    outcome = Outcome(POISONED, "1001-0", "InvalidRequest: no item")

    events(dispatcher, 100).report([claim], {mail.thread_id: outcome}, STARTED_AT)

    assert dispatcher.uuids("task-received") == ["w1-2", "w1-1"]
    assert dispatcher.uuids("task-succeeded") == ["w1-1"]
    (failed,) = [fields for kind, fields in dispatcher.sent if kind == "task-failed"]
    assert (failed["uuid"], failed["exception"]) == ("w1-2", "InvalidRequest: no item")


@pytest.mark.parametrize("kind", [OutcomeKind.LOCKED, OutcomeKind.BUSY, OutcomeKind.FAILED])
def test_a_thread_that_will_be_retried_is_not_reported(dispatcher: FakeDispatcher, kind: OutcomeKind) -> None:
    mail = Mail()
    claim = Claim(mail.thread_id, PutBack(), [mail.append("x")])

    events(dispatcher, 100).report([claim], {mail.thread_id: Outcome(kind, reason="locked")}, STARTED_AT)

    assert dispatcher.sent == []


def test_a_malformed_entry_failed_and_the_tasks_before_it_succeeded(dispatcher: FakeDispatcher) -> None:
    mail = Mail()
    malformed = Malformed("1002-0", 40, "KeyError: b'writer'")
    claim = Claim(mail.thread_id, PutBack(), [mail.append("x")], malformed)

    events(dispatcher, 100).report([claim], {mail.thread_id: Outcome(POISONED, "1001-0", str(malformed))}, STARTED_AT)

    uuid = f"{mail.thread_id}-1002-0"
    assert (dispatcher.uuids("task-succeeded"), dispatcher.uuids("task-failed")) == (["w1-1"], [uuid])
    received = dispatcher.sent[0][1]
    assert (received["uuid"], received["name"]) == (uuid, "livethread.malformed_entry")
    assert received["kwargs"] == f"{{'thread': '{mail.thread_id}', 'position': '1002-0', 'items': 0, 'bytes': 40}}"
    (failed,) = [fields for kind, fields in dispatcher.sent if kind == "task-failed"]
    assert failed["exception"] == "the entry at 1002-0 is not a task: KeyError: b'writer'"


def test_no_event_contains_contents(dispatcher: FakeDispatcher) -> None:
    mail = Mail()
    claim = Claim(
        mail.thread_id,
        PutBack(),
        [mail.create(cwd="/secret", base_instructions="secret"), mail.append("secret", "secret")],
    )

    events(dispatcher, 100).report([claim], {mail.thread_id: Outcome(DONE, "1002-0")}, STARTED_AT)

    assert len(dispatcher.sent) == 6
    assert "secret" not in repr(dispatcher.sent)


def test_every_task_is_reported_up_to_the_rate(dispatcher: FakeDispatcher, clock: Clock) -> None:
    report(events(dispatcher, 10), Mail(), 10)

    assert dispatcher.uuids("task-succeeded") == [f"w1-{n}" for n in range(1, 11)]


def test_an_even_sample_is_reported_above_the_rate(dispatcher: FakeDispatcher, clock: Clock) -> None:
    report(events(dispatcher, 4), Mail(), 12)

    assert dispatcher.uuids("task-succeeded") == ["w1-1", "w1-4", "w1-7", "w1-10"]


def test_the_budget_refills_up_to_one_second_of_tasks(dispatcher: FakeDispatcher, clock: Clock) -> None:
    mail, reporter = Mail(), events(dispatcher, 4)
    counts = []

    for seconds in (0.0, 0.0, 0.5, 100.0, 0.1):
        clock.now += seconds
        before = len(dispatcher.uuids("task-succeeded"))
        report(reporter, mail, 12)
        counts.append(len(dispatcher.uuids("task-succeeded")) - before)

    assert counts == [4, 0, 2, 4, 0]


def test_a_failure_is_reported_even_if_the_budget_is_spent(dispatcher: FakeDispatcher, clock: Clock) -> None:
    mail, reporter = Mail(), events(dispatcher, 1)
    report(reporter, mail, 5)
    claim = Claim(mail.thread_id, PutBack(), [mail.append("bad")])

    reporter.report([claim], {mail.thread_id: Outcome(POISONED, reason="bad")}, STARTED_AT)
    reporter.send()

    assert dispatcher.uuids("task-failed") == ["w1-6"]


def test_small_batches_share_a_message(dispatcher: FakeDispatcher, clock: Clock) -> None:
    mail, reporter = Mail(), events(dispatcher, 100)
    messages = []

    for seconds in (0.0, 0.06, 0.06):
        clock.now += seconds
        report(reporter, mail, 1)
        messages.append(dispatcher.messages)
    report(reporter, mail, 1)
    reporter.send()
    reporter.send()

    assert messages == [1, 1, 2]
    assert dispatcher.messages == 3
    assert dispatcher.uuids("task-succeeded") == ["w1-1", "w1-2", "w1-3", "w1-4"]


def test_a_rate_of_zero_reports_nothing(dispatcher: FakeDispatcher) -> None:
    report(events(dispatcher, 0), Mail(), 3)

    assert (dispatcher.sent, dispatcher.messages) == ([], 0)


def test_without_a_dispatcher_nothing_is_kept_to_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    reporter = events(None, 100)

    report(reporter, Mail(), 3)
    reporter.send()

    assert reporter._unsent == []
    assert caplog.records == []


@pytest.mark.parametrize(
    "fault", [ConnectionResetError("gone"), RedisConnectionError("gone"), OperationalError("gone")]
)
def test_a_failure_to_send_events_is_logged_and_not_raised(
    dispatcher: FakeDispatcher, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    dispatcher.fault = fault

    report(events(dispatcher, 100), Mail(), 1)

    assert [(r.name, r.getMessage()) for r in caplog.records] == [
        ("livethread_worker.drain.task_events", f"sending task events failed, and is tried again: {fault!r}")
    ]


def test_events_that_could_not_be_sent_go_with_the_next_report(dispatcher: FakeDispatcher) -> None:
    mail, reporter = Mail(), events(dispatcher, 100)
    dispatcher.fault = ConnectionResetError("gone")
    report(reporter, mail, 1)

    dispatcher.fault = None
    report(reporter, mail, 1)
    reporter.send()

    assert dispatcher.uuids("task-succeeded") == ["w1-1", "w1-2"]


def test_the_newest_events_are_kept_while_sending_fails(dispatcher: FakeDispatcher, clock: Clock) -> None:
    mail, reporter = Mail(), events(dispatcher, 2 * EVENTS_KEPT)
    dispatcher.fault = ConnectionResetError("gone")
    report(reporter, mail, EVENTS_KEPT)

    dispatcher.fault = None
    report(reporter, mail, 1)
    reporter.send()

    assert dispatcher.messages == -(-(EVENTS_KEPT + 3) // EVENTS_PER_MESSAGE)
    assert len(dispatcher.sent) == EVENTS_KEPT + 3
    assert dispatcher.uuids("task-succeeded")[-1] == f"w1-{EVENTS_KEPT + 1}"


def test_a_reason_with_a_lone_surrogate_is_reported(dispatcher: FakeDispatcher) -> None:
    mail = Mail()
    claim = Claim(mail.thread_id, PutBack(), [mail.append("bad")])

    events(dispatcher, 1).report([claim], {mail.thread_id: Outcome(POISONED, reason="not there: \udcff")}, STARTED_AT)

    (failed,) = [fields for kind, fields in dispatcher.sent if kind == "task-failed"]
    assert failed["exception"] == "not there: ?"


def test_tasks_of_one_millisecond_are_received_in_the_order_of_their_positions(dispatcher: FakeDispatcher) -> None:
    mail, reporter = Mail(), events(dispatcher, 10)
    positions = ["1796009826014-0", "1796009826014-9", "1796009826014-10", "1796009826014-5000", "1796009826015-0"]
    entries = [mail.append("x")._replace(position=position) for position in positions]

    reporter.report(
        [Claim(mail.thread_id, PutBack(), entries)], {mail.thread_id: Outcome(DONE, positions[-1])}, STARTED_AT
    )
    reporter.send()

    received = [fields["timestamp"] for kind, fields in dispatcher.sent if kind == "task-received"]
    assert received == [1796009826.014, 1796009826.014009, 1796009826.01401, 1796009826.014999, 1796009826.015]
