"""Workers inside the test's process: one that the test drives, and Celery's own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from celery.contrib.testing.worker import start_worker
from redis import Redis
from tests.nodes.items import flush, thread_with

from livethread import ThreadStore
from livethread.queued.outage import Outage
from livethread_config import Settings
from livethread_worker.app import create_app
from livethread_worker.drain.drain import Drain
from livethread_worker.drain.mailbox import Mailbox
from livethread_worker.drain.task_events import TaskEvents
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index


class HandWorker:
    """A worker that drains only when the test calls it, and counts the doorbells that it would have rung."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = Home(settings.home)
        self.rings = 0
        self.redis = Redis.from_url(settings.client_url)
        self._index: Index | None = None

    def mailbox(self, shard: int = 0) -> Mailbox:
        """Return the mailboxes of a new drain, for a test that claims and settles itself."""
        return Mailbox(self.redis, self.settings, shard)

    def index(self) -> Index:
        if self._index is None:
            self.home.create()
            self._index = Index(self.home)
        return self._index

    def drain(self) -> dict[str, int]:
        """Do what the Celery task ``livethread.drain`` does, and return its result."""
        mailbox = self.mailbox()
        return Drain(
            mailbox,
            self.home,
            self.index,
            self.settings,
            ring=self._ring,
            reads_wait=lambda: False,
            events=TaskEvents(None, 0),
            outage=Outage(logging.getLogger(__name__), "drain"),
        ).run()

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
        self.redis.close()

    def _ring(self) -> None:
        self.rings += 1


@asynccontextmanager
async def draining(worker: HandWorker) -> AsyncIterator[None]:
    """Have *worker* drain repeatedly during the block, whether or not a doorbell rings."""
    ended = False

    async def go_on() -> None:
        while not ended:
            await asyncio.to_thread(worker.drain)
            await asyncio.sleep(0.02)

    task = asyncio.ensure_future(go_on())
    try:
        yield
    finally:
        ended = True
        await task


@contextmanager
def celery_worker(settings: Settings, loglevel: str = "ERROR") -> Iterator[None]:
    """Run a Celery worker in a thread, with its own app, as Celery caches connections per app."""
    app = create_app(settings)
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        name = f"in-process-{os.getpid()}@test"
        with start_worker(app, pool="solo", perform_ping_check=False, hostname=name, loglevel=loglevel):
            yield
    finally:
        # Celery's worker sets up the root logger as if the process were its own.
        root.level, root.handlers = level, handlers
        app.close()


async def applied_thread(store: ThreadStore, worker: HandWorker, text: str) -> str:
    """Open a new thread, have *worker* apply a message, and return the thread's id."""
    thread_id = await thread_with(store, text)
    async with draining(worker):
        await flush(store, thread_id)
    return thread_id
