"""The drain: claims, applies and settles until no thread is ready, then ends; a doorbell starts the next one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from redis.exceptions import RedisError

from livethread.errors import Unavailable
from livethread.ordered_tasks import MailboxEntry
from livethread.queued.outage import Outage
from livethread_config import Settings
from livethread_worker.drain.mailbox import Claim, Mailbox
from livethread_worker.drain.task_events import TaskEvents
from livethread_worker.drain.tracing import trace_batch
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.write.batch import apply_batch
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

logger = logging.getLogger(__name__)

#: Longest maintenance of the index by an idle drain: a stopping worker waits for it.
MAX_IDLE_MAINTENANCE: Final = 0.5  # seconds

#: Longest drain if the home serves several shards: the others wait for it.
MAX_SHARD_DRAIN: Final = 1.0  # seconds

#: How often a drain asks whether a read waits for its process.
READS_INTERVAL: Final = 0.01  # seconds


@dataclass(slots=True)
class DrainCounts:
    """Counts what one drain did; the result of its Celery task."""

    batches: int = 0
    threads: int = 0
    tasks: int = 0
    lines: int = 0
    #: Threads put back because another program writes them, the index was busy, or an attempt failed.
    put_back: int = 0
    parked: int = 0


class Drain:
    """Applies the tasks of one shard to one home."""

    def __init__(
        self,
        mailbox: Mailbox,
        home: Home,
        open_index: Callable[[], Index],
        settings: Settings,
        *,
        ring: Callable[[], None],
        reads_wait: Callable[[], bool],
        events: TaskEvents,
        outage: Outage,
        serves_others: bool = False,
    ) -> None:
        self._mailbox = mailbox
        self._home = home
        self._open_index = open_index
        self._settings = settings
        self._ring = ring
        self._reads_wait = reads_wait
        self._events = events
        self._outage = outage
        #: Whether its process drains other shards, too.
        self._serves_others = serves_others
        self._counts = DrainCounts()
        self._ask_reads_at = 0.0

    def run(self) -> dict[str, int]:
        """Apply what is ready and linger for more; end when idle, or hand over after at most ``drain_max_s``.

        It also hands over after a batch if a read waits: a worker may have only this process, and Celery runs the read
        before the next drain.

        The drain ends if Redis does not answer, or answers with an error: its threads can be claimed again when its
        claims expire.
        """
        try:
            self._run()
        except RedisError as error:
            self._outage.begin(error, "the next drain continues")
            self._mailbox.disconnect()
            self._events.reconnect()
        else:
            self._outage.end()
        return asdict(self._counts)

    def _run(self) -> None:
        longest, worked_at = self._settings.drain_max_s, time.monotonic()
        ends_at = worked_at + (min(longest, MAX_SHARD_DRAIN) if self._serves_others else longest)
        linger = self._settings.drain_linger_ms / 1000
        has_worked = has_more = read_waits = False
        while (now := time.monotonic()) < ends_at and not read_waits:
            # If the first claim finds no work, the doorbell is an old one. There may be many, so do not linger.
            if self._apply_ready() or (has_worked and not has_more and self._mailbox.wait(linger)):
                worked_at, has_worked, has_more = now, True, False
            else:
                self._events.send()
                has_more = self._maintain(is_idle=True) and now < worked_at + MAX_IDLE_MAINTENANCE
                if not has_more and self._mailbox.rest():
                    return
            read_waits = self._is_read_waiting(now)
        self._events.send()
        if not read_waits:
            self._maintain(is_idle=True)
        self._mailbox.hand_over()
        if self._mailbox.sweep():
            self._ring()

    def _is_read_waiting(self, now: float) -> bool:
        """Whether a read may wait for this process; Redis is asked once per `READS_INTERVAL`."""
        if now < self._ask_reads_at:
            return False
        self._ask_reads_at = now + READS_INTERVAL
        return self._reads_wait()

    def _apply_ready(self) -> bool:
        """Claim, apply and settle once; return whether any thread was ready."""
        must_ring, claims = self._mailbox.claim()
        if must_ring:
            self._ring()
        if not claims:
            return False
        started_at = time.time()
        outcomes = self._apply(claims)
        durable_at = time.time()
        expired = len(claims) - self._mailbox.settle(claims, outcomes)
        if expired:
            logger.warning(
                "%d of %d claims of shard %d expired before they were settled",
                expired,
                len(claims),
                self._mailbox.shard,
                extra={"action": "drain", "shard": self._mailbox.shard, "expired": expired},
            )
        self._count(claims, outcomes)
        self._events.report(claims, outcomes, started_at)
        trace_batch(self._mailbox.queue, claims, outcomes, started_at, durable_at)
        self._maintain(is_idle=False)
        return True

    def _maintain(self, *, is_idle: bool) -> bool:
        """Maintain the index while no client waits for it; return whether more maintenance is due."""
        try:
            return self._open_index().maintain(is_idle=is_idle)
        except (IndexUnavailable, Unavailable) as error:
            logger.debug("index maintenance failed: %s", error, extra={"action": "maintain"})
            return False

    def _apply(self, claims: list[Claim]) -> dict[str, Outcome]:
        batch = {claim.thread_id: claim.entries for claim in claims if claim.entries}
        outcomes = {claim.thread_id: Outcome(OutcomeKind.DONE) for claim in claims}
        try:
            outcomes |= self._apply_batch(batch)
        except Exception as error:  # after any error, release the threads before their claims expire
            logger.exception(
                "a batch of shard %d failed; its %d threads are put back",
                self._mailbox.shard,
                len(batch),
                extra={"action": "drain", "shard": self._mailbox.shard, "threads": len(batch)},
            )
            outcomes |= dict.fromkeys(batch, Outcome(OutcomeKind.FAILED, reason=f"{type(error).__name__}: {error}"))
        return {claim.thread_id: self._mailbox.judge(claim, outcomes[claim.thread_id]) for claim in claims}

    def _apply_batch(self, batch: dict[str, list[MailboxEntry]]) -> dict[str, Outcome]:
        try:
            index = self._open_index()
        except (IndexUnavailable, Unavailable) as error:
            return dict.fromkeys(batch, Outcome(OutcomeKind.BUSY, reason=str(error)))
        return apply_batch(self._home, index, batch, sync=self._settings.sync == "fdatasync")

    def _count(self, claims: list[Claim], outcomes: dict[str, Outcome]) -> None:
        counts = self._counts
        counts.batches += 1
        counts.threads += len(claims)
        for claim in claims:
            outcome = outcomes[claim.thread_id]
            match outcome.kind:
                case OutcomeKind.DONE | OutcomeKind.DELETED:
                    counts.tasks += len(claim.entries)
                    counts.lines += sum(len(entry.task.lines) for entry in claim.entries)
                case OutcomeKind.POISONED:
                    counts.parked += 1
                    self._log_stop(logging.ERROR, "park", claim, outcome)
                case OutcomeKind.LOCKED | OutcomeKind.BUSY | OutcomeKind.FAILED:
                    counts.put_back += 1
                    # A thread may be put back five times a second, for hours.
                    level = logging.DEBUG if claim.is_put_back_again(outcome) else logging.WARNING
                    self._log_stop(level, "put_back", claim, outcome)

    def _log_stop(self, level: int, action: str, claim: Claim, outcome: Outcome) -> None:
        """Log why tasks of a thread are not applied. The text says it all: Celery's own format omits `extra`."""
        entry = claim.stopped_at(outcome)
        position = entry.position if entry is not None else None
        logger.log(
            level,
            "thread %s is %s at %s: %s",
            claim.thread_id,
            "parked" if action == "park" else "put back",
            position,
            outcome.reason,
            extra={
                "action": action,
                "thread_id": claim.thread_id,
                "shard": self._mailbox.shard,
                "position": position,
                "reason": outcome.reason,
            },
        )
