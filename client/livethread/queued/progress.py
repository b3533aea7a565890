"""Waits until workers have applied tasks; asks Redis as well, since publications may be lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from redis.exceptions import RedisError

from livethread.errors import ThreadParked
from livethread.open_threads import OpenThreads
from livethread.position import START, Position, position_key
from livethread.queued.backlog import ASK_FIRST, ASK_LONGEST, Backlog
from livethread.queued.connection import cancellable
from livethread.queued.mailboxes import Mailboxes
from livethread.queued.outbox import Outbox
from livethread.queued.writer import Writer
from livethread.types import ThreadFreshness
from livethread_config import Settings

#: Longest time, and at most half of a flush, without asking about a thread while publications about others arrive: no
#: publication says that Redis lost this thread's tasks.
ASK_ANYWAY: Final = 10.0  # seconds

#: Number of threads that are not open and whose next read waits for a position; older positions are long applied.
COLD_THREADS: Final = 10_000

NEVER: Final = float("-inf")

#: What a read demands unless it says otherwise.
BY_DEFAULT: Final = ThreadFreshness()


@dataclass(slots=True)
class Liveness:
    """Signs that workers are active, so that a waiting thread need not ask. Times are the loop's, in seconds."""

    #: Time of the last publication about any thread.
    heard_at: float = NEVER
    #: Time of the last query about each shard: one doorbell serves a shard, so one query serves all waiting threads.
    asked_at: dict[int, float] = field(default_factory=dict)
    #: Time of the last query about each shard that brought news.
    news_at: dict[int, float] = field(default_factory=dict)
    #: Why the last query about each shard failed, if it did.
    failures: dict[int, Exception] = field(default_factory=dict)

    def is_silent(self, shard: int, wait: float, now: float) -> bool:
        """Whether there was no such sign about *shard* for *wait* seconds."""
        news_at = self.news_at.get(shard, NEVER)
        was_published = self.heard_at >= news_at or now - news_at <= ASK_FIRST  # or may be about to be
        # If one publication was lost, others may be lost, too: then each thread has to ask for itself.
        asked_at = self.asked_at.get(shard, NEVER) if was_published else NEVER
        return now - max(self.heard_at, asked_at) >= wait


class ProgressWatch:
    """Waits for workers on behalf of one store."""

    def __init__(
        self, mailboxes: Mailboxes, settings: Settings, outbox: Outbox, threads: OpenThreads[Writer]
    ) -> None:
        self._mailboxes = mailboxes
        self._settings = settings
        self._outbox = outbox
        self._threads = threads
        self.backlog = Backlog(mailboxes, settings)
        self._liveness = Liveness()
        #: Thread -> position that its next read waits for.
        self._cold: dict[str, Position] = {}

    def note_publication(self) -> None:
        """Record that publications arrive."""
        self._liveness.heard_at = asyncio.get_running_loop().time()
        self._liveness.failures.clear()

    def remember(self, thread_id: str, position: Position) -> None:
        """Have the thread's next read wait for *position* though the thread is not open, or another writer got it."""
        self._cold[thread_id] = max(position, self._cold.get(thread_id, START), key=position_key)
        if len(self._cold) > COLD_THREADS:
            del self._cold[next(iter(self._cold))]

    async def catch_up(self, thread_id: str, demand: ThreadFreshness = BY_DEFAULT) -> Position:
        """Wait until everything is applied that this store had accepted for the thread, and what *demand* says.

        Return a position up to which the thread is applied then, as far as the wait tells. Unless *demand* asks for more
        than the default, a parked thread that is not open ends the wait.
        """
        writer = self._threads.get(thread_id)
        if writer is not None and writer.has_outstanding:
            await self.flush(writer, None)
        cold = self._cold.get(thread_id)
        if cold is None and not demand.is_demanding:
            return START
        position = max(cold or START, demand.at_least or START, key=position_key)
        applied = await self.backlog.until_applied(
            thread_id, position, fresh=demand.fresh, may_be_parked=not demand.is_demanding
        )
        if cold is not None and self._cold.get(thread_id) == cold:  # no later one was added meanwhile
            del self._cold[thread_id]
        return applied

    async def flush(self, writer: Writer, timeout_s: float | None) -> None:
        """Return once everything submitted to *writer* so far is applied.

        Raises:
            ThreadParked: a task of the thread cannot be applied.
            Unavailable: it took longer than *timeout_s*.
        """
        limit, shard = timeout_s or self._settings.flush_timeout_s, writer.place.shard
        marker, loop = writer.marker, asyncio.get_running_loop()
        now = loop.time
        try:
            async with asyncio.timeout(limit):
                wait, asked_at = ASK_FIRST, now()
                while not writer.is_applied_up_to(marker):
                    if writer.parked is not None:
                        await cancellable(self.ask(writer))  # it may have been retried since
                        if writer.parked is not None:
                            raise ThreadParked(writer.thread_id, writer.parked)
                    writer.changed.clear()
                    due = now() + wait
                    # With many threads, far cheaper than a timeout.
                    timer = loop.call_at(due, writer.changed.set)
                    try:
                        await writer.changed.wait()
                    finally:
                        timer.cancel()
                    if now() >= due:
                        is_overdue = now() - asked_at >= min(ASK_ANYWAY, limit / 2)
                        if is_overdue or self._liveness.is_silent(shard, wait, now()):
                            await cancellable(self.ask(writer))
                            asked_at = now()
                        wait = min(wait * 4, ASK_LONGEST)
        except TimeoutError:
            failure = self._liveness.failures.get(shard) or (writer.held_up_by if writer.queue else None)
            raise await self.backlog.not_applied(writer.thread_id, limit, failure) from failure

    async def ask(self, writer: Writer) -> bool:
        """Ask Redis how far *writer* is, and offer its last tasks again; return whether Redis answers.

        Offering again is harmless if Redis holds the tasks. If it lost them, or a doorbell was lost, that
        gets the thread going again.
        """
        shard, now = writer.place.shard, asyncio.get_running_loop().time
        self._liveness.asked_at[shard], known = now(), (writer.floor, writer.parked)
        try:
            applied, parked = await self._mailboxes.progress(writer)
        except (RedisError, OSError) as error:
            self._liveness.failures[shard] = error
            return False
        self._liveness.failures.pop(shard, None)
        if applied is not None:
            writer.note_applied(*applied)
        writer.note_parked(parked)
        if (writer.floor, writer.parked) != known:
            self._liveness.news_at[shard] = now()
        if parked is None and writer.rewind_last():
            self._outbox.send(writer)
        return True

    async def ask_all(self, first: Writer | None = None) -> None:
        """Ask Redis about all open threads with unapplied tasks, *first* before the others."""
        writers = self._threads.values()
        for writer in sorted(writers, key=lambda writer: writer is not first) if first else writers:
            if writer.unapplied and not await self.ask(writer):
                return
