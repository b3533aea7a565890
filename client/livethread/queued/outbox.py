"""The way into the mailboxes: joins the concurrent submissions of a process into few calls.

One call is under way at a time; what is submitted meanwhile goes with the next, so that batches grow with
the load. A call whose answer is lost is repeated as it was: counters make that safe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from livethread.errors import Conflict, Internal, ResourceExhausted, ThreadNotFound, ThreadStoreError, Unavailable
from livethread.open_threads import taken_over
from livethread.queued.connection import without_password
from livethread.queued.scripts import BELL_TTL_MS, load_script
from livethread.queued.writer import Place, Submission, Writer
from livethread.types import Position
from livethread_config import Settings, names

logger = logging.getLogger(__name__)

#: Most tasks, and roughly most bytes, of one call.
BATCH_TASKS: Final = 1_000
BATCH_BYTES: Final = 4 * 1024 * 1024

#: First and longest wait between two attempts to reach Redis.
RETRY_FIRST: Final = 0.05  # seconds
RETRY_LONGEST: Final = 2.0  # seconds

#: Shortest wait before those who wait for an answer are told that there is none.
WATCH_SHORTEST: Final = 0.02  # seconds

#: Wait before a promised task that was refused is offered again.
OFFER_AGAIN: Final = 0.5  # seconds

#: Errors, and beginnings of replies, that say "not now" rather than "no".
_PASSING: Final = (
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    RedisConnectionError,
    RedisTimeoutError,
    TryAgainError,
    OSError,
)
_NOT_NOW: Final = ("BUSY", "MISCONF")

#: Tasks that the script must know for what they are.
_KINDS: Final = {"create_thread": "create", "delete_thread": "delete"}

_Batch = list[tuple["Writer", list["Submission"]]]
#: Of one writer: status, last, position, tail, fresh (see enqueue.lua).
_Reply = list[Any]


class Outbox:
    """Sends submitted tasks, in each writer's order, until Redis holds them."""

    def __init__(self, redis: Redis, settings: Settings, ring: Callable[[int], None]) -> None:
        self._redis = redis
        self._settings = settings
        self._ring = ring
        self._enqueue = redis.register_script(load_script("livethread.queued", "enqueue"))
        self._unpark = redis.register_script(load_script("livethread.queued", "unpark"))
        self._fence = redis.register_script(load_script("livethread.queued", "fence"))
        self._keys = [names.ShardKeys(settings.key_prefix, shard) for shard in range(settings.shards)]
        #: Writers with queued tasks, by shard, in the order in which they came.
        self._waiting: list[dict[Writer, None]] = [{} for _ in self._keys]
        self._wakeups = [asyncio.Event() for _ in self._keys]
        self._senders: list[asyncio.Task[None]] = []
        self._is_stopped = False

    def start(self) -> None:
        """Start sending; one sender a shard."""
        self._senders = [asyncio.create_task(self._send_forever(shard)) for shard in range(len(self._keys))]

    async def stop(self) -> None:
        """Stop sending; what is queued, and whatever comes later, fails with `Unavailable`."""
        self._is_stopped = True
        # A cancellation that meets an answer can be lost on its way through redis-py.
        while pending := [sender for sender in self._senders if not sender.done()]:
            for sender in pending:
                sender.cancel()
            await asyncio.wait(pending, timeout=RETRY_FIRST)
        for waiting in self._waiting:
            for writer in waiting:
                writer.drop_all(_closed())
            waiting.clear()

    def send(self, writer: Writer) -> None:
        """See to it that *writer*'s queue is sent."""
        if self._is_stopped:
            writer.drop_all(_closed())
            return
        shard = self._place(writer).shard
        self._waiting[shard][writer] = None
        self._wakeups[shard].set()

    def forget(self, writer: Writer) -> None:
        """Send no more of *writer*; a call that is under way may still be accepted."""
        self._waiting[self._place(writer).shard].pop(writer, None)

    async def poke(self, thread_id: str) -> None:
        """Have the thread claimed if it has tasks, and a doorbell rung if it is due.

        Raises:
            RedisError: Redis does not answer.
        """
        shard = self._shard(thread_id)
        keys, args = self._head(shard)
        args += [thread_id, "", 0, "", 0]
        reply: _Reply = await self._enqueue(keys=[*keys, *self._thread_keys(shard, thread_id)], args=args)
        if reply[0]:
            self._ring(shard)

    async def fence(self, thread_id: str) -> int:
        """Fence all writers of the thread so far, and return the epoch that is its newest now.

        Raises:
            RedisError: Redis does not answer.
        """
        key = self._keys[self._shard(thread_id)].writers(thread_id)
        return int(await self._fence(keys=[key], args=[self._settings.writer_ttl_days * 86_400]))

    async def epoch(self, thread_id: str) -> int:
        """Return the thread's newest epoch.

        Raises:
            RedisError: Redis does not answer.
        """
        return int(await self._redis.hget(self._keys[self._shard(thread_id)].writers(thread_id), names.EPOCH) or 0)

    async def unpark(self, thread_id: str) -> bool:
        """Let a parked thread be tried again, its tasks in the order in which they stand; return whether it was parked.

        Raises:
            RedisError: Redis does not answer.
        """
        of = self._keys[self._shard(thread_id)]
        was_parked = bool(await self._unpark(keys=[of.ready, of.parked], args=[thread_id]))
        if was_parked:
            await self.poke(thread_id)
        return was_parked

    def _place(self, writer: Writer) -> Place:
        if writer.place is None:
            shard = self._shard(writer.thread_id)
            writer.place = Place(shard, self._thread_keys(shard, writer.thread_id))
        return writer.place

    def _shard(self, thread_id: str) -> int:
        return names.shard_of(thread_id, len(self._keys))

    async def _send_forever(self, shard: int) -> None:
        waiting, wakeup = self._waiting[shard], self._wakeups[shard]
        while not self._is_stopped:
            await wakeup.wait()
            wakeup.clear()
            while not self._is_stopped and (batch := _next_batch(waiting)):
                try:
                    await self._send(shard, batch)
                except Exception as error:  # one bad batch must not stop the others
                    logger.exception("sending failed", extra={"action": "enqueue", "shard": shard})
                    if not await self._refuse_definitely(shard, batch, error):
                        for writer, _ in batch:
                            self._offer_again(writer)
                for writer, _ in batch:
                    if not writer.queue:
                        waiting.pop(writer, None)

    async def _send(self, shard: int, batch: _Batch) -> None:
        """Send *batch* until Redis answers; repeating it is safe."""
        keys, args = self._arguments(shard, batch)
        wait = RETRY_FIRST
        while True:
            watch = self._watch(shard)
            try:
                reply: _Reply = await self._enqueue(keys=keys, args=args)
            except (RedisError, OSError) as error:
                if not _is_passing(error) and await self._refuse_definitely(shard, batch, error):
                    return
                level = logging.WARNING if wait == RETRY_FIRST else logging.DEBUG
                logger.log(
                    level, "Redis out of reach", extra={"action": "enqueue", "shard": shard, "retry_in_s": wait}
                )
                self._tell_waiters(shard, error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, RETRY_LONGEST)
            else:
                break
            finally:
                watch.cancel()
        if reply[0]:
            self._ring(shard)
        for (writer, _), answer in zip(batch, reply[1:], strict=True):
            self._take_answer(writer, answer)

    def _arguments(self, shard: int, batch: _Batch) -> tuple[list[str], list[str | bytes | int]]:
        keys, args = self._head(shard)
        for writer, submissions in batch:
            keys += self._place(writer).keys
            epoch = "" if writer.epoch is None or submissions[0].is_promised else writer.epoch
            args += [writer.thread_id, writer.id, writer.floor, epoch, len(submissions)]
            for submission in submissions:
                task, kind, expected = submission.task, _KINDS.get(submission.task.op, ""), submission.expected or ""
                if submission.is_repeated:
                    kind, expected = kind if kind == "delete" else "", ""
                args += (submission.n, kind, expected, task.key or "", task.header, task.lines)
        return keys, args

    def _head(self, shard: int) -> tuple[list[str], list[str | bytes | int]]:
        """Return the keys and arguments that stand before those of the threads."""
        of = self._keys[shard]
        settings = self._settings
        keys = [of.ready, of.claims, of.tokens, of.parked, of.bell, of.drain, of.wake, of.deleted]
        return keys, [BELL_TTL_MS, settings.writer_ttl_days * 86_400, settings.mailbox_max_tasks]

    def _thread_keys(self, shard: int, thread_id: str) -> tuple[str, ...]:
        of = self._keys[shard]
        return of.mailbox(thread_id), of.writers(thread_id), of.applied(thread_id), of.keys(thread_id)

    def _take_answer(self, writer: Writer, answer: _Reply) -> None:
        status, last, position, tail, fresh = answer
        if status == b"gap":
            logger.warning(
                "Redis lost tasks; sending them again",
                extra={"action": "enqueue", "thread_id": writer.thread_id, "last_n": int(last)},
            )
            writer.rewind(int(last))
            return
        writer.accept(int(last), position.decode(), int(fresh))
        if not writer.queue or status == b"ok":
            return
        if status == b"deleted":
            writer.drop_all(ThreadNotFound(writer.thread_id, "it was deleted"))
        elif status == b"exists" and writer.queue[0].is_promised:
            writer.queue[0].is_repeated = True  # its caller was told that it stays queued: it joins the thread
        elif status == b"moved" and writer.queue[0].is_promised:
            # Its caller no longer waits, and its condition will never hold again: it must not hold up the others.
            logger.warning(
                "a compare-and-append came too late",
                extra={"action": "enqueue", "thread_id": writer.thread_id, "position": writer.queue[0].expected},
            )
            writer.give_up_first(self._refusal(writer, status, tail.decode()))
        elif status == b"full" and self._postpone(writer):
            return
        elif not writer.refuse(self._refusal(writer, status, tail.decode())):
            self._offer_again(writer)

    def _refusal(self, writer: Writer, status: bytes, tail: str) -> ThreadStoreError:
        match status:
            case b"full":
                return _full(writer, self._settings.mailbox_max_tasks)
            case b"moved":
                return Conflict.of_position(tail, writer.queue[0].expected)
            case b"fenced":
                return taken_over(writer.thread_id)
            case b"exists":
                return Conflict(f"thread {writer.thread_id} exists; resume it instead")
            case _:
                return Internal(f"an answer that this release does not know: {status!r}")

    async def _refuse_definitely(self, shard: int, batch: _Batch, error: Exception) -> bool:
        """Refuse what Redis will not run, such as a write beyond its memory limit; return whether that is certain.

        An earlier attempt may have been carried out, or the script may have been stopped half-way: the counters that
        Redis holds tell.
        """
        of = self._keys[shard]
        try:
            records = [await self._redis.hget(of.writers(writer.thread_id), writer.id) for writer, _ in batch]
        except (RedisError, OSError):
            return False
        for (writer, _), record in zip(batch, records, strict=True):
            if record is not None:
                n, _, position = (record if isinstance(record, str) else record.decode()).partition(" ")
                writer.accept(int(n), position, 0)
        if isinstance(error, OutOfMemoryError):
            self._refuse(batch, ResourceExhausted(f"Redis is out of memory: {error}"))
        else:
            self._refuse(batch, Internal(f"Redis refused the tasks: {error}"))
        return True

    def _refuse(self, batch: _Batch, error: ThreadStoreError) -> None:
        """Refuse what *batch* has queued and nobody was promised; offer the rest again."""
        for writer, submissions in batch:
            for submission in submissions:
                if not writer.queue or writer.queue[0] is not submission:
                    continue
                if isinstance(error, ResourceExhausted) and self._postpone(writer):
                    break
                if not writer.refuse(error):
                    self._offer_again(writer)
                    break

    def _postpone(self, writer: Writer) -> bool:
        """Offer *writer*'s queue again once there may be room; return whether its first task may wait so long."""
        left = writer.queue[0].deadline - asyncio.get_running_loop().time()
        if left <= 0 or writer.queue[0].is_promised:
            return False
        writer.postpone()
        self._offer_again(writer, min(left, OFFER_AGAIN))
        return True

    def _offer_again(self, writer: Writer, wait_s: float = OFFER_AGAIN) -> None:
        """Send *writer*'s queue again after a while: it begins with a task that is promised, or may wait."""
        self.forget(writer)
        asyncio.get_running_loop().call_later(wait_s, self.send, writer)

    def _watch(self, shard: int) -> _Watch:
        """Tell those who have waited too long, also while a call is under way that is not answered."""
        return _Watch(
            self._settings.enqueue_timeout_s, lambda: self._tell_waiters(shard, TimeoutError("no answer yet"))
        )

    def _tell_waiters(self, shard: int, error: Exception) -> None:
        """Tell those who have waited too long. Their tasks stay queued: their order must not be lost."""
        now = asyncio.get_running_loop().time()
        limit = self._settings.enqueue_timeout_s
        for writer in self._waiting[shard]:
            for submission in writer.queue:
                if now - submission.since > limit and not submission.accepted.done():
                    submission.accepted.set_exception(_no_answer(self._settings, error, submission.expected))
                    submission.accepted.exception()


class _Watch:
    """Calls *tell* after a time, and again and again until it is cancelled."""

    def __init__(self, interval: float, tell: Callable[[], None]) -> None:
        self._interval = max(interval, WATCH_SHORTEST)
        self._tell = tell
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._due)

    def cancel(self) -> None:
        """Tell nobody any more."""
        self._timer.cancel()

    def _due(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._due)
        self._tell()


def _next_batch(waiting: dict[Writer, None]) -> _Batch:
    """Take what is queued, up to the limits of one call; a writer's first task always fits."""
    batch: _Batch = []
    tasks, size = BATCH_TASKS, BATCH_BYTES
    for writer in tuple(waiting):
        if tasks <= 0 or size <= 0:
            break
        if not writer.queue:
            del waiting[writer]
            continue
        submissions = writer.number(_fitting(writer, tasks, size))
        tasks -= len(submissions)
        size -= sum(submission.size for submission in submissions)
        batch.append((writer, submissions))
    return batch


def _fitting(writer: Writer, tasks: int, size: int) -> int:
    count, is_promised = 0, writer.queue[0].is_promised
    for submission in writer.queue:
        if count == tasks or (count and size < submission.size):
            break
        # What is promised passes every fence: it is sent without an epoch, and what comes behind it by itself.
        if writer.epoch is not None and submission.is_promised != is_promised:
            break
        count += 1
        size -= submission.size
    return count


def _is_passing(error: Exception) -> bool:
    """Whether Redis may carry out the same call later."""
    return isinstance(error, _PASSING) or str(error).startswith(_NOT_NOW)


def _full(writer: Writer, bound: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"thread {writer.thread_id} has {bound} unapplied tasks, the most its mailbox holds; "
        + (
            f"it is parked: {writer.parked}"
            if writer.parked
            else "wait until workers have applied some (flush), or start more workers"
        )
    )


def _no_answer(settings: Settings, error: Exception, expected: Position | None) -> Unavailable:
    happened = (
        f"Redis at {without_password(settings.client_url)} has not accepted the task within "
        f"{settings.enqueue_timeout_s:g} s ({error}); it stays queued in this process, in order, and is sent when "
        "Redis answers"
    )
    if expected is None:
        return Unavailable(f"{happened}: do not append it again, flush", is_queued=True)
    return Unavailable(
        f"{happened}, for the case that the thread's last position is {expected} then: flush and read the history, or "
        "append it again with the idempotency key that it has"
    )


def _closed() -> Unavailable:
    return Unavailable("the store was closed before Redis accepted the task")
