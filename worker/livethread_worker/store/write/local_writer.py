"""A thread's writer in a `LocalThreadStore`: it numbers the thread's tasks and applies them at once.

It makes the checks that Redis makes for a mailbox, under the thread's lock: the epoch and the expected position.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Final

from livethread.errors import Conflict, Unavailable
from livethread.open_threads import taken_over
from livethread.ordered_tasks import AppendItems, MailboxEntry, OrderedTask
from livethread.position import START, Position, position_key
from livethread_config import names
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.write.batch import Batch
from livethread_worker.store.write.open_rollout import OpenRollout
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

#: How long another writer of the thread, such as codex, may hold its lock before a change gives up.
LOCK_WAIT: Final = 5.0  # seconds


class LocalWriter:
    """Applies the tasks of one thread, each with the thread's creation before it if that is due."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        #: The task that creates the thread, until it is applied: creation is lazy.
        self.creation: OrderedTask | None = None
        #: Writers of an older epoch than the thread's are fenced. None: the thread's own, whatever it is.
        self._epoch: int | None = None
        self._renew()

    def raise_epoch(self, epoch: int) -> None:
        """Take over the *epoch* of another opening of the thread, if it is newer."""
        self._epoch = max(self._epoch or 0, epoch)

    def try_to_apply(
        self, home: Home, index: Index, tasks: Sequence[OrderedTask], expected: Position | None, *, sync: bool
    ) -> tuple[Outcome, list[Position]]:
        """Apply *tasks*, all or none, if *expected* is the thread's last position; return the outcome.

        After `OutcomeKind.BUSY` it may be called again with the same tasks: their lines in the file are recognized.
        """
        pending = [*([self.creation] if self.creation else []), *tasks]
        entries: list[MailboxEntry] = []
        with Batch(home, index, sync=sync) as batch:
            batch.lock([self.thread_id], wait_s=LOCK_WAIT)
            numbered = [MailboxEntry(START, self._id, n, task) for n, task in enumerate(pending, start=self._n + 1)]
            states = batch.load({self.thread_id: numbered})
            for _ in batch.locked:
                with batch.outcome_of(self.thread_id):
                    state = states.get(self.thread_id)
                    entries = _with_positions(numbered, state.applied if state else START)
                    if self.creation is not None and expected not in {None, START}:  # it would fail: create nothing
                        raise Conflict.of_position(self.thread_id, START, expected)
                    rollout = batch.open(self.thread_id, entries, state)
                    self._check(rollout, tasks, expected)
                    batch.apply(rollout, entries)
            outcome = batch.commit()[self.thread_id]
        return outcome, [entry.position for entry in entries[-len(tasks) :]]

    def finish(self, outcome: Outcome, count: int) -> None:
        """Take over the *outcome* of *count* tasks.

        Raises:
            ThreadStoreError: they are not applied.
        """
        if outcome.kind is OutcomeKind.LOCKED:
            raise Unavailable(f"nothing was stored: {outcome.reason}; try again when it is done")
        if outcome.kind in {OutcomeKind.DONE, OutcomeKind.DELETED}:
            self._n += count + (self.creation is not None)
            self.creation = None
            return
        # A counter that may have left a trace is never given to another task.
        self._renew()
        if outcome.error is not None:
            raise outcome.error
        raise Unavailable(f"it is not certain that this was stored: {outcome.reason}")

    def _renew(self) -> None:
        self._id, self._n = names.writer_id(uuid.uuid4().hex[:12], time.time_ns() // 1_000_000), 0

    def _check(self, rollout: OpenRollout, tasks: Sequence[OrderedTask], expected: Position | None) -> None:
        """Check what Redis would, unless an earlier attempt did so and left lines.

        Raises:
            Conflict: a newer epoch began, or the thread's last position is not *expected*.
        """
        state = rollout.work.state
        if state.mark(self._id).n > self._n:
            return
        if self._epoch is None:
            self._epoch = state.epoch
        elif self._epoch < state.epoch:
            raise taken_over(state.thread_id)
        state.epoch = self._epoch  # the index may have lost it
        header = tasks[0].header if tasks else None
        is_repeated = isinstance(header, AppendItems) and header.idempotency_key in state.idempotency_keys
        if expected is None or self.creation is not None or is_repeated:
            return
        if state.applied == START or rollout.took_in:
            raise Conflict(
                f"the last position of thread {self.thread_id} is not known, since its rollout holds more than its index knew; "
                "read the thread, then append once without expected_position"
            )
        if expected != state.applied:
            raise Conflict.of_position(self.thread_id, state.applied, expected)


def _with_positions(entries: Sequence[MailboxEntry], last: Position) -> list[MailboxEntry]:
    """Return *entries* with positions after *last*, in the form that Redis gives: milliseconds, and a number within.

    The number is the nanosecond, so that positions also rise for writers that alternate without sharing an index.
    """
    high, low = max(divmod(time.time_ns(), 1_000_000), _after(position_key(last)))
    return [entry._replace(position=f"{high}-{low + number}") for number, entry in enumerate(entries)]


def _after(position: tuple[int, int]) -> tuple[int, int]:
    return position[0], position[1] + 1
