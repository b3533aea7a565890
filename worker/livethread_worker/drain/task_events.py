"""Celery task events for ordered tasks: each is a task of its own to those who watch, though no message was sent.

Flower and every other consumer of Celery's events shows them. They say ids and sizes, never contents.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from livethread.types import position_key
from livethread_worker.store.apply import OutcomeKind

if TYPE_CHECKING:
    from celery.events.dispatcher import EventDispatcher

    from livethread.tasks import MailboxEntry
    from livethread.types import Position
    from livethread_worker.drain.mailbox import Claim, Malformed
    from livethread_worker.store.apply import Outcome

logger = logging.getLogger(__name__)

#: Name under which an entry of a mailbox is shown that is no task.
MALFORMED: Final = "livethread.malformed_entry"


@dataclass(frozen=True, slots=True)
class _Shown:
    """A mailbox entry as those who watch see it."""

    uuid: str
    name: str
    thread_id: str
    position: Position
    items: int
    size: int

    @classmethod
    def of(cls, thread_id: str, entry: MailboxEntry) -> Self:
        return cls(
            f"{entry.writer}-{entry.n}",
            f"livethread.{entry.task.header.op}",
            thread_id,
            entry.position,
            len(entry.task.lines),
            entry.task.size,
        )

    @classmethod
    def of_malformed(cls, thread_id: str, entry: Malformed) -> Self:
        """Name it by its place: who wrote it, and what it should have done, cannot be known."""
        return cls(f"{thread_id}-{entry.position}", MALFORMED, thread_id, entry.position, 0, entry.size)


class TaskEvents:
    """Reports the ordered tasks of a drain, up to a rate; beyond it, an even sample of them.

    Events are for people: a failure to send them is logged and disturbs nothing.
    """

    def __init__(self, dispatcher: EventDispatcher | None, per_second: int) -> None:
        self._dispatcher = dispatcher if per_second else None
        self._budget = _Budget(per_second)

    def report(self, claims: list[Claim], outcomes: dict[str, Outcome], started_at: float) -> None:
        """Report what became of *claims* since *started_at*: what is applied succeeded, what is poisoned failed."""
        if self._dispatcher is None:
            return
        applied: list[tuple[str, MailboxEntry]] = []
        for claim in claims:
            outcome = outcomes[claim.thread_id]
            done = claim.applied(outcome)
            applied += [(claim.thread_id, entry) for entry in done]
            if outcome.kind is OutcomeKind.POISONED and len(done) < len(claim.entries):
                self._report(_Shown.of(claim.thread_id, claim.entries[len(done)]), started_at, outcome.reason)
            elif outcome.kind is OutcomeKind.POISONED and claim.malformed is not None:
                self._report(_Shown.of_malformed(claim.thread_id, claim.malformed), started_at, outcome.reason)
        for thread_id, entry in self._budget.sample(applied):
            self._report(_Shown.of(thread_id, entry), started_at, None)
        try:
            self._dispatcher.flush()
        except OSError as error:
            logger.warning("sending events failed", extra={"action": "events", "error": type(error).__name__})

    def _report(self, task: _Shown, started_at: float, failure: str | None) -> None:
        uuid = task.uuid
        kwargs = (
            f"{{'thread': '{task.thread_id}', 'position': '{task.position}', "
            f"'items': {task.items}, 'bytes': {task.size}}}"
        )
        self._send(
            "task-received",
            position_key(task.position)[0] / 1000,  # the time at which it was enqueued
            uuid=uuid,
            name=task.name,
            args="()",
            kwargs=kwargs,
            retries=0,
            root_id=uuid,
        )
        self._send("task-started", started_at, uuid=uuid)
        now = time.time()
        if failure is None:
            self._send("task-succeeded", now, uuid=uuid, result="'durable'", runtime=now - started_at)
        else:
            self._send("task-failed", now, uuid=uuid, exception=failure, traceback="")

    def _send(self, kind: str, timestamp: float, **fields: Any) -> None:
        assert self._dispatcher is not None
        self._dispatcher.send(kind, timestamp=timestamp, **fields)


class _Budget:
    """Tokens that refill at a rate, up to one second's worth."""

    _FULL: Final = 1.0  # seconds

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._tokens = float(per_second)
        self._filled_at = time.monotonic()

    def sample(self, entries: list[tuple[str, MailboxEntry]]) -> list[tuple[str, MailboxEntry]]:
        """Return *entries*, or as many of them, evenly spread, as the rate allows now."""
        now = time.monotonic()
        self._tokens = min(self._per_second * self._FULL, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        count = min(len(entries), int(self._tokens))
        self._tokens -= count
        return [entries[i * len(entries) // count] for i in range(count)]
