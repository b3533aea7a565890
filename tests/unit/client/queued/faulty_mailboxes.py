"""Mailboxes in the tests' Redis whose calls fail or hang as the test directs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError as RedisConnectionError

from livethread.observers import Observers
from livethread.ordered_tasks import AppendItems, EncodedTask, OrderedTask
from livethread.position import Position
from livethread.queued.doorbell import Doorbell
from livethread.queued.mailboxes import Batch, Mailboxes, Reply
from livethread.queued.outbox import Outbox
from livethread.queued.writer import Budget, Place, Submission, Writer
from livethread_config import Settings, names


class LostReply(Exception):
    """Redis ran the script, but its reply was lost."""


@dataclass
class StoppedHalfWay(Exception):
    """The script ran for the first *submissions* of each writer, and Redis replied with an error."""

    submissions: int
    error: Exception


class Bell:
    """Records the shards whose doorbell was rung."""

    def __init__(self) -> None:
        self.rung: list[int] = []

    def ring(self, shard: int) -> None:
        self.rung.append(shard)


class FaultyMailboxes(Mailboxes):
    """Mailboxes whose next calls fail or hang as directed, with access to what Redis holds."""

    def __init__(self, redis: AsyncRedis, client: Redis, settings: Settings, bell: Bell) -> None:
        super().__init__(redis, settings, cast("Doorbell", bell))
        self._client: Any = client  # redis-py's types cover both synchronous and asynchronous results
        self._settings = settings
        self.outbox = Outbox(self, settings)
        #: Counters that each call offered, by thread.
        self.calls: list[dict[str, list[int]]] = []
        #: Faults of the next calls; None lets a call succeed.
        self.faults: deque[Exception | None] = deque()
        #: Faults of the next reads of counters.
        self.read_faults: deque[Exception] = deque()
        #: Run right before each of the next calls.
        self.meanwhile: deque[Callable[[], object]] = deque()
        self.called = asyncio.Event()
        #: Calls wait here while it is cleared.
        self.open = asyncio.Event()
        self.open.set()

    async def enqueue(self, shard: int, batch: Batch) -> list[Reply]:
        self.called.set()
        self.calls.append({writer.thread_id: [s.n for s in submissions] for writer, submissions in batch})
        await self.open.wait()
        if self.meanwhile:
            self.meanwhile.popleft()()
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, StoppedHalfWay):
            await super().enqueue(
                shard, [(writer, submissions[: fault.submissions]) for writer, submissions in batch]
            )
            raise fault.error
        if fault is not None and not isinstance(fault, LostReply):
            raise fault
        replies = await super().enqueue(shard, batch)
        if fault is not None:
            raise RedisConnectionError("reset by peer") from fault
        return replies

    async def accepted(self, writer: Writer) -> tuple[int, Position] | None:
        if self.read_faults:
            raise self.read_faults.popleft()
        return await super().accepted(writer)

    def new_writer(self, thread_id: str) -> Writer:
        return new_writer(thread_id, Budget(1_000_000), max_tasks=1_000, mailboxes=self)

    def submit(self, writer: Writer, *texts: str) -> list[Submission]:
        """Submit an append of each of *texts* to *writer*, and have them sent."""
        submissions = [queue(writer, append(text)) for text in texts]
        self.outbox.send(writer)
        return submissions

    # -- what Redis holds ----------------------------------------------------------------------------------

    def keys(self, thread_id: str) -> names.ShardKeys:
        return names.ShardKeys(self._settings.key_prefix, self.place(thread_id).shard)

    def positions(self, thread_id: str) -> list[str]:
        return [position.decode() for position, _ in self._entries(thread_id)]

    def lines(self, thread_id: str) -> list[bytes]:
        return [fields[b"lines"] for _, fields in self._entries(thread_id)]

    def tasks(self, thread_id: str) -> list[tuple[str, int, bytes]]:
        """Return writer, counter and lines of each task in the mailbox."""
        return [
            (fields[b"writer"].decode(), int(fields[b"n"]), fields[b"lines"])
            for _, fields in self._entries(thread_id)
        ]

    def headers(self, thread_id: str) -> list[bytes]:
        return [fields[b"task"] for _, fields in self._entries(thread_id)]

    def is_marked_deleted(self, thread_id: str) -> bool:
        return self._client.zscore(self.keys(thread_id).deleted, thread_id) is not None

    def _entries(self, thread_id: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        entries: list[tuple[bytes, dict[bytes, bytes]]] = self._client.xrange(self.keys(thread_id).mailbox(thread_id))
        return entries

    # -- what others change in Redis -----------------------------------------------------------------------

    def publish(self, writer: Writer, message: bytes) -> None:
        """Publish *message* on the channel of *writer*'s client."""
        client = writer.id.partition(".")[0]
        self._client.publish(self.keys(writer.thread_id).acks(client), message)

    def add_by_hand(self, writer: Writer, n: int, task: EncodedTask) -> Position:
        """Accept *task* alone, with its writer's counter *n*."""
        keys = self.keys(writer.thread_id)
        fields = {"writer": writer.id, "n": n, "task": task.header, "lines": task.lines}
        position: str = self._client.xadd(keys.mailbox(writer.thread_id), fields).decode()
        self._client.hset(keys.writers(writer.thread_id), mapping={writer.id: f"{n} {position}", "tail": position})
        return position

    def empty(self, thread_id: str) -> None:
        """Take all tasks out of the mailbox, as a worker does."""
        self._client.delete(self.keys(thread_id).mailbox(thread_id))

    def forget_scripts(self) -> None:
        """Forget all scripts, as Redis does when it restarts."""
        self._client.script_flush()

    def lose_everything(self) -> None:
        """Forget all keys, as Redis without persistence does when it restarts."""
        self._client.delete(*self._client.scan_iter(f"{self._settings.key_prefix}:*", count=1_000))

    def lose_tasks_after(self, writer: Writer, n: int) -> None:
        """Forget the writer's tasks after counter *n*."""
        keys = self.keys(writer.thread_id)
        mailbox = keys.mailbox(writer.thread_id)
        kept = self._entries(writer.thread_id)[:n]
        self._client.delete(mailbox)  # a stream that merely dropped an entry would remember its id
        for position, fields in kept:
            self._client.xadd(mailbox, fields, id=position)
        last = kept[-1][0].decode()
        self._client.hset(keys.writers(writer.thread_id), mapping={writer.id: f"{n} {last}", "tail": last})

    def mark_deleted(self, thread_id: str) -> None:
        self._client.zadd(self.keys(thread_id).deleted, {thread_id: 1})

    def begin_epoch(self, thread_id: str, epoch: int) -> None:
        self._client.hset(self.keys(thread_id).writers(thread_id), names.EPOCH, epoch)

    def forget_doorbell(self, thread_id: str) -> None:
        """Let the outstanding doorbell expire."""
        self._client.delete(self.keys(thread_id).bell)

    def park(self, thread_id: str) -> None:
        self._client.hset(self.keys(thread_id).parked, thread_id, "{}")

    def is_parked(self, thread_id: str) -> bool:
        return bool(self._client.hexists(self.keys(thread_id).parked, thread_id))


AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


def append(text: str) -> EncodedTask:
    return OrderedTask(AppendItems(at=AT), (text.encode(),)).encode()


_numbers = iter(range(1_000_000))


def new_writer(
    thread_id: str,
    budget: Budget,
    *,
    max_tasks: int,
    mailboxes: Mailboxes | None = None,
    observers: Observers | None = None,
) -> Writer:
    """Return a writer; its tasks can be sent only if *mailboxes* are given."""
    place = mailboxes.place(thread_id) if mailboxes else Place(0, ())
    return Writer(thread_id, f"c.{next(_numbers)}", place, budget, observers or Observers(), max_tasks=max_tasks)


def queue(
    writer: Writer,
    task: EncodedTask,
    expected: Position | None = None,
    deadline: float = 0.0,
    *,
    patch: EncodedTask | None = None,
) -> Submission:
    """Submit *task* to *writer*."""
    submission = Submission(task, expected, patch)
    writer.submit(submission, deadline)
    return submission
