"""Celery task events for ordered tasks: each is a task of its own to those who watch, though no message was sent.

Flower and every other consumer of Celery's events shows them. They say ids and sizes, never contents.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from livethread.types import position_key
from livethread_worker.store.apply import OutcomeKind

if TYPE_CHECKING:
    from celery.events.dispatcher import EventDispatcher

    from livethread.tasks import MailboxEntry
    from livethread_worker.drain.mailbox import Claim
    from livethread_worker.store.apply import Outcome

logger = logging.getLogger(__name__)


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
            done = [entry for entry in claim.entries if _is_applied(entry, outcome)]
            applied += [(claim.thread_id, entry) for entry in done]
            if outcome.kind is OutcomeKind.POISONED and len(done) < len(claim.entries):
                self._report(claim.thread_id, claim.entries[len(done)], started_at, outcome.reason)
        for thread_id, entry in self._budget.sample(applied):
            self._report(thread_id, entry, started_at, None)
        try:
            self._dispatcher.flush()
        except OSError as error:
            logger.warning("sending events failed", extra={"action": "events", "error": type(error).__name__})

    def _report(self, thread_id: str, entry: MailboxEntry, started_at: float, failure: str | None) -> None:
        uuid = f"{entry.writer}-{entry.n}"
        enqueued_at = position_key(entry.position)[0] / 1000
        kwargs = (
            f"{{'thread': '{thread_id}', 'position': '{entry.position}', "
            f"'items': {len(entry.task.lines)}, 'bytes': {entry.task.size}}}"
        )
        self._send(
            "task-received",
            enqueued_at,
            uuid=uuid,
            name=f"livethread.{entry.task.header.op}",
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


def _is_applied(entry: MailboxEntry, outcome: Outcome) -> bool:
    return outcome.position is not None and position_key(entry.position) <= position_key(outcome.position)
