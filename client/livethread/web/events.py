"""Answers that stream server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse


def event_stream(events: AsyncIterator[str]) -> Response:
    """Return the answer that streams *events*, past caches and the buffers of proxies."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
