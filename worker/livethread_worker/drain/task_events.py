"""Celery task events for ordered tasks: Flower and other monitors show each one as a Celery task of its own.

Events carry ids and sizes, never contents.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import orjson
from celery.events.dispatcher import EventDispatcher
from celery.utils.time import utcoffset

from livethread.ordered_tasks import MailboxEntry
from livethread.position import position_key
from livethread_worker.drain.mailbox import Claim, Malformed
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

logger = logging.getLogger(__name__)

#: Name of the events of a malformed mailbox entry.
MALFORMED: Final = "livethread.malformed_entry"

EVENTS_PER_MESSAGE: Final = 1_000

#: How many of the newest events are kept while sending fails.
EVENTS_KEPT: Final = 10_000

#: How long small batches share a message: sending one takes as long as applying a task or two.
SEND_INTERVAL: Final = 0.1  # seconds


class TaskEvents:
    """Reports the ordered tasks of a drain, or an even sample of them if they exceed a rate.

    A failure to send events is logged and has no other effect.
    """

    def __init__(self, dispatcher: EventDispatcher | None, per_second: int) -> None:
        self._dispatcher = dispatcher if per_second else None
        self._budget = _Budget(per_second)
        self._unsent: list[dict[str, Any]] = []
        self._sent_at = float("-inf")

    def report(self, claims: list[Claim], outcomes: dict[str, Outcome], started_at: float) -> None:
        """Report applied tasks of *claims* as succeeded and poisoned ones as failed, all started at *started_at*.

        Events are sent once `SEND_INTERVAL` has passed since the last message, or by `send`.
        """
        if self._dispatcher is None:
            return
        batch = _Batch(self._dispatcher, started_at)
        applied: list[tuple[str, MailboxEntry]] = []
        for claim in claims:
            outcome = outcomes[claim.thread_id]
            applied += [(claim.thread_id, entry) for entry in claim.applied(outcome)]
            if outcome.kind is OutcomeKind.POISONED and (entry := claim.stopped_at(outcome)) is not None:
                batch.add(claim.thread_id, entry, outcome.reason)
        for thread_id, task in self._budget.sample(applied):
            batch.add(thread_id, task)
        self._unsent += batch.events
        if time.monotonic() - self._sent_at >= SEND_INTERVAL:
            self.send()

    def send(self) -> None:
        """Send the events that wait."""
        if not self._unsent:
            return
        self._sent_at = time.monotonic()
        try:
            self._send(self._dispatcher)
        except Exception as error:  # noqa: BLE001 - the broker's client may raise anything
            logger.warning(
                "sending task events failed, and is tried again: %r",
                error,
                extra={"action": "events", "error": type(error).__name__},
            )
            del self._unsent[:-EVENTS_KEPT]

    def reconnect(self) -> None:
        """Send on a new connection from now on: the present one may lead to a former master, which still accepts events."""
        dispatcher: Any = self._dispatcher  # see below
        if dispatcher is not None:
            dispatcher.connection.collect()
            dispatcher.producer.revive(dispatcher.connection)

    def _send(self, dispatcher: Any) -> None:  # celery-types lacks most of a dispatcher's attributes
        """Publish as the dispatcher publishes its own buffer, but with orjson: in a third of the time."""
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
    """The events of one batch, built without the dispatcher, which takes as long for one event as applying a task."""

    def __init__(self, dispatcher: Any, started_at: float) -> None:  # Any: see above
        self.events: list[dict[str, Any]] = []
        self._clock = dispatcher.clock
        self._sender = {"hostname": dispatcher.hostname, "utcoffset": utcoffset(), "pid": dispatcher.pid}
        self._started_at = started_at
        self._now = time.time()

    def add(self, thread_id: str, entry: MailboxEntry | Malformed, failure: str | None = None) -> None:
        """Add the events of a task: it succeeded unless there is a *failure*."""
        if isinstance(entry, Malformed):  # known by its position alone
            uuid, name, items, size = f"{thread_id}-{entry.position}", MALFORMED, 0, entry.size
        else:
            uuid, name = f"{entry.writer}-{entry.n}", f"livethread.{entry.task.header.op}"
            items, size = len(entry.task.lines), entry.task.size
        kwargs = f"{{'thread': '{thread_id}', 'position': '{entry.position}', 'items': {items}, 'bytes': {size}}}"
        ms, number = position_key(entry.position)
        # Monitors sort by time: tasks of one millisecond stay in order.
        enqueued_at = (ms * 1_000 + min(number, 999)) / 1_000_000
        self._event(
            "task-received", enqueued_at, uuid=uuid, name=name, args="()", kwargs=kwargs, retries=0, root_id=uuid
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

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._tokens = float(per_second)
        self._filled_at = time.monotonic()

    def sample(self, entries: list[tuple[str, MailboxEntry]]) -> list[tuple[str, MailboxEntry]]:
        """Return *entries*, or an even sample of as many as the rate allows."""
        now = time.monotonic()
        self._tokens = min(self._per_second, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        count = min(len(entries), int(self._tokens))
        self._tokens -= count
        return [entries[i * len(entries) // count] for i in range(count)]
