"""What waits, what happened, and which workers live, as Redis counts it.

The scripts that change a mailbox also count, so the numbers are right on every host and after every kill. Times are in
seconds since 1970, by Redis' clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from livethread.queued.deployment import DeploymentWatch
from livethread.queued.parking import Parking
from livethread.queued.put_back import PutBack
from livethread_config import Settings, names

#: Upper bounds of the lag histogram's buckets, from acceptance to application; ``settle.lua`` has the same in ms.
LAG_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

#: The buckets' fields in the hash ``stats``.
LAG_FIELDS: Final = (*(f"lag:{bound * 1000:.0f}" for bound in LAG_BOUNDS_S), "lag:inf")


@dataclass(frozen=True, slots=True)
class LagHistogram:
    """How long applied tasks took from acceptance to application."""

    #: How many tasks are in each bucket of `LAG_BOUNDS_S`, and beyond the last; not cumulative.
    counts: tuple[int, ...]
    #: Sum of all lags.
    sum_s: float

    def percentile(self, p: float) -> float | None:
        """Return the lag in seconds that *p* percent of the tasks did not exceed; None without tasks.

        It is interpolated within its bucket. Beyond the last bound, it is that bound.
        """
        rank, below = sum(self.counts) * p / 100, 0
        lower = 0.0
        for count, upper in zip(self.counts, LAG_BOUNDS_S, strict=False):
            if count and below + count >= rank:
                return lower + (upper - lower) * (rank - below) / count
            below, lower = below + count, upper
        return lower if any(self.counts) else None


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """A worker's last sign of life."""

    #: Its Celery node name.
    name: str
    host: str
    #: Path of its home.
    home: str
    #: The shards whose queues it consumes.
    shards: tuple[int, ...]
    seen_at: float
    #: Whether the sign is recent. A worker that ended cleanly leaves none; other old signs are kept for 10 minutes.
    is_live: bool


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """One shard: what waits in it now, and what has happened since Redis has its data."""

    shard: int
    #: ``<host>:<path>`` of the home that serves it; None before its first worker.
    home: str | None
    #: When the oldest unapplied task was accepted; those of parked threads do not count.
    oldest_unapplied_at: float | None
    #: Tasks in all mailboxes, also of parked threads.
    unapplied_tasks: int
    #: Threads with unapplied tasks, except parked ones.
    waiting_threads: int
    #: Waiting threads that no worker has claimed; some only wait for their next attempt.
    ready_threads: int
    claimed_threads: int
    #: Threads that a worker has put back, ready or claimed again.
    retrying_threads: int
    parked_threads: int
    #: Accepted tasks by ``op``; ``other`` for operations that this release does not know.
    accepted: Mapping[str, int]
    applied: int
    #: Tasks that a user dropped, or that a deletion left in the mailbox.
    dropped: int
    #: Calls in which Redis refused a writer's next task.
    refused: int
    #: Tasks that were sent again and that Redis had accepted before.
    duplicates: int
    #: Accepted appends whose idempotency key Redis had: they change nothing.
    repeated_keys: int
    #: Attempts that failed, after which the thread is tried again.
    failures: int
    #: How often a thread was parked.
    parked_total: int
    lag: LagHistogram
    #: When a worker last looked for ready threads.
    looked_at: float | None
    #: When a worker, of this shard or of another, last swept.
    swept_at: float | None
    #: Messages in the shard's Celery queue.
    doorbells: int


@dataclass(frozen=True, slots=True)
class DeploymentStatistics:
    """All shards and workers at one time."""

    now: float
    shards: tuple[ShardStatistics, ...]
    #: Sorted by name.
    workers: tuple[WorkerSign, ...]


@dataclass(frozen=True, slots=True)
class WaitingThread:
    """A thread with unapplied tasks."""

    thread_id: str
    shard: int
    #: When its first unapplied task was accepted; of a parked thread, when it was parked.
    since: float
    #: How many of its tasks are unapplied.
    tasks: int
    #: Why a worker put it back or parked it.
    reason: str | None
    #: Failed attempts in a row at its first task.
    failures: int
    is_parked: bool


class StatisticsReader:
    """Reads statistics from any host, without a home.

    Its methods raise `RedisError` or `OSError` if Redis does not answer, and `InvalidRequest` if Redis holds the record of
    another deployment.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis: Any = redis  # redis-py's types leave open whether replies are bytes; ours are
        self._settings = settings
        self._prefix = settings.key_prefix
        self._watch = DeploymentWatch(redis, settings)

    async def read(self) -> DeploymentStatistics:
        """Return the statistics of all shards, in a time that does not depend on what waits in them."""
        deployment = await self._watch.look()
        async with self._redis.pipeline(transaction=False) as questions:
            questions.time()
            questions.hgetall(names.workers_key(self._prefix))
            for shard in deployment.shards:
                of = names.ShardKeys(self._prefix, shard)
                questions.hgetall(of.stats)
                questions.zrange(of.waiting, 0, 0, withscores=True)
                questions.zcard(of.waiting)
                questions.zcard(of.ready)
                questions.zcard(of.claims)
                questions.hlen(of.attempts)
                questions.hlen(of.parked)
                questions.mget(of.looked, of.swept)
                questions.llen(names.celery_key_prefix(self._prefix) + names.queue_name(self._prefix, shard))
            (seconds, micros), workers, *replies = await questions.execute()
        now, each = seconds + micros / 1_000_000, len(_ShardReplies._fields)
        homes = {shard: f"{home.host}:{home.path}" for shard, home in deployment.home_of.items()}
        return DeploymentStatistics(
            now,
            tuple(
                _shard(shard, homes.get(shard), _ShardReplies(*replies[shard * each : (shard + 1) * each]))
                for shard in deployment.shards
            ),
            tuple(filter(None, (_worker(name, sign, now) for name, sign in sorted(workers.items())))),
        )

    async def longest_waiting(self, count: int) -> list[WaitingThread]:
        """Return the *count* threads that wait longest, parked ones too; of more than *count* parked ones, any."""
        shards = [names.ShardKeys(self._prefix, shard) for shard in (await self._watch.look()).shards]
        async with self._redis.pipeline(transaction=False) as questions:
            questions.time()
            for of in shards:
                questions.zrange(of.waiting, 0, count - 1, withscores=True)
                questions.hrandfield(of.parked, count, withvalues=True)
            (seconds, _), *replies = await questions.execute()
        found: list[tuple[float, str, names.ShardKeys, bytes | None]] = []
        for of, waiting, parked in zip(shards, replies[::2], replies[1::2], strict=True):
            found += [(ms / 1000, thread.decode(errors="replace"), of, None) for thread, ms in waiting]
            pairs = zip(parked[::2], parked[1::2], strict=True)
            found += [(_parked_at(why) or seconds, thread.decode(errors="replace"), of, why) for thread, why in pairs]
        found = sorted(found, key=lambda thread: thread[:2])[:count]
        async with self._redis.pipeline(transaction=False) as questions:
            for _, thread_id, of, _ in found:
                questions.xlen(of.mailbox(thread_id))
                questions.hget(of.attempts, thread_id)
            details = await questions.execute()
        threads = []
        for (since, thread_id, of, why), tasks, attempts in zip(found, details[::2], details[1::2], strict=True):
            put_back = PutBack.parse(attempts)
            reason = put_back.reason or None if why is None else Parking.parse(why).reason
            is_parked = why is not None
            threads.append(WaitingThread(thread_id, of.shard, since, tasks, reason, put_back.failures, is_parked))
        return threads


class _ShardReplies(NamedTuple):
    """Redis' replies about one shard."""

    stats: Mapping[bytes, bytes]
    oldest: list[tuple[bytes, float]]
    waiting: int
    ready: int
    claimed: int
    retrying: int
    parked: int
    signs: list[bytes | None]
    doorbells: int


def _shard(shard: int, home: str | None, replies: _ShardReplies) -> ShardStatistics:
    counts = {field.decode(errors="replace"): _number(count) for field, count in replies.stats.items()}
    accepted = {
        field.removeprefix("accepted:"): count
        for field, count in sorted(counts.items())
        if field.startswith("accepted:")
    }
    lag = LagHistogram(tuple(counts.get(field, 0) for field in LAG_FIELDS), counts.get("lag_ms", 0) / 1000)
    applied, dropped = sum(lag.counts), counts.get("dropped", 0)
    looked_at, swept_at = (_number(sign) / 1000 or None for sign in replies.signs)
    return ShardStatistics(
        shard=shard,
        home=home,
        oldest_unapplied_at=replies.oldest[0][1] / 1000 if replies.oldest else None,
        unapplied_tasks=sum(accepted.values()) - applied - dropped - counts.get("lost", 0),
        waiting_threads=replies.waiting,
        ready_threads=replies.ready,
        claimed_threads=replies.claimed,
        retrying_threads=replies.retrying,
        parked_threads=replies.parked,
        accepted=accepted,
        applied=applied,
        dropped=dropped,
        refused=counts.get("refused", 0),
        duplicates=counts.get("duplicates", 0),
        repeated_keys=counts.get("repeated_keys", 0),
        failures=counts.get("failures", 0),
        parked_total=counts.get("parked", 0),
        lag=lag,
        looked_at=looked_at,
        swept_at=swept_at,
        doorbells=replies.doorbells,
    )


def _worker(name: bytes, sign: bytes, now: float) -> WorkerSign | None:
    """Return a worker's sign of life; None if another program damaged it."""
    try:
        ms, _, text = sign.decode().partition(" ")
        known, seen_at = json.loads(text), int(ms) / 1000
        is_live = now - seen_at <= known["valid_s"]
        return WorkerSign(name.decode(), known["host"], known["home"], tuple(known["shards"]), seen_at, is_live)
    except (ValueError, TypeError, KeyError):
        return None


def _number(count: bytes | None) -> int:
    """Return *count*; 0 if there is none, or another program damaged it."""
    try:
        return int(count or 0)
    except ValueError:
        return 0


def _parked_at(detail: bytes) -> float | None:
    """Return when the thread was parked; None if *detail* does not say."""
    at = Parking.parse(detail).parked_at
    return at.timestamp() if at else None
