"""The system page: what ``livethread status`` says, and a link to Flower."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from livethread.status.status import Status
from livethread.web.events import event_stream
from livethread.web.render import render

#: How often a page gets the status.
INTERVAL: Final = 2.0  # seconds


class StatusSource(Protocol):
    """Reads the status of the deployment."""

    async def read(self) -> Status:
        """Return the status."""
        ...


async def show_system(request: Request) -> Response:
    """Show the status of the deployment."""
    state = request.app.state
    return HTMLResponse(render("system.html", status=await state.status.read(), flower=state.flower))


async def stream_status(request: Request) -> Response:
    """Stream the status of the deployment."""
    state = request.app.state
    return event_stream(follow(state.status, state.is_stopping))


async def follow(source: StatusSource, is_over: Callable[[], bool]) -> AsyncGenerator[str]:
    """Yield events that bring a page up to date, until it *is_over*; see `live.follow`."""
    yield "retry: 1000\n\n"
    while not is_over():
        html = render("status.html", status=await source.read())
        yield f"data: {json.dumps([('status', 'system', html)])}\n\n"
        await asyncio.sleep(INTERVAL)
