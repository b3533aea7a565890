"""Stands in for a Redis that knows two scripts: what ``enqueue.lua`` and ``unpark.lua`` promise, in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from livethread.types import START

HEAD_KEYS, THREAD_KEYS, HEAD_ARGS = 8, 4, 3

Reply = list[int | list[bytes]]


class LostReply(Exception):
    """Redis did what it was asked; the answer never came."""


@dataclass
class StoppedHalfWay(Exception):
    """The script ran for the first *tasks* of each thread, and Redis answered with an error."""

    tasks: int
    error: Exception


@dataclass(frozen=True)
class Task:
    """A task as it stands in the script's arguments."""

    n: int
    kind: str
    expected: str
    key: str
    header: bytes
    lines: bytes


@dataclass
class Mailbox:
    """One thread's stream, and what is remembered of its writers."""

    entries: list[tuple[str, int, bytes]] = field(default_factory=list)
    #: Writer -> its last accepted counter and position.
    last: dict[str, tuple[int, str]] = field(default_factory=dict)
    tail: str | None = None
    keys: set[str] = field(default_factory=set)
    epoch: int = 0
    is_deleted: bool = False

    def lines(self) -> list[bytes]:
        return [lines for _, _, lines in self.entries]


class FakeMailboxes:
    """Redis, as far as the outbox sees it."""

    def __init__(self) -> None:
        self.mailboxes: defaultdict[str, Mailbox] = defaultdict(Mailbox)
        #: Each call's counters, by thread.
        self.calls: list[dict[str, list[int]]] = []
        #: Every task that was offered, in order.
        self.offered: list[Task] = []
        #: What goes wrong with the next calls; None: nothing.
        self.faults: deque[Exception | None] = deque()
        #: Threads that are parked.
        self.parked: set[str] = set()
        #: What goes wrong when the counters are asked for.
        self.read_faults: deque[Exception | None] = deque()
        #: What happens in Redis right before each of the next calls, such as a worker's work.
        self.meanwhile: deque[Callable[[], None]] = deque()
        self.must_ring = False
        self.called = asyncio.Event()
        #: A call waits here while it is cleared.
        self.open = asyncio.Event()
        self.open.set()
        self._clock = 0

    def register_script(self, source: str) -> Callable[..., Awaitable[Reply | int]]:
        if "\n-- unpark:" in source:
            return self._run_unpark
        if source.startswith("-- fence:"):
            return self._run_fence
        assert source.startswith("-- enqueue:")
        return self._run

    def lose_everything(self) -> None:
        """Forget all, as a Redis without persistence does when it starts again."""
        self.mailboxes.clear()

    async def hget(self, key: str, field: str) -> bytes | None:
        """Return what the hash ``writers`` of a thread says of a writer."""
        if fault := self.read_faults.popleft() if self.read_faults else None:
            raise fault
        *_, kind, thread = key.split(":")
        assert kind == "writers"
        record = self.mailboxes[thread].last.get(field)
        return None if record is None else f"{record[0]} {record[1]}".encode()

    async def _run_fence(self, *, keys: list[str], args: list[int]) -> int:
        raise AssertionError("no writer fences another here")

    async def _run_unpark(self, *, keys: list[str], args: list[str]) -> int:
        assert [key.rpartition(":")[2] for key in keys] == ["ready", "parked"]
        (thread,) = args
        was_parked = thread in self.parked
        self.parked.discard(thread)
        return int(was_parked)

    async def _run(self, *, keys: list[str], args: list[str | bytes | int]) -> Reply:
        self.called.set()
        self.calls.append({})
        await self.open.wait()
        if self.meanwhile:
            self.meanwhile.popleft()()
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, RedisError | OSError):
            self._apply(keys, args, most=None)  # only to note what the call asked for
            raise fault
        if isinstance(fault, StoppedHalfWay):
            self._apply(keys, args, most=fault.tasks)
            raise fault.error
        replies = self._apply(keys, args, most=len(args))
        if fault is not None:
            raise RedisConnectionError("reset by peer") from fault
        return [int(self.must_ring), *replies]

    def _apply(self, keys: list[str], args: list[str | bytes | int], *, most: int | None) -> list[list[bytes]]:
        """Take up to *most* tasks of each thread; None: only note what the call asks for."""
        bound, rest = int(args[2]), iter(args[HEAD_ARGS:])
        self._clock += most is not None
        replies = []
        threads = []
        for thread in rest:
            threads.append(str(thread))
            writer, floor, epoch, count = str(next(rest)), int(next(rest)), str(next(rest)), int(next(rest))
            tasks = [self._task(rest) for _ in range(count)]
            self.calls[-1][str(thread)] = [task.n for task in tasks]
            self.offered += tasks
            if most is not None:
                replies.append(
                    self._enqueue(self.mailboxes[str(thread)], (writer, epoch), floor, tasks[:most], bound)
                )
        assert len(keys) == HEAD_KEYS + THREAD_KEYS * len(threads)
        assert [key.rpartition(":")[2] for key in keys[HEAD_KEYS::THREAD_KEYS]] == threads
        return replies

    @staticmethod
    def _task(rest: Iterator[str | bytes | int]) -> Task:
        n, kind, expected, key, header, lines = (next(rest) for _ in range(6))
        assert isinstance(header, bytes)
        assert isinstance(lines, bytes)
        return Task(int(n), str(kind), str(expected), str(key), header, lines)

    def _enqueue(
        self, box: Mailbox, writer: tuple[str, str], floor: int, tasks: list[Task], bound: int
    ) -> list[bytes]:
        writer_id, epoch = writer
        last, position = box.last.get(writer_id, (0, START))
        last = max(last, floor)
        status, accepted = "ok", 0
        for task in tasks:
            if status != "ok" or task.n <= last:
                continue
            if task.n > last + 1:
                status = "gap"
            elif box.is_deleted:
                status = "deleted"
            elif task.kind == "create" and last == 0 and box.tail:
                status = "exists"
            elif epoch != "" and int(epoch) < box.epoch:
                status = "fenced"
            elif len(box.entries) >= bound:
                status = "full"
            elif task.expected and task.expected != (box.tail or START) and task.key not in box.keys:
                status = "moved"
            else:
                # One position after the other, all of the time of the call.
                last, position, accepted = task.n, f"{self._clock}-{accepted}", accepted + 1
                box.tail = position
                box.keys |= {task.key} - {""}
                box.entries.append((writer_id, task.n, task.lines))
                box.is_deleted = task.kind == "delete"
                box.last[writer_id] = (last, position)
        return [text.encode() for text in (status, str(last), position, box.tail or START, str(accepted))]
