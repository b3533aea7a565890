"""One writer's tasks of one thread, from submission until they are seen applied."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from livethread.types import START, Position, position_key

if TYPE_CHECKING:
    from livethread.tasks import OrderedTask


@dataclass(slots=True, eq=False)
class Submission:
    """A task on its way."""

    task: OrderedTask
    expected: Position | None
    #: Resolves to the position once Redis holds the task.
    accepted: asyncio.Future[Position]
    #: Loop time of the submission, in seconds.
    since: float
    #: Number among the submissions of its writer.
    order: int
    #: The writer's counter; 0 until it is sent for the first time.
    n: int = 0
    position: Position = START
    _wire: tuple[bytes, bytes] | None = field(default=None, repr=False)

    def wire(self) -> tuple[bytes, bytes]:
        """Return the task's two fields, encoded once."""
        if self._wire is None:
            self._wire = self.task.to_wire()
        return self._wire


class Writer:
    """Gives tasks of one thread their counters and keeps them until they are applied.

    ``floor`` < ``unapplied`` (accepted by Redis, not yet seen applied) < ``queue`` (not yet accepted): the
    counters run through all three. A task leaves ``unapplied`` only when it is known to be durable, so that it
    can be sent again should Redis lose it.
    """

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        #: Identifies this writer for good; never used again once it is closed.
        self.id = uuid.uuid4().hex[:16]
        #: Last counter known to be applied.
        self.floor = 0
        self.unapplied: deque[Submission] = deque()
        self.queue: deque[Submission] = deque()
        #: Last position known to be applied.
        self.applied: Position = START
        #: Why the thread is parked, where it is.
        self.parked: str | None = None
        #: Set whenever something above changes.
        self.changed = asyncio.Event()
        self._orders = 0

    @property
    def last_accepted(self) -> int:
        """Counter of the last task that Redis accepted."""
        return self.floor + len(self.unapplied)

    @property
    def has_outstanding(self) -> bool:
        """Whether a task is not yet known to be applied."""
        return bool(self.unapplied or self.queue)

    @property
    def marker(self) -> int:
        """Number of the last submission so far; see `is_applied_up_to`."""
        return self._orders

    def is_applied_up_to(self, marker: int) -> bool:
        """Whether every submission up to *marker* is applied, or was refused."""
        pending = self.unapplied or self.queue
        return not pending or pending[0].order > marker

    def submit(self, task: OrderedTask, expected: Position | None = None) -> Submission:
        """Queue *task* behind all others of this writer."""
        loop = asyncio.get_running_loop()
        self._orders += 1
        submission = Submission(task, expected, loop.create_future(), loop.time(), self._orders)
        self.queue.append(submission)
        return submission

    def number(self, count: int) -> list[Submission]:
        """Give the first *count* queued tasks their counters and return them."""
        batch = [self.queue[i] for i in range(min(count, len(self.queue)))]
        for n, submission in enumerate(batch, start=self.last_accepted + 1):
            submission.n = n
        return batch

    def accept(self, last: int, position: Position) -> None:
        """Note that Redis holds this writer's tasks up to counter *last*, the last of them at *position*."""
        while self.queue and 0 < self.queue[0].n <= last:
            submission = self.queue.popleft()
            # A duplicate's own position is not kept in Redis; that of a later task serves: waiting for it is safe.
            submission.position = position
            self.unapplied.append(submission)
            if not submission.accepted.done():
                submission.accepted.set_result(position)
        self.changed.set()

    def refuse_first(self, error: Exception) -> None:
        """Fail the first queued task; those behind it get new counters when they are sent."""
        submission = self.queue.popleft()
        for waiting in self.queue:
            waiting.n = 0
        _fail(submission, error)
        self.changed.set()

    def refuse_all(self, error: Exception) -> None:
        """Fail every queued task."""
        while self.queue:
            self.refuse_first(error)

    def note_applied(self, position: Position) -> None:
        """Let go of the tasks up to *position*: they are durable."""
        key = position_key(position)
        while self.unapplied and position_key(self.unapplied[0].position) <= key:
            self.floor = self.unapplied.popleft().n
        self.applied = position
        self.parked = None
        self.changed.set()

    def note_parked(self, reason: str) -> None:
        """Note that the thread waits for somebody's decision."""
        self.parked = reason
        self.changed.set()

    def rewind(self, last: int) -> None:
        """Queue again what Redis lost: everything accepted after counter *last*."""
        while self.unapplied and self.unapplied[-1].n > last:
            self.queue.appendleft(self.unapplied.pop())


def _fail(submission: Submission, error: Exception) -> None:
    if not submission.accepted.done():
        submission.accepted.set_exception(error)
        submission.accepted.exception()  # a create task's outcome may interest nobody
