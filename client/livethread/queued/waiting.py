"""Waits until tasks are applied. Publications may be lost, so whoever waits asks Redis as well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from livethread.errors import ThreadNotFound, ThreadParked, Unavailable
from livethread.queued.connection import CONNECTIONS, no_redis, without_password
from livethread.queued.outbox import Outbox
from livethread.queued.writer import Writer
from livethread.types import Position
from livethread_config import Settings, names

#: Waits for a publication before Redis is asked instead: the first, and the longest.
ASK_FIRST: Final = 0.02  # seconds
ASK_LONGEST: Final = 1.0  # seconds

#: Longest wait of one thread before it asks though publications about others come in, and half a flush at most: what
#: Redis lost of it alone, nobody tells.
ASK_ANYWAY: Final = 10.0  # seconds

NEVER: Final = float("-inf")

#: Most questions that are under way at once: each takes a connection, of which there are so many.
ASKING: Final = CONNECTIONS // 4


@dataclass(slots=True)
class Signs:
    """What says that nothing is amiss, and that a thread which waits will have its turn. Times are the loop's, in seconds."""

    #: Of the last publication, about whatever thread.
    heard_at: float = NEVER
    #: Of the last question about a thread of each shard: one bell serves a shard, so one who waits asks for the others.
    asked_at: dict[int, float] = field(default_factory=dict)
    #: Of the last one whose answer was news.
    news_at: dict[int, float] = field(default_factory=dict)
    #: Why Redis did not answer the last question about each shard, where it did not.
    failures: dict[int, Exception] = field(default_factory=dict)

    def is_silent(self, shard: int, wait: float, now: float) -> bool:
        """Whether nothing has said so for *wait* seconds, of threads of *shard*."""
        news_at = self.news_at.get(shard, NEVER)
        was_told = self.heard_at >= news_at or now - news_at <= ASK_FIRST  # or may be about to be
        # What nobody told of one thread, it may not have told of others: each has to ask.
        asked_at = self.asked_at.get(shard, NEVER) if was_told else NEVER
        return now - max(self.heard_at, asked_at) >= wait


class Waiter:
    """Waits for workers on behalf of one store."""

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        outbox: Outbox,
        keys_of: Callable[[str], names.ShardKeys],
        *,
        note_applied: Callable[[Writer, int, Position], None],
        note_parked: Callable[[Writer, str | None], None],
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._outbox = outbox
        self._keys_of = keys_of
        self._note_applied = note_applied
        self._note_parked = note_parked
        self._turns = asyncio.Semaphore(ASKING)
        self._signs = Signs()

    def note_heard(self) -> None:
        """Note that publications come in."""
        self._signs.heard_at = asyncio.get_running_loop().time()
        self._signs.failures.clear()

    async def flush(self, writer: Writer, timeout_s: float | None) -> None:
        """Return once everything submitted to *writer* so far is applied.

        Raises:
            ThreadParked: a task of the thread cannot be applied.
            Unavailable: it took longer than *timeout_s*.
        """
        limit = timeout_s or self._settings.flush_timeout_s
        marker = writer.marker
        shard, signs = self._keys_of(writer.thread_id).shard, self._signs
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(limit):
                wait, asked_at = ASK_FIRST, now()
                while not writer.is_applied_up_to(marker):
                    if writer.parked is not None:
                        await self.ask(writer)  # it may have been retried since we heard of it
                        if writer.parked is not None:
                            raise ThreadParked(writer.thread_id, writer.parked)
                    writer.changed.clear()
                    try:
                        async with asyncio.timeout(wait):
                            await writer.changed.wait()
                    except TimeoutError:
                        if signs.is_silent(shard, wait, now()) or now() - asked_at >= min(ASK_ANYWAY, limit / 2):
                            await self.ask(writer)
                            asked_at = now()
                        wait = min(wait * 4, ASK_LONGEST)
        except TimeoutError:
            failure = signs.failures.get(shard)
            raise _not_applied(writer.thread_id, limit, failure, self._settings) from failure

    async def ask(self, writer: Writer) -> Exception | None:
        """Ask Redis how far *writer* is, and offer its last task again; return why Redis does not answer.

        Offering is harmless where Redis has the task; where Redis lost it, or a doorbell was lost, this is
        what gets things going again.
        """
        keys, thread_id, now = self._keys_of(writer.thread_id), writer.thread_id, asyncio.get_running_loop().time
        self._signs.asked_at[keys.shard], known = now(), (writer.floor, writer.parked)
        try:
            async with self._turns, self._redis.pipeline(transaction=False) as asking:
                asking.hget(keys.writers(thread_id), f"a:{writer.id}")
                asking.get(keys.applied(thread_id))
                asking.hget(keys.parked, thread_id)
                n, position, parked = await asking.execute()
        except (RedisError, OSError) as error:
            self._signs.failures[keys.shard] = error
            return error
        self._signs.failures.pop(keys.shard, None)
        if n is not None and position is not None:
            self._note_applied(writer, int(n), _text(position))
        self._note_parked(writer, None if parked is None else _text(parked))
        if (writer.floor, writer.parked) != known:
            self._signs.news_at[keys.shard] = now()
        if parked is None and writer.unapplied and not writer.queue:
            writer.rewind(writer.unapplied[-1].n - 1)
            self._outbox.send(writer)
        return None

    async def until_settled(self, thread_id: str) -> None:
        """Wait until what stands in the thread's mailbox now is applied, or the thread is parked.

        Raises:
            ThreadNotFound: its deletion was accepted.
            Unavailable: it took longer than a flush may.
        """
        try:
            if await self.is_deleted(thread_id):
                raise ThreadNotFound(thread_id, "it was deleted")
            tail = await self._in_turn(self._redis.hget, self._keys_of(thread_id).writers(thread_id), "tail")
        except (RedisError, OSError) as error:
            raise no_redis(self._settings, error) from error
        if tail is not None:
            await self.until_applied(thread_id, _text(tail))

    async def epoch(self, thread_id: str, *, is_new: bool) -> int:
        """Return the thread's newest epoch; one that *is_new* is begun now, and fences all writers so far.

        Raises:
            Unavailable: Redis does not answer.
        """
        try:
            return int(await self._in_turn(self._outbox.fence if is_new else self._outbox.epoch, thread_id))
        except (RedisError, OSError) as error:
            raise no_redis(self._settings, error) from error

    async def until_applied(self, thread_id: str, position: Position) -> None:
        """Wait until the thread is applied up to *position*, parked or deleted, or Redis has lost what stood there."""
        limit = self._settings.flush_timeout_s
        try:
            async with asyncio.timeout(limit):
                wait = ASK_FIRST
                while not await self._is_settled(thread_id, position):
                    await asyncio.sleep(wait)
                    with suppress(OutOfMemoryError):  # workers make room
                        await self._in_turn(self._outbox.poke, thread_id)
                    wait = min(wait * 2, ASK_LONGEST)
        except TimeoutError:
            raise _not_applied(thread_id, limit, None, self._settings) from None
        except (RedisError, OSError) as error:
            raise no_redis(self._settings, error) from error

    async def _is_settled(self, thread_id: str, position: Position) -> bool:
        """Return whether nothing up to *position* waits to be applied: it is, or Redis has lost it; or it is parked."""
        keys = self._keys_of(thread_id)
        if not await self._in_turn(self._redis.xrange, keys.mailbox(thread_id), "-", position, 1):
            return True
        if await self.is_deleted(thread_id):
            return False  # its deletion stands behind that
        return bool(await self._in_turn(self._redis.hexists, keys.parked, thread_id))

    async def is_deleted(self, thread_id: str) -> bool:
        """Whether the thread's deletion was accepted.

        Raises:
            RedisError: Redis does not answer.
        """
        return await self._in_turn(self._redis.zscore, self._keys_of(thread_id).deleted, thread_id) is not None

    async def _in_turn(self, question: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        async with self._turns:
            return await question(*args)


def _not_applied(thread_id: str, limit: float, failure: Exception | None, settings: Settings) -> Unavailable:
    cause = (
        f"Redis at {without_password(settings.client_url)} does not answer ({failure})"
        if failure
        else "Is a worker running (celery --app livethread_worker.entrypoint worker)?"
    )
    return Unavailable(
        f"the tasks of thread {thread_id} were not applied within {limit:g} s; they are kept, in order, and nothing "
        f"is lost; flush again to wait on. {cause}"
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
