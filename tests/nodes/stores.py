"""Stores that are open for a block, and close within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from livethread import QueuedThreadStore, Settings, open_store

#: A store that takes longer to close counts as hung.
CLOSING = 5.0  # seconds


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    """Open the queued store of *settings*; closing it raises `TimeoutError` if it hangs."""
    manager = open_store(settings)
    store = await manager.__aenter__()
    try:
        yield store
    finally:
        async with asyncio.timeout(CLOSING):
            await manager.__aexit__(None, None, None)
