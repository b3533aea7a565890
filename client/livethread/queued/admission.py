"""Decides what happens to a submission that has no room in this process or in its mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from livethread.errors import NOTHING_STORED, Unavailable
from livethread.queued.connection import cancellable
from livethread.queued.outbox import Outbox
from livethread.queued.progress import ProgressWatch
from livethread.queued.writer import Budget, NoRoom, Submission, Writer
from livethread_config import Settings

#: How long to wait for room before asking Redis whether there is any: publications may be lost.
ASK_INTERVAL: Final = 1.0  # seconds


#: Raises if a submission must not be queued.
Check = Callable[[], Awaitable[None]]


class Admission:
    """Queues submissions in each writer's order: at once, or, with ``backpressure=wait``, once there is room."""

    def __init__(self, settings: Settings, budget: Budget, outbox: Outbox, progress: ProgressWatch) -> None:
        self._timeout_s = settings.backpressure_timeout_s if settings.backpressure == "wait" else None
        self._budget = budget
        self._outbox = outbox
        self._progress = progress
        self._is_stopped = False

    def stop(self) -> None:
        """End all waits for room."""
        self._is_stopped = True
        self._budget.freed.set()

    async def submit(
        self, writer: Writer, submission: Submission | None, check: Check | None = None
    ) -> Submission | None:
        """Queue *submission* and have it sent; return it. None stands for the thread's creation, if that is due.

        *check* runs first, and its error is raised. Later submissions of the writer wait for it.

        Raises:
            ResourceExhausted: there was no room in time; nothing is stored.
            ThreadNotFound: the thread was shut down or discarded.
            Unavailable: the store was closed meanwhile.
        """
        try:
            if self._timeout_s is not None:
                return await self._submit_when_there_is_room(writer, submission, self._timeout_s, check)
            async with writer.admission_lock:
                if check is not None:
                    await check()
                return writer.submit(submission)
        finally:
            self._outbox.send(writer)  # even on an error: a queued creation makes room once it is applied

    async def _submit_when_there_is_room(
        self, writer: Writer, submission: Submission | None, timeout_s: float, check: Check | None
    ) -> Submission | None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        reason = f"other tasks of thread {writer.thread_id} wait before it"
        try:
            async with asyncio.timeout_at(deadline), writer.admission_lock:
                if check is not None:
                    await check()
                while not self._is_stopped:
                    try:
                        return writer.submit(submission, deadline)
                    except NoRoom as error:
                        reason = str(error)
                    if writer.queue and not writer.queue[0].is_postponed:
                        self._outbox.send(writer)
                    await self._until_freed(writer)
        except TimeoutError:
            raise NoRoom(f"waited {timeout_s:g} s for room: {reason}") from None
        except asyncio.CancelledError as cancelled:
            cancelled.add_note(NOTHING_STORED)
            raise
        raise Unavailable("the store was closed before Redis accepted the task")

    async def _until_freed(self, writer: Writer) -> None:
        self._budget.freed.clear()
        try:
            async with asyncio.timeout(ASK_INTERVAL):
                await self._budget.freed.wait()
        except TimeoutError:
            await cancellable(self._progress.ask_all(writer))
