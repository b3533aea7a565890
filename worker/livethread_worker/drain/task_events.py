"""Celery task events for ordered tasks: each is a task of its own to those who watch, though no message was sent.

Flower and every other consumer of Celery's events shows them. They say ids and sizes, never contents.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import orjson
from celery.utils.time import utcoffset

from livethread.ordered_tasks import MailboxEntry
from livethread.types import Position, position_key
from livethread_worker.drain.mailbox import Claim, Malformed
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

if TYPE_CHECKING:
    from celery.events.dispatcher import EventDispatcher


logger = logging.getLogger(__name__)

#: Name under which an entry of a mailbox is shown that is no task.
MALFORMED: Final = "livethread.malformed_entry"

#: Most events that one message carries, and that are kept while none can be sent: the newest.
EVENTS_PER_MESSAGE: Final = 1_000
EVENTS_KEPT: Final = 10_000

#: Time in which small batches share a message: to send one takes as long as to apply a task or two.
SEND_INTERVAL: Final = 0.1  # seconds


class _Shown(NamedTuple):
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
        self._unsent: list[dict[str, Any]] = []
        self._sent_at = float("-inf")

    def report(self, claims: list[Claim], outcomes: dict[str, Outcome], started_at: float) -> None:
        """Report what became of *claims* since *started_at*: what is applied succeeded, what is poisoned failed.

        It is sent with the first report that comes `SEND_INTERVAL` after the last that was sent, or by `send`.
        """
        if self._dispatcher is None:
            return
        batch = _Batch(self._dispatcher, started_at)
        applied: list[tuple[str, MailboxEntry]] = []
        for claim in claims:
            outcome = outcomes[claim.thread_id]
            done = claim.applied(outcome)
            applied += [(claim.thread_id, entry) for entry in done]
            if outcome.kind is OutcomeKind.POISONED and len(done) < len(claim.entries):
                batch.add(_Shown.of(claim.thread_id, claim.entries[len(done)]), outcome.reason)
            elif outcome.kind is OutcomeKind.POISONED and claim.malformed is not None:
                batch.add(_Shown.of_malformed(claim.thread_id, claim.malformed), outcome.reason)
        for thread_id, entry in self._budget.sample(applied):
            batch.add(_Shown.of(thread_id, entry))
        self._unsent += batch.events
        if time.monotonic() - self._sent_at >= SEND_INTERVAL:
            self.send()

    def send(self) -> None:
        """Send what has been reported."""
        if not self._unsent:
            return
        self._sent_at = time.monotonic()
        try:
            self._send(self._dispatcher)
        except Exception as error:  # noqa: BLE001 - whatever the broker's client raises
            logger.warning("sending events failed", extra={"action": "events", "error": type(error).__name__})
            del self._unsent[:-EVENTS_KEPT]

    def _send(self, dispatcher: Any) -> None:  # the types of celery leave out most of its attributes
        """Send what is unsent, as the dispatcher sends the events that it buffers; its JSON takes a third of the time."""
        while self._unsent:
            dispatcher.producer.publish(
                orjson.dumps(self._unsent[:EVENTS_PER_MESSAGE]),
                content_type="application/json",
                content_encoding="utf-8",
                routing_key="task.multi",
                exchange=dispatcher.exchange.name,
                declare=[dispatcher.exchange],
                headers=dispatcher.headers,
                delivery_mode=dispatcher.delivery_mode,
            )
            del self._unsent[:EVENTS_PER_MESSAGE]


class _Batch:
    """The events of one batch. Made here and not one by one by the dispatcher, which takes as long as to apply a task."""

    def __init__(self, dispatcher: Any, started_at: float) -> None:  # Any: see above
        self.events: list[dict[str, Any]] = []
        self._clock = dispatcher.clock
        self._sender = {"hostname": dispatcher.hostname, "utcoffset": utcoffset(), "pid": dispatcher.pid}
        self._started_at = started_at
        self._now = time.time()

    def add(self, task: _Shown, failure: str | None = None) -> None:
        """Add that *task* succeeded, or its *failure*."""
        uuid = task.uuid
        kwargs = (
            f"{{'thread': '{task.thread_id}', 'position': '{task.position}', "
            f"'items': {task.items}, 'bytes': {task.size}}}"
        )
        enqueued_at = position_key(task.position)[0] / 1000
        self._event(
            "task-received",
            enqueued_at,
            uuid=uuid,
            name=task.name,
            args="()",
            kwargs=kwargs,
            retries=0,
            root_id=uuid,
        )
        self._event("task-started", self._started_at, uuid=uuid)
        if failure is None:
            runtime = self._now - self._started_at
            self._event("task-succeeded", self._now, uuid=uuid, result="'durable'", runtime=runtime)
        else:
            exception = failure.encode(errors="replace").decode()  # orjson refuses lone surrogates
            self._event("task-failed", self._now, uuid=uuid, exception=exception, traceback="")

    def _event(self, kind: str, timestamp: float, **fields: Any) -> None:
        clock = self._clock.forward()
        self.events.append({"type": kind, "timestamp": timestamp, "clock": clock, **self._sender, **fields})


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
