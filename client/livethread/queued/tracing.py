"""The caller's trace context, if the caller uses OpenTelemetry."""

from __future__ import annotations

import sys


def current_traceparent() -> str:
    """Return the current span's context as W3C's ``traceparent``; "" without a span, or if the span is not sampled.

    Imports nothing: no span is current in a process that has not imported OpenTelemetry's API.
    """
    # The module may still be loading in another thread.
    get_current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if get_current_span is None:
        return ""
    context = get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
