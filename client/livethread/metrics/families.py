"""The metrics, and how each follows from what was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from livethread.metrics.reading import Reading
from livethread.queued.statistics import LAG_BOUNDS_S, DeploymentStatistics, ShardStatistics

_BUCKETS: Final = (*map(floatToGoString, LAG_BOUNDS_S), "+Inf")

#: Label values of a sample, and its value.
_Sample = tuple[Sequence[str], float]


def redis_up(*, answers: bool) -> Metric:
    """Return the only metric that is known without Redis."""
    return GaugeMetricFamily("livethread_redis_up", "Whether Redis answers.", value=answers)


def families(reading: Reading) -> Iterator[Metric]:
    """Yield all other metrics."""
    yield from _waiting(reading.statistics)
    yield from _happened(reading.statistics.shards)
    yield _lag(reading.statistics.shards)
    yield from _workers(reading.statistics)
    yield from _resources(reading)


def _waiting(statistics: DeploymentStatistics) -> Iterator[Metric]:
    shards, now = statistics.shards, statistics.now
    yield _by_shard(
        "livethread_oldest_unapplied_age_seconds",
        "Age of the oldest unapplied task; 0 without one. Tasks of parked threads do not count.",
        [(shard, max(0.0, now - (shard.oldest_unapplied_at or now))) for shard in shards],
    )
    yield _by_shard(
        "livethread_unapplied_tasks",
        "Tasks that Redis has accepted and no worker has applied, also of parked threads.",
        [(shard, shard.unapplied_tasks) for shard in shards],
    )
    yield _gauge(
        "livethread_threads",
        "Threads with unapplied tasks, by state. Retrying threads are ready or claimed, too.",
        ("shard", "state"),
        [
            ((str(shard.shard), state), count)
            for shard in shards
            for state, count in (
                ("ready", shard.ready_threads),
                ("claimed", shard.claimed_threads),
                ("retrying", shard.retrying_threads),
                ("parked", shard.parked_threads),
            )
        ],
    )
    yield _by_shard(
        "livethread_doorbells",
        "Messages in the Celery queue.",
        [(shard, shard.doorbells) for shard in shards],
    )


def _happened(shards: Sequence[ShardStatistics]) -> Iterator[Metric]:
    yield _counter(
        "livethread_tasks_accepted_total",
        "Tasks that Redis accepted.",
        ("shard", "op"),
        [((str(shard.shard), op), count) for shard in shards for op, count in shard.accepted.items()],
    )
    for name, documentation, counts in (
        ("tasks_applied", "Tasks that workers applied.", [shard.applied for shard in shards]),
        (
            "tasks_dropped",
            "Tasks that a user dropped, or that a deletion left in the mailbox.",
            [shard.dropped for shard in shards],
        ),
        (
            "enqueue_refusals",
            "Calls in which Redis refused a writer's next task, unless it was full.",
            [shard.refused for shard in shards],
        ),
        (
            "tasks_duplicate",
            "Tasks that were sent again and that Redis had accepted before.",
            [shard.duplicates for shard in shards],
        ),
        (
            "idempotency_keys_repeated",
            "Accepted appends whose idempotency key Redis had: they change nothing.",
            [shard.repeated_keys for shard in shards],
        ),
        (
            "task_failures",
            "Attempts that failed, after which the thread is tried again.",
            [shard.failures for shard in shards],
        ),
        ("threads_parked", "How often a thread was parked.", [shard.parked_total for shard in shards]),
    ):
        samples: list[_Sample] = [((str(shard.shard),), n) for shard, n in zip(shards, counts, strict=True)]
        yield _counter(f"livethread_{name}_total", documentation, ("shard",), samples)


def _lag(shards: Sequence[ShardStatistics]) -> Metric:
    family = HistogramMetricFamily(
        "livethread_apply_lag_seconds", "Time from a task's acceptance to its application.", labels=["shard"]
    )
    for shard in shards:
        buckets = list(zip(_BUCKETS, accumulate(shard.lag.counts), strict=True))
        family.add_metric([str(shard.shard)], buckets, shard.lag.sum_s)
    return family


def _workers(statistics: DeploymentStatistics) -> Iterator[Metric]:
    shards, live = statistics.shards, [worker for worker in statistics.workers if worker.is_live]
    yield _gauge("livethread_workers", "Workers that gave a sign of life recently.", (), [((), len(live))])
    yield _by_shard(
        "livethread_shard_workers",
        "Workers that serve the shard and gave a sign of life recently.",
        [(shard, sum(shard.shard in worker.shards for worker in live)) for shard in shards],
    )
    yield _by_shard(
        "livethread_last_sweep_timestamp_seconds",
        "When a worker last swept the shard.",
        [(shard, shard.swept_at) for shard in shards if shard.swept_at is not None],
    )


def _resources(reading: Reading) -> Iterator[Metric]:
    redis, home = reading.redis, reading.home
    for name, documentation, value in (
        (
            "redis_memory_bytes",
            "Memory of Redis that counts towards its maxmemory.",
            redis.used_bytes if redis else None,
        ),
        ("redis_memory_limit_bytes", "Redis' maxmemory, if it has one.", redis.max_bytes if redis else None),
        ("home_free_bytes", "Free space on the disk of this host's home.", home.free_bytes if home else None),
        ("index_bytes", "Size of this host's index.", home.index_bytes if home else None),
    ):
        if value is not None:
            yield _gauge(f"livethread_{name}", documentation, (), [((), value)])


def _by_shard(name: str, documentation: str, values: Sequence[tuple[ShardStatistics, float]]) -> Metric:
    return _gauge(name, documentation, ("shard",), [((str(shard.shard),), value) for shard, value in values])


def _gauge(name: str, documentation: str, labels: Sequence[str], samples: Sequence[_Sample]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, documentation: str, labels: Sequence[str], samples: Sequence[_Sample]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
