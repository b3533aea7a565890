"""What a scrape may have read."""

from __future__ import annotations

from collections.abc import Sequence

from livethread.metrics.reading import Reading
from livethread.queued.statistics import (
    LAG_BOUNDS_S,
    DeploymentStatistics,
    LagHistogram,
    ShardStatistics,
    WorkerSign,
)
from livethread.status.facts import HomeState, RedisState

NOW = 1_800_000_000.0


def shard(
    number: int = 0,
    *,
    oldest_unapplied_at: float | None = None,
    swept_at: float | None = NOW - 1,
    lag: LagHistogram | None = None,
) -> ShardStatistics:
    return ShardStatistics(
        shard=number,
        home=None,
        oldest_unapplied_at=oldest_unapplied_at,
        unapplied_tasks=13,
        waiting_threads=7,
        ready_threads=4,
        claimed_threads=3,
        retrying_threads=2,
        parked_threads=1,
        accepted={"append_items": 20, "create_thread": 10},
        applied=17,
        dropped=5,
        refused=6,
        duplicates=8,
        repeated_keys=14,
        failures=9,
        parked_total=11,
        lag=lag or LagHistogram((0,) * (len(LAG_BOUNDS_S) + 1), 0.0),
        looked_at=None,
        swept_at=swept_at,
        doorbells=12,
    )


def worker(*shards: int, is_live: bool = True) -> WorkerSign:
    return WorkerSign(f"w{shards}", "host", "/home", shards, NOW, is_live)


def redis(used_bytes: int, max_bytes: int | None) -> RedisState:
    return RedisState(used_bytes, max_bytes, may_evict=False, has_append_only_file=True)


def home(free_bytes: int, index_bytes: int | None) -> HomeState:
    return HomeState("/home", free_bytes, 9000, index_bytes)


def reading(
    *shards: ShardStatistics,
    workers: Sequence[WorkerSign] = (),
    redis: RedisState | None = None,
    home: HomeState | None = None,
) -> Reading:
    return Reading(DeploymentStatistics(NOW, shards, tuple(workers)), redis, home)


#: Everything is known.
FULL = reading(shard(), workers=[worker(0)], redis=redis(1000, 4000), home=home(2000, 3000))
