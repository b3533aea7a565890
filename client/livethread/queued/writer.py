"""One writer's tasks of one thread, from submission until they are seen applied."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from livethread.errors import ResourceExhausted
from livethread.ordered_tasks import EncodedTask
from livethread.types import START, Position, position_key


class NoRoom(ResourceExhausted):
    """A bound is reached that workers will free."""


@dataclass(slots=True)
class Budget:
    """Bytes that all writers of a store may keep."""

    limit: int
    used: int = 0
    #: Set whenever a task is let go.
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def give_back(self, size: int) -> None:
        """Note that a task of *size* bytes is no longer kept."""
        self.used -= size
        self.freed.set()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thread's mailbox is."""

    shard: int
    #: Keys of the thread, as ``enqueue.lua`` takes them.
    keys: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Submission:
    """A task on its way."""

    task: EncodedTask
    #: Bytes of the task.
    size: int
    expected: Position | None
    #: Resolves to the position once Redis holds the task.
    accepted: asyncio.Future[Position]
    #: Loop time of the submission, in seconds.
    since: float
    #: Number among the submissions of its writer.
    order: int
    #: Loop time until which it is offered again where the mailbox is full.
    deadline: float = 0.0
    #: The writer's counter; 0 until it is sent for the first time.
    n: int = 0
    position: Position = START
    #: Whether Redis held it once and lost it: it is offered again, with no conditions.
    is_repeated: bool = False
    #: Whether it was refused: nothing of it is stored, and it is no longer queued.
    is_refused: bool = False
    #: Whether Redis had no room for it, and it waits to be offered again: Redis holds nothing of it.
    is_postponed: bool = False

    @property
    def is_promised(self) -> bool:
        """Whether its caller knows that it will take effect: it was accepted, or is said to stay queued.

        One with an expected position is said to take effect only where that holds once Redis answers.
        """
        if self.expected is None or self.is_repeated or not self.accepted.done():
            return self.accepted.done()
        return self.accepted.cancelled() or self.accepted.exception() is None


class Writer:
    """Gives tasks of one thread their counters and keeps them until they are applied.

    ``floor`` < ``unapplied`` (accepted by Redis, not yet seen applied) < ``queue`` (not yet accepted): the
    counters run through all three. A task leaves ``unapplied`` only when it is known to be durable, so that it
    can be sent again should Redis lose it. What is promised is never refused.
    """

    def __init__(
        self,
        thread_id: str,
        budget: Budget,
        max_tasks: int,
        id_: str | None = None,
        on_applied: Callable[[Writer], None] = lambda _: None,
    ) -> None:
        self.thread_id = thread_id
        #: Identifies this writer for good; never used again once it is closed. What stands before its first dot names the
        #: client, who is told on a channel of that name.
        self.id = id_ or uuid.uuid4().hex[:16]
        #: Known once it has sent something.
        self.place: Place | None = None
        #: Writers of an older epoch than the thread's newest are fenced; None: this one never is.
        self.epoch: int | None = None
        #: Last counter known to be applied.
        self.floor = 0
        self.unapplied: deque[Submission] = deque()
        self.queue: deque[Submission] = deque()
        #: Counter up to which the workers told that tasks are applied: they may be quicker than Redis' answer to us.
        self._told = 0
        #: Last position known to be applied.
        self.applied: Position = START
        #: Why the thread is parked, where it is.
        self.parked: str | None = None
        #: Called when more tasks are known to be applied.
        self._on_applied = on_applied
        #: Set whenever something above changes.
        self.changed = asyncio.Event()
        self._budget = budget
        self._max_tasks = max_tasks
        self._orders = 0
        self._is_closed = False
        #: Whose turn it is to be submitted, and how many are in line for it; see `Admission`.
        self.turn = asyncio.Lock()
        self.in_line = 0

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

    def submit(self, task: EncodedTask, expected: Position | None = None, deadline: float = 0.0) -> Submission:
        """Queue *task* behind all others of this writer; where its mailbox is full, it waits until *deadline*.

        Raises:
            NoRoom: too much is outstanding, of this thread or of the store.
            ResourceExhausted: it is larger than all that may be outstanding.
        """
        if len(self.unapplied) + len(self.queue) >= self._max_tasks:
            raise NoRoom(
                f"{self._max_tasks} tasks of thread {self.thread_id} wait to be applied, the most that are kept; "
                + (f"it is parked: {self.parked}" if self.parked else "flush before you append more")
            )
        size = task.size
        if size > self._budget.limit:
            raise ResourceExhausted(
                f"a task of {size} bytes, where {self._budget.limit} are the most that are kept in all "
                "(LIVETHREAD_OUTBOX_MAX_BYTES)"
            )
        self._require_bytes(size)
        loop = asyncio.get_running_loop()
        self._orders += 1
        submission = Submission(task, size, expected, loop.create_future(), loop.time(), self._orders, deadline)
        self._budget.used += size
        self.queue.append(submission)
        return submission

    def require_room_for_both(self, creation: EncodedTask, task: EncodedTask) -> None:
        """Return if the thread's *creation* and *task* have room together, or never will have.

        Raises:
            NoRoom: there is none now: a thread would be created that nothing is appended to.
        """
        size = creation.size + task.size
        if size <= self._budget.limit:
            self._require_bytes(size)

    def _require_bytes(self, size: int) -> None:
        if self._budget.used + size > self._budget.limit:
            raise NoRoom(
                f"{self._budget.used} bytes of tasks wait to be applied, the most that are kept; "
                "flush before you append more (or raise LIVETHREAD_OUTBOX_MAX_BYTES)"
            )

    def number(self, count: int) -> list[Submission]:
        """Give the first *count* queued tasks their counters and return them."""
        batch = list(itertools.islice(self.queue, count))
        for n, submission in enumerate(batch, start=self.last_accepted + 1):
            submission.n = n
            submission.is_postponed = False
        return batch

    def accept(self, last: int, position: Position, fresh: int) -> None:
        """Note that Redis holds this writer's tasks up to counter *last*, the last of them at *position*.

        The last *fresh* of them were accepted by this very call, one position after the other. Of those that an
        earlier call brought the own position is not known; that of the last serves, since waiting for it is safe.
        """
        while self.queue and 0 < self.queue[0].n <= last:
            submission = self.queue.popleft()
            behind = last - submission.n
            submission.position = _before(position, behind) if 0 < behind < fresh else position
            self.unapplied.append(submission)
            if not submission.accepted.done():
                submission.accepted.set_result(submission.position)
        if self._is_closed:
            self._let_go(last)
        else:
            self._let_go_applied()
        self.changed.set()

    def refuse(self, error: Exception) -> bool:
        """Refuse the first queued task, and with a thread's creation all that depend on it.

        Those behind it get new counters when they are sent. Return whether it could be refused: what is promised
        cannot be, and has to be tried again. What the workers told to be applied is accepted instead.
        """
        first = self.queue[0]
        if self._accept_told():
            return True
        if first.is_promised:
            return False
        depending = len(self.queue) if first.task.op == "create_thread" else 1
        for _ in range(depending):
            if self.queue[0].is_promised:
                break
            self._drop(self.queue.popleft(), error)
        self._forget_counters()
        self.changed.set()
        return True

    def give_up_first(self, error: Exception) -> None:
        """Give up the first queued task, whatever was promised: what it was to take effect under holds no longer."""
        if self._accept_told():
            return
        self._drop(self.queue.popleft(), error)
        self._forget_counters()
        self.changed.set()

    def postpone(self) -> None:
        """Keep what is queued for later: Redis has no room for the first, and took nothing behind it."""
        self._accept_told()
        self._forget_counters()
        for waiting in self.queue:
            waiting.is_postponed = True

    def withdraw(self, submission: Submission) -> bool:
        """Take *submission*, whose caller no longer waits, back, and return True, where it is postponed."""
        if not submission.is_postponed:
            return False
        self.queue.remove(submission)
        self._drop(submission, asyncio.CancelledError())
        self.changed.set()
        return True

    def drop_all(self, error: Exception) -> None:
        """Give up everything queued: the thread is gone, or the store is closed."""
        while self.queue:
            self._drop(self.queue.popleft(), error)
        self.changed.set()

    def note_applied(self, n: int, position: Position) -> None:
        """Let go of the tasks up to counter *n*: they are durable. *position* is how far the thread is.

        Those that are not known to be accepted yet are let go when they are.
        """
        self._told = max(self._told, n)
        self.applied = position
        self._let_go_applied()
        self.changed.set()

    def _accept_told(self) -> bool:
        """Accept the first queued tasks where they are told to be applied: Redis took them, and lost them since."""
        is_told = bool(self.queue) and 0 < self.queue[0].n <= self._told
        if is_told:
            self.accept(self._told, self.applied, 0)
        return is_told

    def _let_go_applied(self) -> None:
        if self.unapplied and self.unapplied[0].n <= self._told:
            self._let_go(self._told)
            self._on_applied(self)

    def _let_go(self, n: int) -> None:
        while self.unapplied and self.unapplied[0].n <= n:
            submission = self.unapplied.popleft()
            self.floor = submission.n
            self._budget.give_back(submission.size)

    def _forget_counters(self) -> None:
        """Have what is queued numbered anew."""
        self._told = self.floor
        for waiting in self.queue:
            waiting.n = 0

    def close(self) -> None:
        """Keep nothing any longer for the case that Redis loses it; what is queued still goes out."""
        self._is_closed = True
        self._let_go(self.last_accepted)
        self.changed.set()

    def note_parked(self, reason: str | None) -> None:
        """Note that the thread waits for somebody's decision, or no longer does."""
        self.parked = reason
        self.changed.set()

    def rewind(self, last: int) -> None:
        """Queue again what Redis may have lost: everything accepted after counter *last*."""
        while self.unapplied and self.unapplied[-1].n > last:
            submission = self.unapplied.pop()
            submission.is_repeated = True
            self.queue.appendleft(submission)

    def _drop(self, submission: Submission, error: BaseException) -> None:
        submission.is_refused = True
        self._budget.give_back(submission.size)
        if not submission.accepted.done():
            submission.accepted.set_exception(error)
            submission.accepted.exception()  # the outcome of a creation may interest nobody


def _before(position: Position, count: int) -> Position:
    """Return the position that was given out *count* places before *position*, by the same call."""
    high, low = position_key(position)
    return f"{high}-{low - count}"
