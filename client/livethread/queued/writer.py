"""A `Writer`: everything that one store has in flight for one thread."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from livethread.errors import Conflict, ResourceExhausted, ThreadNotFound, ThreadStoreError
from livethread.observers import EventAt, ItemsAppended, Observers, TasksApplied, ThreadParkedEvent
from livethread.ordered_tasks import EncodedTask
from livethread.position import START, Position, position_key
from livethread.queued.parking import Parking
from livethread.queued.tracing import current_traceparent
from livethread_config.deployment import ShardEpochs


class NoRoom(ResourceExhausted):
    """A limit is reached; there is room again once workers have applied tasks."""


@dataclass(slots=True)
class Budget:
    """Bytes that all writers of a store may keep."""

    limit: int
    used: int = 0
    #: Set whenever a task is released.
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, size: int) -> None:
        """Count *size* more bytes.

        Raises:
            NoRoom: they do not fit now.
            ResourceExhausted: they are more than the whole budget.
        """
        if self.used + size <= self.limit:
            self.used += size
        elif size > self.limit:
            raise ResourceExhausted(
                f"the task has {size} bytes, but only {self.limit} bytes may wait to be applied "
                "(LIVETHREAD_OUTBOX_MAX_BYTES)"
            )
        else:
            raise NoRoom(
                f"{self.used} bytes of tasks wait to be applied (limit: {self.limit}); "
                "flush before you append more (or raise LIVETHREAD_OUTBOX_MAX_BYTES)"
            )

    def give_back(self, size: int) -> None:
        """Stop counting *size* bytes."""
        self.used -= size
        self.freed.set()


class Place(NamedTuple):
    """Where a thread's mailbox is."""

    shard: int
    #: The thread's keys in the order in which ``enqueue.lua`` takes them.
    keys: tuple[str, ...]
    #: The shard epochs from which the shard follows.
    epochs: ShardEpochs | None = None


@dataclass(slots=True, eq=False)
class Submission:
    """A task on its way; an append may bring the patch derived from it. Only its writer changes it."""

    task: EncodedTask
    #: Position that must be the thread's last.
    expected: Position | None = None
    #: The task that follows directly: both are accepted, or neither is.
    patch: EncodedTask | None = None
    #: The events of the task and of the patch, until they are emitted: when Redis accepts them for the first time.
    event: EventAt | None = None
    patch_event: EventAt | None = None
    #: Trace context in which it was made; the span of the append stands for its patch, too.
    traceparent: str = field(default_factory=current_traceparent)
    #: Number and bytes of its tasks.
    count: int = field(init=False)
    size: int = field(init=False)
    #: Resolves to the last task's position once Redis holds all of them. Set when it is queued.
    accepted: asyncio.Future[Position] = field(init=False)
    #: Loop time of the submission, in seconds.
    since: float = 0.0
    #: Number among the submissions of its writer.
    order: int = 0
    #: Loop time until which it may wait for room in a full mailbox.
    deadline: float = 0.0
    #: The writer's counters of the first and the last task; 0 until it is sent for the first time.
    n: int = 0
    last: int = 0
    #: Position of the last task.
    position: Position = START
    #: Whether it is offered again without its conditions, because Redis held it once and lost it.
    is_repeated: bool = False
    #: Whether Redis had no room for it, holds nothing of it, and will be offered it again.
    is_postponed: bool = False

    def __post_init__(self) -> None:
        if self.patch is None:
            self.count, self.size = 1, self.task.size
        else:
            self.count, self.size = 2, self.task.size + self.patch.size

    @property
    def append_position(self) -> Position:
        """Position of the task before the patch."""
        return self.position if self.patch is None else _before(self.position, 1)

    @property
    def is_promised(self) -> bool:
        """Whether its caller knows that it will take effect: it was accepted, or reported to stay queued.

        With an expected position, a report promises only that it takes effect if that position is still the last.
        """
        if self.expected is None or self.is_repeated or not self.accepted.done():
            return self.is_repeated or self.accepted.done()
        return self.accepted.cancelled() or self.accepted.exception() is None

    def fail(self, error: BaseException) -> None:
        """Report *error* to the caller, if the caller still waits."""
        if not self.accepted.done():
            self.accepted.set_exception(error)
            self.accepted.exception()  # a creation may have no caller

    def split(self) -> Submission:
        """Return the patch as a submission of its own, and keep the task before it, which Redis holds."""
        assert self.patch is not None
        patch = replace(
            self, task=self.patch, expected=None, patch=None, traceparent="", n=self.last, is_repeated=True
        )
        patch.event, patch.patch_event, self.patch_event = self.patch_event, None, None
        # The caller waits for both.
        patch.accepted, self.accepted = self.accepted, self.accepted.get_loop().create_future()
        self.patch, self.count, self.size, self.last = None, 1, self.task.size, self.n
        return patch


class Writer:
    """Gives tasks of one thread their counters and keeps them until they are applied.

    ``floor`` < ``unapplied`` (Redis holds them, no worker has acknowledged them) < ``queue`` (not yet accepted): the
    counters run through all three. A task leaves ``unapplied`` only when it is known to be durable, so that it
    can be sent again if Redis loses it. A promised task is never refused.
    """

    def __init__(
        self,
        thread_id: str,
        id_: str,
        place: Place,
        budget: Budget,
        observers: Observers,
        *,
        max_tasks: int,
        keeps_accepted: bool = True,
    ) -> None:
        self.thread_id = thread_id
        #: Identifies this writer for good. The part before the first dot names the client, and so the channels on which
        #: workers acknowledge its tasks.
        self.id = id_
        self.place = place
        #: Writers of an older epoch than the thread's newest are fenced; None: this one never is.
        self.epoch: int | None = None
        #: Last counter known to be applied.
        self.floor = 0
        self.unapplied: deque[Submission] = deque()
        self.queue: deque[Submission] = deque()
        #: Last position known to be applied.
        self.applied: Position = START
        #: Why the thread is parked; None if it is not.
        self.parked: str | None = None
        #: Why Redis does not take the queue now; None if it does, or has not refused.
        self.held_up_by: Exception | None = None
        #: Set whenever one of these changes.
        self.changed = asyncio.Event()
        #: Held by the caller whose task waits for room; the others wait for the lock, in order.
        self.admission_lock = asyncio.Lock()
        self._budget = budget
        self._observers = observers
        self._max_tasks = max_tasks
        self._keeps_accepted = keeps_accepted
        self._is_closed = False
        #: The task that creates the thread, until Redis holds it. It is submitted before the first task, or when a
        #: caller asks for it, so an unused thread is not created.
        self.creation: EncodedTask | None = None
        self._creating: Submission | None = None
        #: Counter up to which workers acknowledged tasks: their message may come before Redis' reply to the enqueue.
        self._acked = 0
        #: Number of the last submission so far; see `is_applied_up_to`.
        self.marker = 0
        #: Number of tasks in ``unapplied`` and ``queue``.
        self._tasks = 0

    @property
    def last_accepted(self) -> int:
        """Counter of the last task that Redis accepted."""
        return self.unapplied[-1].last if self.unapplied else self.floor

    @property
    def has_outstanding(self) -> bool:
        """Whether a task is not yet known to be applied."""
        return bool(self.unapplied or self.queue)

    def is_applied_up_to(self, marker: int) -> bool:
        """Whether every submission up to *marker* is applied, or was refused."""
        pending = self.unapplied or self.queue
        return not pending or pending[0].order > marker

    def raise_epoch(self, epoch: int) -> None:
        """Adopt *epoch* if it is newer: handles of one thread share the rights of the newest one."""
        self.epoch = max(self.epoch or 0, epoch)

    def close(self) -> None:
        """Take no more tasks, and keep none that Redis holds; the queue is still sent."""
        self._is_closed = True
        self._keeps_accepted = False
        self._let_go(self.last_accepted)
        self.changed.set()

    # -- submitting ----------------------------------------------------------------------------------------

    def submit(self, submission: Submission | None, deadline: float = 0.0) -> Submission | None:
        """Queue *submission* after all others, and the thread's creation before it if that is due; return *submission*.

        None stands for the creation alone, which is returned until Redis has accepted it. In a full mailbox a
        submission waits for room until *deadline*. After `NoRoom` the same one may be submitted again.

        Raises:
            NoRoom: too much is outstanding for this thread or the store.
            ResourceExhausted: it is larger than everything that may be outstanding.
            ThreadNotFound: the thread was shut down or discarded.
        """
        if self._is_closed:
            raise ThreadNotFound(self.thread_id, "it was shut down or discarded")
        if self.creation is not None and self._creating is None:
            creating = Submission(self.creation)
            if submission is not None and (size := creating.size + submission.size) <= self._budget.limit:
                self._budget.take(size)  # both must fit, or the thread would be created and stay empty
                self._budget.give_back(size)
            self._creating = self._append(creating, deadline)
            if submission is not None and submission.expected == START:
                submission.expected = None  # the creation itself requires a thread without tasks
        return self._creating if submission is None else self._append(submission, deadline)

    def _append(self, submission: Submission, deadline: float) -> Submission:
        if self._tasks + submission.count > self._max_tasks:
            raise NoRoom(
                f"{self._tasks} tasks of thread {self.thread_id} wait to be applied (limit: {self._max_tasks}); "
                + (f"it is parked: {self.parked}" if self.parked else "flush before you append more")
            )
        self._budget.take(submission.size)
        loop = asyncio.get_running_loop()
        self.marker += 1
        self._tasks += submission.count
        submission.accepted = loop.create_future()
        submission.order, submission.since, submission.deadline = self.marker, loop.time(), deadline
        self.queue.append(submission)
        return submission

    # -- sending -------------------------------------------------------------------------------------------

    def take(self, tasks: int, size: int = sys.maxsize) -> list[Submission]:
        """Give the first queued submissions their counters and return them.

        They bring up to *tasks* tasks and *size* bytes, but the first always fits.
        """
        batch: list[Submission] = []
        n = self.last_accepted
        for submission in self.queue:
            if batch and (tasks < submission.count or size < submission.size):
                break
            # Promised tasks pass every fence: they travel without an epoch, and so apart from the others.
            if batch and self.epoch is not None and submission.is_promised != batch[0].is_promised:
                break
            submission.n, submission.is_postponed = n + 1, False
            submission.last = n = n + submission.count
            tasks -= submission.count
            size -= submission.size
            batch.append(submission)
        return batch

    def accept(self, last: int, position: Position, fresh: int) -> None:
        """Record that Redis holds this writer's tasks up to counter *last*, the last of them at *position*.

        The call accepted the last *fresh* of them, at consecutive positions. The positions of earlier ones are
        unknown; they get the last position, which is safe to wait for.
        """
        while self.queue and 0 < self.queue[0].n <= last:
            submission = self.queue.popleft()
            if last < submission.last:
                self.queue.appendleft(submission.split())
            later = last - submission.last
            submission.position = _before(position, later) if 0 < later < fresh else position
            if submission is self._creating:
                self.creation = self._creating = None
            self.unapplied.append(submission)
            self._emit_events(submission)
            if not submission.accepted.done():
                submission.accepted.set_result(submission.position)
        if self._keeps_accepted:
            self._let_go_acked()
        else:
            self._let_go(last)
        self.changed.set()

    def _emit_events(self, submission: Submission) -> None:
        event, submission.event = submission.event, None
        patch_event, submission.patch_event = submission.patch_event, None
        if not self._observers.wants(ItemsAppended):  # nor a patch's event: both are logged at debug level
            return
        if event is not None:
            self._observers.emit(event(submission.append_position))
        if patch_event is not None and submission.patch is not None:
            self._observers.emit(patch_event(submission.position))

    def refuse(self, error: ThreadStoreError) -> bool:
        """Refuse the first queued submission; return False if it stays queued, to be offered again later.

        It stays if it may wait for room, or is promised. Even a promised one goes if it expects a position that is no
        longer the last, since that cannot change. If a creation is refused, so is every submission that
        depends on it. A submission that workers acknowledged is accepted instead.
        """
        first = self.queue[0]
        if 0 < first.n <= self._acked:  # Redis held it, and has lost it since
            self.accept(self._acked, self.applied, 0)
            return True
        is_promised = first.is_promised
        if is_promised and not (isinstance(error, Conflict) and error.last_position is not None):
            return False
        may_wait = not is_promised and asyncio.get_running_loop().time() < first.deadline
        is_postponed = may_wait and isinstance(error, ResourceExhausted)
        self._acked = self.floor
        for waiting in self.queue:  # they get new counters when they are sent
            waiting.n, waiting.is_postponed = 0, is_postponed or waiting.is_postponed
        if is_postponed:
            return False
        self._drop(self.queue.popleft(), error)
        if first.task.op == "create_thread":
            while self.queue and not self.queue[0].is_promised:
                self._drop(self.queue.popleft(), error)
        self.changed.set()
        return True

    def withdraw(self, submission: Submission) -> bool:
        """Take *submission* back if it is postponed; return whether it was."""
        if not submission.is_postponed:
            return False
        self.queue.remove(submission)
        self._drop(submission, asyncio.CancelledError())
        self.changed.set()
        return True

    def drop_all(self, error: Exception) -> None:
        """Give up the whole queue: the thread is gone, or the store is closed."""
        while self.queue:
            self._drop(self.queue.popleft(), error)
        self.changed.set()

    def rewind(self, last: int) -> None:
        """Queue again every task after counter *last*: Redis may have lost them."""
        while self.unapplied and self.unapplied[-1].last > last:
            submission = self.unapplied.pop()
            if submission.n <= last:
                self.unapplied.append(submission)
                submission = submission.split()
            submission.is_repeated = True
            self.queue.appendleft(submission)

    def rewind_last(self) -> bool:
        """Queue the last submission again if nothing else is queued; return whether it was queued."""
        if self.queue or not self.unapplied:
            return False
        self.rewind(self.unapplied[-1].n - 1)
        return True

    # -- what workers report -------------------------------------------------------------------------------

    def note_applied(self, n: int, position: Position) -> None:
        """Release the tasks up to counter *n*, which are durable; the thread is applied up to *position*.

        Tasks not yet known to be accepted are released once they are.
        """
        self._acked = max(self._acked, n)
        self.applied = position
        self._let_go_acked()
        self.changed.set()

    def note_parked(self, parking: Parking | None) -> None:
        """Record why the thread is parked, or that it is not."""
        self.parked = None if parking is None else parking.reason
        self.changed.set()
        if parking is not None:
            self._observers.emit(ThreadParkedEvent(self.thread_id, parking.reason, parking.parked_at))

    def _let_go_acked(self) -> None:
        if self.unapplied and self.unapplied[0].last <= self._acked:
            self._let_go(self._acked)
            if self._observers.wants(TasksApplied):
                self._observers.emit(TasksApplied(self.thread_id, self.applied))

    def _let_go(self, n: int) -> None:
        while self.unapplied and self.unapplied[0].last <= n:
            submission = self.unapplied.popleft()
            self.floor = submission.last
            self._tasks -= submission.count
            self._budget.give_back(submission.size)

    def _drop(self, submission: Submission, error: BaseException) -> None:
        if submission is self._creating:
            self._creating = None
        self._tasks -= submission.count
        self._budget.give_back(submission.size)
        submission.fail(error)


def _before(position: Position, count: int) -> Position:
    """Return the position *count* places before *position*, if one call gave out both."""
    high, low = position_key(position)
    return f"{high}-{max(low - count, 0)}"
