"""OpenTelemetry in the test's process: spans are sampled, and kept in memory."""

from __future__ import annotations

from functools import cache

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACER = trace.get_tracer("tests")


@cache
def exporter() -> InMemorySpanExporter:
    """Return the exporter of the process's only provider; a process cannot replace its provider."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    return kept


def traceparent(span: trace.Span) -> str:
    """Return the W3C header of a sampled span."""
    context = span.get_span_context()
    return f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}-03"
