"""Watchers of threads, each in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.nodes.items import texts
from tests.nodes.waiting import eventually

from livethread import ThreadItem, WatchingReader, WatchThreadParams


@dataclass
class Watcher:
    """What one watcher has seen."""

    task: asyncio.Task[None] | None = None
    items: list[ThreadItem] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The texts of the messages that came."""
        return texts([each.item for each in self.items if each.item.type == "response_item"])

    async def until(self, *expected: str) -> None:
        """Wait until as many messages have come, and check that they are the *expected* ones, in order."""
        await eventually(lambda: len(self.texts) >= len(expected) or self.is_over, f"the messages {expected}")
        if self.is_over:
            await self.over()
        assert self.texts == [*expected]

    @property
    def is_over(self) -> bool:
        return self.task is not None and self.task.done()

    async def over(self) -> None:
        """Wait for the end of the watch, and raise its error."""
        assert self.task is not None
        await self.task


@asynccontextmanager
async def watching(reader: WatchingReader, thread_id: str, **params: Any) -> AsyncIterator[Watcher]:
    """Watch a thread within the block."""
    watcher = Watcher()

    async def watch() -> None:
        async for item in reader.watch_thread(WatchThreadParams.model_validate({"thread_id": thread_id} | params)):
            watcher.items.append(item)

    watcher.task = asyncio.create_task(watch())
    try:
        yield watcher
    finally:
        watcher.task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await watcher.task
