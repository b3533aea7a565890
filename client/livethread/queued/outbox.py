"""The outbox: joins the concurrent submissions of a process into few calls, and repeats them until Redis answers.

Each shard has one call under way at a time. Later submissions go with the next, so batches grow with the load. A call
without a reply is repeated as it was: counters make that safe.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from redis import exceptions as redis

from livethread import errors
from livethread.open_threads import taken_over
from livethread.position import Position
from livethread.queued.mailboxes import Batch, Mailboxes, Misplaced, Reply
from livethread.queued.outage import Outage, explain, may_pass
from livethread.queued.writer import Writer
from livethread_config import Settings
from livethread_config.redis_url import without_password

logger = logging.getLogger(__name__)

#: Maximum number of tasks and, roughly, of bytes in one call.
BATCH_TASKS: Final = 1_000
BATCH_BYTES: Final = 4 * 1024 * 1024

#: First and longest wait between two attempts to reach Redis.
RETRY_FIRST: Final = 0.05  # seconds
RETRY_LONGEST: Final = 2.0  # seconds

#: Shortest interval between two checks for callers that have waited too long.
REPORT_SHORTEST: Final = 0.02  # seconds

#: Wait before a postponed or promised submission is offered again.
OFFER_AGAIN: Final = 0.5  # seconds


@dataclass(slots=True)
class _Lane:
    """What is on its way to one shard."""

    shard: int
    #: Writers with a queue to send, in the order of their first submission.
    waiting: dict[Writer, None] = field(default_factory=dict)
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    #: Loop time at which the call under way began, in seconds.
    called_at: float = float("inf")
    #: Why the last attempt failed; None if it succeeded.
    failure: Exception | None = None
    outage: Outage = field(default_factory=lambda: Outage(logger, "enqueue"))


class Outbox:
    """Sends the queues of writers, each in its order, until Redis holds them."""

    def __init__(self, mailboxes: Mailboxes, settings: Settings) -> None:
        self._mailboxes = mailboxes
        self._settings = settings
        self._lanes: dict[int, _Lane] = {}
        #: Writers to send again later.
        self._postponed: set[Writer] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_started = False
        self._is_stopped = False

    def start(self) -> None:
        """Start sending, with one sender per shard."""
        self._is_started = True
        self._tasks = [asyncio.create_task(self._send_forever(lane)) for lane in self._lanes.values()]
        self._tasks.append(asyncio.create_task(self._report_delays()))

    def _lane(self, shard: int) -> _Lane:
        if (lane := self._lanes.get(shard)) is None:
            lane = self._lanes[shard] = _Lane(shard)
            if self._is_started:
                self._tasks.append(asyncio.create_task(self._send_forever(lane)))
        return lane

    async def stop(self) -> None:
        """Stop sending; everything queued now or later fails with `Unavailable`."""
        self._is_stopped = True
        # redis-py can swallow a cancellation that arrives together with a reply.
        while pending := [task for task in self._tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=RETRY_FIRST)
        await self._mailboxes.disconnect()
        for lane in self._lanes.values():
            for writer in lane.waiting:
                writer.drop_all(_closed())
            lane.waiting.clear()
        for writer in self._postponed:
            writer.drop_all(_closed())
        self._postponed.clear()

    def send(self, writer: Writer) -> None:
        """Have *writer*'s queue sent."""
        if self._is_stopped:
            writer.drop_all(_closed())
            return
        self._postponed.discard(writer)
        if not self._mailboxes.is_placed(writer):
            writer.place = self._mailboxes.place(writer.thread_id)
        lane = self._lane(writer.place.shard)
        lane.waiting[writer] = None
        lane.wakeup.set()

    def forget(self, writer: Writer) -> None:
        """Send no more of *writer*'s queue; Redis may still accept a call that is under way."""
        self._lane(writer.place.shard).waiting.pop(writer, None)
        self._postponed.discard(writer)

    async def _send_forever(self, lane: _Lane) -> None:
        waiting, shard = lane.waiting, lane.shard
        while not self._is_stopped:
            await lane.wakeup.wait()
            lane.wakeup.clear()
            while not self._is_stopped and (batch := _next_batch(waiting)):
                try:
                    await self._send(lane, batch)
                except Misplaced:
                    self._place_again(lane)
                except Exception as error:  # one bad batch must not stop the others
                    logger.exception(
                        "sending tasks of %d threads of shard %d failed",
                        len(batch),
                        shard,
                        extra={"action": "enqueue", "shard": shard},
                    )
                    if not await self._refuse_for_good(batch, error):
                        for writer, _ in batch:
                            self._offer_again(writer, error)
                for writer, _ in batch:
                    if not writer.queue:
                        waiting.pop(writer, None)

    def _place_again(self, lane: _Lane) -> None:
        """Move writers whose threads belong to other shards; Redis has accepted none of their tasks."""
        lane.outage.end()
        lane.failure = None
        for writer in tuple(lane.waiting):
            del lane.waiting[writer]
            self.send(writer)

    async def _send(self, lane: _Lane, batch: Batch) -> None:
        """Send *batch* until Redis replies; repeating it is safe.

        Raises:
            Misplaced: as `Mailboxes.enqueue`.
        """
        wait = RETRY_FIRST
        replies: list[Reply] | None = None
        while replies is None:
            lane.called_at = asyncio.get_running_loop().time()
            try:
                replies = await self._mailboxes.enqueue(lane.shard, batch)
            except (redis.RedisError, OSError, errors.InvalidRequest) as error:
                is_refused = isinstance(error, redis.OutOfMemoryError) or not may_pass(error)
                if is_refused and await self._refuse_for_good(batch, error):
                    return
                effect = f"the tasks of {len(lane.waiting)} threads of shard {lane.shard} stay queued"
                lane.outage.begin(error, effect, shard=lane.shard, retry_in_s=wait)
                lane.called_at, lane.failure = float("inf"), error
                self._report_delay(lane, error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, RETRY_LONGEST)
            finally:
                lane.called_at = float("inf")
        lane.outage.end()
        lane.failure = None
        for (writer, _), reply in zip(batch, replies, strict=True):
            self._take_reply(writer, reply)

    def _take_reply(self, writer: Writer, reply: Reply) -> None:
        if reply.status == "gap":
            logger.warning(
                "Redis lost tasks of thread %s; sending them again",
                writer.thread_id,
                extra={
                    "action": "enqueue",
                    "thread_id": writer.thread_id,
                    "shard": writer.place.shard,
                    "last_n": reply.last,
                },
            )
            writer.rewind(reply.last)
            return
        writer.held_up_by = None
        writer.accept(reply.last, reply.position, reply.fresh)
        if not writer.queue or reply.status == "ok":
            return
        first = writer.queue[0]
        if reply.status == "deleted":
            writer.drop_all(errors.ThreadNotFound(writer.thread_id, "it was deleted"))
        elif reply.status == "exists" and first.is_promised:
            first.is_repeated = True  # without its condition, it joins the thread that another writer created
        else:
            if reply.status == "moved" and first.is_promised:  # its caller no longer waits
                logger.warning(
                    "a compare-and-append to thread %s came too late: its last position is no longer %s",
                    writer.thread_id,
                    first.expected,
                    extra={
                        "action": "enqueue",
                        "thread_id": writer.thread_id,
                        "shard": writer.place.shard,
                        "position": first.expected,
                    },
                )
            self._refuse(writer, self._refusal(writer, reply))

    def _refuse(self, writer: Writer, error: errors.ThreadStoreError) -> bool:
        """Refuse *writer*'s first submission; if it stays queued, offer it again later and return False."""
        is_refused = writer.refuse(error)
        if not is_refused:
            self._offer_again(writer, error)
        return is_refused

    def _refusal(self, writer: Writer, reply: Reply) -> errors.ThreadStoreError:
        match reply.status:
            case "full":
                remedy = (
                    f"it is parked: {writer.parked}"
                    if writer.parked
                    else "wait until workers have applied some (flush), or start more workers"
                )
                return errors.ResourceExhausted(
                    f"thread {writer.thread_id} has {self._settings.mailbox_max_tasks} unapplied tasks, the most its "
                    f"mailbox holds; {remedy}"
                )
            case "moved":
                return errors.Conflict.of_position(writer.thread_id, reply.tail, writer.queue[0].expected)
            case "fenced":
                return taken_over(writer.thread_id)
            case "exists":
                return errors.Conflict(f"thread {writer.thread_id} exists; resume it instead")
            case _:
                return errors.Internal(f"this release does not know the reply {reply.status!r}")

    async def _refuse_for_good(self, batch: Batch, error: Exception) -> bool:
        """Refuse what Redis will not run, such as a write beyond its memory limit; return False if that is uncertain.

        An earlier attempt may have succeeded, or the script may have stopped half-way: the counters in Redis say what
        it holds.
        """
        try:
            accepted = [await self._mailboxes.accepted(writer) for writer, _ in batch]
        except (redis.RedisError, OSError):
            return False
        refusal: errors.ThreadStoreError
        if isinstance(error, redis.OutOfMemoryError):
            refusal = errors.ResourceExhausted(f"Redis is out of memory: it {explain(error)}")
        else:
            refusal = errors.Internal(f"Redis refused the tasks: it {explain(error)}")
        for (writer, submissions), last in zip(batch, accepted, strict=True):
            if last is not None:
                writer.accept(*last, fresh=0)
            for submission in submissions:
                is_next = bool(writer.queue) and writer.queue[0] is submission
                if is_next and not self._refuse(writer, refusal):
                    break
        return True

    def _offer_again(self, writer: Writer, reason: Exception) -> None:
        loop = asyncio.get_running_loop()
        left = writer.queue[0].deadline - loop.time() if writer.queue else 0.0
        self.forget(writer)
        self._postponed.add(writer)
        writer.held_up_by = reason
        loop.call_later(min(left, OFFER_AGAIN) if left > 0 else OFFER_AGAIN, self.send, writer)

    async def _report_delays(self) -> None:
        """Report calls without a reply, and tasks that Redis does not accept yet, to the callers that wait for them."""
        limit, now = self._settings.enqueue_timeout_s, asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(max(limit / 4, REPORT_SHORTEST))
            for lane in self._lanes.values():
                hangs = now() - lane.called_at > limit
                failure = TimeoutError("no answer yet") if hangs else lane.failure
                if failure is not None:
                    self._report_delay(lane, failure)
            for writer in self._postponed:
                self._report_delay_of(writer)

    def _report_delay(self, lane: _Lane, error: Exception) -> None:
        """Raise `Unavailable` in callers that have waited too long; their submissions stay queued, to keep the order."""
        for writer in lane.waiting:
            writer.held_up_by = error
            self._report_delay_of(writer)

    def _report_delay_of(self, writer: Writer) -> None:
        since = asyncio.get_running_loop().time() - self._settings.enqueue_timeout_s
        for submission in writer.queue:
            if submission.since < since and not submission.is_postponed:
                submission.fail(self._not_accepted(writer, submission.expected))

    def _not_accepted(self, writer: Writer, expected: Position | None) -> errors.Unavailable:
        error = writer.held_up_by
        reason = f"it {explain(error)}" if isinstance(error, redis.RedisError | OSError) else error
        happened = (
            f"Redis at {without_password(self._settings.client_url)} has not accepted the task of thread "
            f"{writer.thread_id} within {self._settings.enqueue_timeout_s:g} s ({reason}); it stays queued in this process, in order, and is "
            "sent when Redis takes it"
        )
        if expected is None:
            return errors.Unavailable(f"{happened}: do not append it again, flush", is_queued=True)
        return errors.Unavailable(
            f"{happened}. It takes effect only if the last position is still {expected}: flush and read the history, or "
            "append it again with the same idempotency key"
        )


def _next_batch(waiting: dict[Writer, None]) -> Batch:
    """Take what is queued, up to the limits of one call."""
    batch: Batch = []
    tasks, size = BATCH_TASKS, BATCH_BYTES
    for writer in tuple(waiting):
        if tasks <= 0 or size <= 0:
            break
        if not writer.queue:
            del waiting[writer]
            continue
        submissions = writer.take(tasks, size)
        for submission in submissions:
            tasks -= submission.count
            size -= submission.size
        batch.append((writer, submissions))
    return batch


def _closed() -> errors.Unavailable:
    return errors.Unavailable("the store was closed before Redis accepted the task")
