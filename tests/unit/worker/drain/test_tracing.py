from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from tests.nodes.spans import TRACER, exporter, traceparent
from tests.unit.worker.builders import Mail

from livethread.ordered_tasks import MailboxEntry
from livethread.position import position_key
from livethread.queued.put_back import PutBack
from livethread_worker.drain.mailbox import Claim
from livethread_worker.drain.tracing import MAX_LINKS, trace_batch
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

QUEUE = "livethread.0"
#: Unix times in s, after all positions of `Mail`.
STARTED_AT, DURABLE_AT = 2_000.0, 2_000.5

COMMON = {
    "messaging.system": "livethread",
    "messaging.destination.name": QUEUE,
    "messaging.operation.type": "process",
}


@pytest.fixture(autouse=True)
def provider() -> Iterator[None]:
    exporter()
    yield
    exporter().clear()


@pytest.fixture
def turn() -> trace.Span:
    """A span of the caller."""
    return TRACER.start_span("turn")


def traced(entry: MailboxEntry, span: trace.Span) -> MailboxEntry:
    return entry._replace(traceparent=traceparent(span).encode())


def apply(mail: Mail, entries: list[MailboxEntry], outcome: Outcome | None = None) -> list[ReadableSpan]:
    """Trace a batch of one thread; return the spans of its tasks, and the batch's at the end."""
    outcome = outcome or Outcome(OutcomeKind.DONE, entries[-1].position)
    claims = [Claim(mail.thread_id, PutBack(), entries)]
    trace_batch(QUEUE, claims, {mail.thread_id: outcome}, STARTED_AT, DURABLE_AT)
    return list(exporter().get_finished_spans())


def test_an_append_is_shown_in_its_callers_trace_until_it_is_durable(turn: trace.Span) -> None:
    mail = Mail()
    entry = traced(mail.append("one"), turn)
    enqueued_at, _ = position_key(entry.position)

    task, batch = apply(mail, [entry])

    assert (task.name, task.kind, task.parent) == (
        f"append_items {QUEUE}",
        trace.SpanKind.CONSUMER,
        trace.SpanContext(*turn.get_span_context()[:2], is_remote=True, trace_flags=trace.TraceFlags(3)),
    )
    assert (task.start_time, task.end_time) == (enqueued_at * 1_000_000, 2_000_500_000_000)
    assert task.attributes == COMMON | {
        "messaging.operation.name": "append_items",
        "messaging.message.id": "w1-1",
        "messaging.message.conversation_id": mail.thread_id,
        "messaging.message.body.size": entry.task.size,
        "livethread.position": entry.position,
    }
    assert [link.context for link in task.links] == [batch.get_span_context()]
    assert task.status.is_unset


def test_a_batch_has_a_trace_of_its_own_that_links_to_the_callers(turn: trace.Span) -> None:
    mail, other = Mail(), TRACER.start_span("another turn")
    entries = [
        traced(mail.append("one"), turn),
        traced(mail.append("two"), other),
        traced(mail.append("three"), turn),
    ]

    with TRACER.start_as_current_span("the Celery task"):
        *tasks, batch = apply(mail, [*entries, mail.append("without a trace")])

    assert (batch.name, batch.kind, batch.parent) == (f"apply {QUEUE}", trace.SpanKind.CONSUMER, None)
    assert (batch.start_time, batch.end_time) == (2_000_000_000_000, 2_000_500_000_000)
    assert batch.attributes == COMMON | {"messaging.operation.name": "apply", "messaging.batch.message_count": 4}
    assert [link.context.span_id for link in batch.links] == [
        span.get_span_context().span_id for span in (turn, other)
    ]
    assert len(tasks) == 3


def test_a_large_batch_has_as_many_links_as_the_sdk_keeps() -> None:
    mail = Mail()
    entries = [traced(mail.append(f"{n}"), TRACER.start_span("turn")) for n in range(MAX_LINKS + 2)]

    *tasks, batch = apply(mail, entries)

    assert (len(tasks), len(batch.links), batch.dropped_links) == (MAX_LINKS + 2, MAX_LINKS, 0)


@pytest.mark.parametrize(
    "traceparent",
    [
        b"",
        b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00",
        b"00-" + b"0" * 32 + b"-" + b"2" * 16 + b"-01",
        b"00-" + b"1" * 32 + b"-" + b"2" * 16,
        b"\xff\x1b[2J",
    ],
    ids=["none", "not sampled", "invalid", "torn", "junk"],
)
def test_a_task_without_a_sampled_trace_has_no_span(traceparent: bytes) -> None:
    mail = Mail()

    assert apply(mail, [mail.append("one")._replace(traceparent=traceparent)]) == []


def test_a_parked_task_ends_with_the_reason_and_later_ones_have_no_span(turn: trace.Span) -> None:
    mail = Mail()
    entries = [traced(mail.append(text), turn) for text in ("durable", "poisoned", "later")]

    durable, parked, _ = apply(mail, entries, Outcome(OutcomeKind.POISONED, entries[0].position, "bad \ud800"))

    assert durable.status.is_unset
    assert (parked.status.status_code, parked.status.description) == (trace.StatusCode.ERROR, "bad ?")
    assert attributes(parked)["error.type"] == "parked"
    assert attributes(parked)["livethread.position"] == entries[1].position


@pytest.mark.parametrize("kind", [OutcomeKind.LOCKED, OutcomeKind.BUSY, OutcomeKind.FAILED])
def test_a_task_that_is_put_back_has_no_span_yet(kind: OutcomeKind, turn: trace.Span) -> None:
    mail = Mail()

    assert apply(mail, [traced(mail.append("one"), turn)], Outcome(kind, reason="later")) == []


def test_a_position_ahead_of_the_workers_clock_gives_a_span_without_length(turn: trace.Span) -> None:
    mail = Mail()

    task, _ = apply(mail, [traced(mail.append("one"), turn)._replace(position="2001000-0")])

    assert task.start_time == task.end_time == 2_000_500_000_000


def test_a_failing_provider_is_logged(
    turn: trace.Span, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: str) -> trace.Tracer:
        raise OSError("full")

    monkeypatch.setattr(trace, "get_tracer", fail)
    mail = Mail()

    with caplog.at_level(logging.WARNING):
        assert apply(mail, [traced(mail.append("one"), turn)]) == []

    assert [record.getMessage() for record in caplog.records] == ["recording spans failed: full"]


def test_attributes_are_those_of_the_conventions(turn: trace.Span) -> None:
    mail = Mail()
    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}

    names = {name for span in apply(mail, [traced(mail.append("one"), turn)]) for name in attributes(span)}

    assert names - known == {"livethread.position"}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})
