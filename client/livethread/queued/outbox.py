"""The way into the mailboxes: joins the concurrent submissions of a process into few calls.

One call is under way at a time; what is submitted meanwhile goes with the next, so that batches grow with
the load. A call whose answer is lost is repeated as it was: counters make that safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from livethread.errors import Conflict, Internal, ResourceExhausted, ThreadNotFound, Unavailable
from livethread.queued.scripts import BELL_TTL_MS, load_script
from livethread_config import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from livethread.queued.writer import Submission, Writer
    from livethread.types import Position
    from livethread_config import Settings

logger = logging.getLogger(__name__)

#: Most tasks, and roughly most bytes, of one call.
BATCH_TASKS: Final = 1_000
BATCH_BYTES: Final = 4 * 1024 * 1024

#: First and longest wait between two attempts to reach Redis.
RETRY_FIRST: Final = 0.05  # seconds
RETRY_LONGEST: Final = 2.0  # seconds

#: Tasks that the script must know for what they are.
_KINDS: Final = {"create_thread": "create", "delete_thread": "delete"}

_Batch = list[tuple["Writer", list["Submission"]]]


class Outbox:
    """Sends submitted tasks, in each writer's order, until Redis holds them."""

    def __init__(self, redis: Redis, settings: Settings, ring: Callable[[int], None]) -> None:
        self._settings = settings
        self._ring = ring
        self._enqueue = redis.register_script(load_script("livethread.queued", "enqueue"))
        self._keys = [names.ShardKeys(settings.key_prefix, shard) for shard in range(settings.shards)]
        #: Writers with queued tasks, by shard, in the order in which they came.
        self._waiting: list[dict[Writer, None]] = [{} for _ in self._keys]
        self._wakeups = [asyncio.Event() for _ in self._keys]
        self._senders: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start sending; one sender a shard."""
        self._senders = [asyncio.create_task(self._send_forever(shard)) for shard in range(len(self._keys))]

    async def stop(self) -> None:
        """Stop sending; what is queued fails with `Unavailable`."""
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        error = Unavailable("the store was closed before Redis accepted the task")
        for waiting in self._waiting:
            for writer in waiting:
                writer.refuse_all(error)
            waiting.clear()

    def send(self, writer: Writer) -> None:
        """See to it that *writer*'s queue is sent."""
        shard = names.shard_of(writer.thread_id, len(self._keys))
        self._waiting[shard][writer] = None
        self._wakeups[shard].set()

    def forget(self, writer: Writer) -> None:
        """Drop what *writer* has queued; a call that is under way may still be accepted."""
        self._waiting[names.shard_of(writer.thread_id, len(self._keys))].pop(writer, None)

    async def _send_forever(self, shard: int) -> None:
        waiting, wakeup = self._waiting[shard], self._wakeups[shard]
        while True:
            await wakeup.wait()
            wakeup.clear()
            while batch := _next_batch(waiting):
                replies = await self._call(shard, batch)
                for (writer, _), reply in zip(batch, replies, strict=True):
                    self._take_reply(writer, reply)
                    if not writer.queue:
                        waiting.pop(writer, None)

    async def _call(self, shard: int, batch: _Batch) -> list[list[bytes]]:
        """Send *batch* until Redis answers; repeating it is safe."""
        keys, args = self._arguments(shard, batch)
        wait = RETRY_FIRST
        while True:
            try:
                reply: list[Any] = await self._enqueue(keys=keys, args=args)
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                level = logging.WARNING if wait == RETRY_FIRST else logging.DEBUG
                logger.log(
                    level, "Redis out of reach", extra={"action": "enqueue", "shard": shard, "retry_in_s": wait}
                )
                self._fail_waiters(shard, error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, RETRY_LONGEST)
            except RedisError as error:
                return self._refuse(batch, error)
            else:
                if reply[0]:
                    self._ring(shard)
                return reply[1:]

    def _arguments(self, shard: int, batch: _Batch) -> tuple[list[str], list[str | bytes | int]]:
        keys_of = self._keys[shard]
        keys = [
            keys_of.ready,
            keys_of.claims,
            keys_of.tokens,
            keys_of.parked,
            keys_of.bell,
            keys_of.drain,
            keys_of.wake,
            keys_of.deleted,
        ]
        args: list[str | bytes | int] = [
            BELL_TTL_MS,
            self._settings.writer_ttl_days * 86_400,
            self._settings.mailbox_max_tasks,
        ]
        for writer, submissions in batch:
            thread_id = writer.thread_id
            keys += [keys_of.mailbox(thread_id), keys_of.writers(thread_id), keys_of.applied(thread_id)]
            args += [thread_id, writer.id, writer.floor, len(submissions)]
            for submission in submissions:
                kind = _KINDS.get(submission.task.header.op, "")
                args += [submission.n, kind, submission.expected or "", *submission.wire()]
        return keys, args

    def _take_reply(self, writer: Writer, reply: list[bytes]) -> None:
        status, last, position, tail = reply[0], int(reply[1]), reply[2].decode(), reply[3].decode()
        if status == b"gap":
            logger.warning(
                "Redis lost tasks; sending them again",
                extra={"action": "enqueue", "thread_id": writer.thread_id, "last_n": last},
            )
            writer.rewind(last)
            return
        writer.accept(last, position)
        if not writer.queue:
            return
        match status:
            case b"full":
                writer.refuse_first(_full(writer, self._settings.mailbox_max_tasks))
            case b"moved":
                expected = writer.queue[0].expected
                writer.refuse_first(Conflict(f"the thread's last position is {tail}, not {expected}"))
            case b"exists":
                writer.refuse_all(Conflict(f"thread {writer.thread_id} exists; resume it instead"))
            case b"deleted":
                writer.refuse_all(ThreadNotFound(writer.thread_id, "it was deleted"))

    def _fail_waiters(self, shard: int, error: Exception) -> None:
        """Tell those who have waited too long. Their tasks stay queued: their order must not be lost."""
        now = asyncio.get_running_loop().time()
        limit = self._settings.enqueue_timeout_s
        for writer in self._waiting[shard]:
            for submission in writer.queue:
                if now - submission.since > limit and not submission.accepted.done():
                    submission.accepted.set_exception(_no_answer(self._settings, error))
                    submission.accepted.exception()

    @staticmethod
    def _refuse(batch: _Batch, error: RedisError) -> list[list[bytes]]:
        """Fail what Redis refuses to run, such as a write beyond its memory limit: nothing of it is stored."""
        text = str(error)
        failure = (
            ResourceExhausted(f"Redis is out of memory: {text}")
            if text.startswith("OOM")
            else Internal(f"Redis refused the tasks: {text}")
        )
        for writer, _ in batch:
            writer.refuse_all(failure)
        return [[b"ok", str(writer.last_accepted).encode(), b"0-0", b"0-0"] for writer, _ in batch]


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
        count = _fitting(writer, tasks, size)
        submissions = writer.number(count)
        tasks -= count
        size -= sum(submission.task.size for submission in submissions)
        batch.append((writer, submissions))
    return batch


def _fitting(writer: Writer, tasks: int, size: int) -> int:
    count = 0
    for submission in writer.queue:
        if count == tasks or (count and size < submission.task.size):
            break
        count += 1
        size -= submission.task.size
    return count


def _full(writer: Writer, bound: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"thread {writer.thread_id} has {bound} unapplied tasks, the most its mailbox holds; "
        "wait until workers have applied some (flush), or start more workers"
    )


def _no_answer(settings: Settings, error: Exception) -> Unavailable:
    return Unavailable(
        f"Redis at {without_password(settings.client_url)} has not accepted the task within {settings.enqueue_timeout_s:g} s ({error}); "
        "it stays queued in this process, in order, and is sent when Redis answers: do not append it again, flush"
    )


def without_password(url: str) -> str:
    """Return *url* as errors and logs may show it."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@") if password else url


async def wait_accepted(writer: Writer, submission: Submission) -> Position:
    """Return the task's position once Redis holds it; a cancelled wait takes back what was never sent."""
    try:
        return await submission.accepted
    except asyncio.CancelledError:
        if submission.n == 0:
            with contextlib.suppress(ValueError):
                writer.queue.remove(submission)
        raise
