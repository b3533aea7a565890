"""The facts of a status: what Redis says about tasks, workers and itself, and the disk of a home on this host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from livethread.queued.statistics import DeploymentStatistics, LagHistogram, WaitingThread
from livethread.status.findings import Finding


@dataclass(frozen=True, slots=True)
class RedisState:
    """Memory and persistence of the server."""

    used_bytes: int
    #: None: it has no limit.
    max_bytes: int | None
    #: Whether it may drop keys when its memory is full.
    may_evict: bool
    has_append_only_file: bool
    #: Why it refuses writes; empty: it does not.
    refusal: str = ""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """Return what an ``INFO`` says."""
        used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
        return cls(
            used,
            int(info.get("maxmemory", 0)) or None,
            str(info.get("maxmemory_policy", "noeviction")) != "noeviction",
            bool(int(info.get("aof_enabled", 1))),
            _refusal(info),
        )

    @property
    def persistence(self) -> str:
        """How it keeps what it accepted, and whether that works."""
        return self.refusal or ("append-only file" if self.has_append_only_file else "none")


def _refusal(info: Mapping[str, Any]) -> str:
    if info.get("role") == "slave":
        return f"it is a replica of {info.get('master_host')}:{info.get('master_port')}"
    if info.get("aof_last_write_status", "ok") != "ok":
        return "its last write to the append-only file failed"
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return "its last snapshot failed, which stops writes unless stop-writes-on-bgsave-error is no"
    return ""


@dataclass(frozen=True, slots=True)
class HomeState:
    """The disk of a home."""

    path: str
    free_bytes: int
    #: Of the whole disk.
    size_bytes: int
    #: None: there is no index.
    index_bytes: int | None
    #: If not, the disk is that on which it will be.
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two looks."""

    over_s: float
    accepted_per_s: float
    applied_per_s: float
    #: Of the tasks applied in between.
    lag: LagHistogram

    @classmethod
    def between(cls, before: DeploymentStatistics | None, after: DeploymentStatistics) -> Self | None:
        """Return what happened from *before* to *after*; None if no time passed, or Redis lost its counters."""
        if before is None or before.now >= after.now:
            return None
        over_s = after.now - before.now
        accepted = _accepted(after) - _accepted(before)
        applied = sum(shard.applied for shard in after.shards) - sum(shard.applied for shard in before.shards)
        old, new = lag_of(before), lag_of(after)
        lag = LagHistogram(tuple(n - o for n, o in zip(new.counts, old.counts, strict=True)), new.sum_s - old.sum_s)
        if accepted < 0 or applied < 0 or min(lag.counts) < 0:
            return None
        return cls(over_s, accepted / over_s, applied / over_s, lag)


def _accepted(statistics: DeploymentStatistics) -> int:
    return sum(sum(shard.accepted.values()) for shard in statistics.shards)


def lag_of(statistics: DeploymentStatistics) -> LagHistogram:
    """Return the lag of all tasks applied so far, in all shards."""
    lags = [shard.lag for shard in statistics.shards]
    return LagHistogram(
        tuple(map(sum, zip(*(lag.counts for lag in lags), strict=True))), sum(lag.sum_s for lag in lags)
    )


@dataclass(frozen=True, slots=True)
class Facts:
    """One look at a deployment."""

    #: Seconds since 1970, by Redis' clock if it answers.
    now: float
    #: The deployment, for a person.
    place: str
    #: None: Redis did not say.
    statistics: DeploymentStatistics | None = None
    #: None: this is the first look.
    rates: Rates | None = None
    #: The threads that wait longest, parked ones too.
    longest: tuple[WaitingThread, ...] = ()
    #: None: Redis did not say.
    redis: RedisState | None = None
    #: None: no home is known on this host.
    home: HomeState | None = None
    #: Why Redis could not be asked.
    silence: Finding | None = None

    @property
    def oldest_s(self) -> float | None:
        """For how long the oldest unapplied task has waited, except those of parked threads."""
        shards = self.statistics.shards if self.statistics else ()
        return max(
            (self.age(s.oldest_unapplied_at) for s in shards if s.oldest_unapplied_at is not None), default=None
        )

    @property
    def unapplied(self) -> int:
        """The number of tasks in all mailboxes."""
        return sum(shard.unapplied_tasks for shard in self.statistics.shards) if self.statistics else 0

    @property
    def clears_in_s(self) -> float | None:
        """When nothing waits any more if the rates stay; None: never, or only tasks of parked threads wait."""
        if self.rates is None or self.oldest_s is None or self.rates.applied_per_s <= self.rates.accepted_per_s:
            return None
        return self.unapplied / (self.rates.applied_per_s - self.rates.accepted_per_s)

    def age(self, at: float) -> float:
        """Return how long ago a time is."""
        return max(0.0, self.now - at)
