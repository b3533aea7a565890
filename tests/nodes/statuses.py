"""Facts of deployments, as a status would collect them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from livethread.queued.statistics import (
    LAG_FIELDS,
    DeploymentStatistics,
    LagHistogram,
    ShardStatistics,
    WaitingThread,
    WorkerSign,
)
from livethread.status.facts import Facts, HomeState, Rates, RedisState

NOW = 1_800_000_000.0
THREAD = "01a22a07-a09a-7a27-9fdf-e5d965a7e491"

NO_LAG = LagHistogram((0,) * len(LAG_FIELDS), 0.0)
SHARD = ShardStatistics(
    shard=0,
    home="host:/home",
    oldest_unapplied_at=None,
    unapplied_tasks=0,
    waiting_threads=0,
    ready_threads=0,
    claimed_threads=0,
    retrying_threads=0,
    parked_threads=0,
    accepted={},
    applied=0,
    dropped=0,
    refused=0,
    duplicates=0,
    repeated_keys=0,
    failures=0,
    parked_total=0,
    lag=NO_LAG,
    looked_at=NOW - 1,
    swept_at=NOW - 1,
    doorbells=0,
)
WORKER = WorkerSign("w1@host", "host", "/home", (0,), NOW - 1, is_live=True)
REDIS = RedisState(47_000_000, 1_000_000_000, may_evict=False, has_append_only_file=True)
HOME = HomeState("/home", 12_000_000_000, 40_000_000_000, 271_000_000)


def shard(waits_s: float | None = None, **values: Any) -> ShardStatistics:
    """Return a shard in which, if *waits_s* is given, a task waits."""
    waiting: dict[str, Any] = {}
    if waits_s is not None:
        waiting = {
            "oldest_unapplied_at": NOW - waits_s,
            "unapplied_tasks": 30,
            "waiting_threads": 10,
            "ready_threads": 10,
        }
    return replace(SHARD, **{**waiting, **values})


def waits(waits_s: float, **values: Any) -> WaitingThread:
    """Return a thread that waits."""
    thread = WaitingThread(THREAD, 0, NOW - waits_s, tasks=3, reason=None, failures=0, is_parked=False)
    return replace(thread, **values)


def facts(
    *shards: ShardStatistics,
    workers: tuple[WorkerSign, ...] = (WORKER,),
    rates: Rates | None = None,
    longest: tuple[WaitingThread, ...] = (),
    redis: RedisState | None = REDIS,
    home: HomeState | None = HOME,
) -> Facts:
    """Return a look at a deployment in which all is well but for what is given."""
    statistics = DeploymentStatistics(NOW, shards or (SHARD,), workers)
    return Facts(NOW, "the deployment livethread at redis://r", statistics, rates, longest, redis, home)
