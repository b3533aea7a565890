from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from opentelemetry import trace
from tests.nodes.spans import TRACER, exporter, traceparent

from livethread.queued.tracing import current_traceparent

SAMPLED, UNSAMPLED = trace.TraceFlags(1), trace.TraceFlags(0)


@pytest.fixture(autouse=True)
def provider() -> Iterator[None]:
    exporter()
    yield
    exporter().clear()


def span_of(trace_id: int, span_id: int, flags: trace.TraceFlags) -> trace.Span:
    return trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags))


def test_the_current_span_is_named() -> None:
    with TRACER.start_as_current_span("turn") as span:
        assert current_traceparent() == traceparent(span)


def test_ids_are_padded_with_zeros() -> None:
    with trace.use_span(span_of(1, 2, SAMPLED)):
        assert current_traceparent() == f"00-{'0' * 31}1-{'0' * 15}2-01"


@pytest.mark.parametrize(
    "span", [trace.INVALID_SPAN, span_of(1, 2, UNSAMPLED)], ids=["no span", "a span that is not sampled"]
)
def test_nothing_else_is_named(span: trace.Span) -> None:
    with trace.use_span(span):
        assert current_traceparent() == ""


@pytest.mark.parametrize("module", [None, ModuleType("trace")], ids=["not imported", "still importing"])
def test_no_span_is_current_before_the_api_is_imported(
    module: ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TRACER.start_as_current_span("turn"):
        monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)

        assert current_traceparent() == ""
