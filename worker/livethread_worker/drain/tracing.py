"""Spans of applied tasks, if the worker's process uses OpenTelemetry.

Each task of a sampled trace gets a span in that trace, from the time of its position until it is durable; their batch gets
one in a trace of its own. Names and attributes are those of OpenTelemetry's conventions for messaging.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from livethread.ordered_tasks import MailboxEntry
from livethread.position import position_key
from livethread_worker.drain.mailbox import Claim
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

logger = logging.getLogger(__name__)

#: Most links of a batch's span: the SDK drops more, and each takes as long as a task.
MAX_LINKS: Final = 128

_TRACEPARENT: Final = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class _Traced(NamedTuple):
    """A task with the trace context of its caller."""

    thread_id: str
    entry: MailboxEntry
    #: Why the task cannot be applied; None if it is durable.
    failure: str | None
    context: Any  # a SpanContext: the API may be missing


def trace_batch(
    queue: str, claims: list[Claim], outcomes: dict[str, Outcome], started_at: float, durable_at: float
) -> None:
    """Record spans of the finished tasks of *claims*; both times are Unix times in s.

    A failure to record them is logged and has no other effect.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")  # without it, the process has no provider
    if trace is None:
        return
    try:
        if traced := list(_traced(trace, claims, outcomes)):
            count = sum(len(claim.entries) for claim in claims)
            _record(trace, queue, traced, count, (_ns(started_at), _ns(durable_at)))
    except Exception as error:  # noqa: BLE001 - a provider may raise anything
        logger.warning("recording spans failed: %s", error, extra={"action": "trace", "error": type(error).__name__})


def _traced(trace: Any, claims: Iterable[Claim], outcomes: dict[str, Outcome]) -> Iterator[_Traced]:
    for claim in claims:
        outcome = outcomes[claim.thread_id]
        finished: list[tuple[MailboxEntry, str | None]] = [(entry, None) for entry in claim.applied(outcome)]
        stopped = claim.stopped_at(outcome)
        if outcome.kind is OutcomeKind.POISONED and isinstance(stopped, MailboxEntry):
            finished.append((stopped, outcome.reason))
        for entry, failure in finished:
            if context := _sampled(trace, entry.traceparent):
                yield _Traced(claim.thread_id, entry, failure, context)


def _sampled(trace: Any, traceparent: bytes) -> Any:
    """Return the context of a sampled span; None if *traceparent* names none."""
    fields = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if fields is None:
        return None
    trace_id, span_id, flags = (int(field, 16) for field in fields.groups())
    context = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
    return context if context.is_valid and context.trace_flags.sampled else None


def _record(trace: Any, queue: str, tasks: list[_Traced], count: int, times: tuple[int, int]) -> None:
    """Record the spans of *tasks*, and of their batch of *count* tasks."""
    started, ended = times
    tracer = trace.get_tracer("livethread")
    common = {
        "messaging.system": "livethread",
        "messaging.destination.name": queue,
        "messaging.operation.type": "process",
    }
    contexts = {task.context.span_id: task.context for task in tasks}.values()
    batch = tracer.start_span(
        f"apply {queue}",
        trace.set_span_in_context(trace.INVALID_SPAN),  # not in the trace of the client that rang
        trace.SpanKind.CONSUMER,
        common | {"messaging.operation.name": "apply", "messaging.batch.message_count": count},
        [trace.Link(context) for context in list(contexts)[:MAX_LINKS]],
        started,
    )
    for thread_id, entry, failure, context in tasks:
        op, enqueued = entry.task.header.op, position_key(entry.position)[0] * 1_000_000
        span = tracer.start_span(
            f"{op} {queue}",
            trace.set_span_in_context(trace.NonRecordingSpan(context)),
            trace.SpanKind.CONSUMER,
            common
            | {
                "messaging.operation.name": op,
                "messaging.message.id": f"{entry.writer}-{entry.n}",  # as in the events
                "messaging.message.conversation_id": thread_id,
                "messaging.message.body.size": entry.task.size,
                "livethread.position": entry.position,
            },
            [trace.Link(batch.get_span_context())],
            min(enqueued, ended),  # Redis' clock may be ahead
        )
        if failure is not None:
            span.set_attribute("error.type", "parked")
            span.set_status(trace.StatusCode.ERROR, failure.encode(errors="replace").decode())
        span.end(ended)
    batch.end(ended)


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
