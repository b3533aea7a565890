"""How metrics follow from what was read."""

from __future__ import annotations

import pytest
from tests.unit.client.metrics.readings import FULL, NOW, home, reading, redis, shard, worker

from livethread.metrics.families import families
from livethread.metrics.reading import Reading
from livethread.queued.statistics import LAG_BOUNDS_S, LagHistogram


def values(reading: Reading, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples called *name*: values of their labels -> value."""
    samples = (sample for family in families(reading) for sample in family.samples)
    return {tuple(sample.labels.values()): sample.value for sample in samples if sample.name == name}


def test_each_count_has_its_metric() -> None:
    read = reading(shard())

    assert values(read, "livethread_unapplied_tasks") == {("0",): 13}
    assert values(read, "livethread_threads") == {
        ("0", "ready"): 4,
        ("0", "claimed"): 3,
        ("0", "retrying"): 2,
        ("0", "parked"): 1,
    }
    assert values(read, "livethread_tasks_accepted_total") == {("0", "append_items"): 20, ("0", "create_thread"): 10}
    counters = {
        "tasks_applied": 17,
        "tasks_dropped": 5,
        "enqueue_refusals": 6,
        "tasks_duplicate": 8,
        "idempotency_keys_repeated": 14,
        "task_failures": 9,
        "threads_parked": 11,
    }
    for name, count in counters.items():
        assert values(read, f"livethread_{name}_total") == {("0",): count}
    assert values(read, "livethread_doorbells") == {("0",): 12}


@pytest.mark.parametrize(("at", "age"), [(NOW - 95.5, 95.5), (None, 0.0), (NOW + 2, 0.0)])
def test_the_age_is_zero_without_a_task_and_never_negative(at: float | None, age: float) -> None:
    read = reading(shard(oldest_unapplied_at=at))

    assert values(read, "livethread_oldest_unapplied_age_seconds") == {("0",): age}


def test_the_lag_is_a_cumulative_histogram() -> None:
    counts = tuple(range(1, len(LAG_BOUNDS_S) + 2))

    read = reading(shard(lag=LagHistogram(counts, 12.5)))

    buckets = values(read, "livethread_apply_lag_seconds_bucket")
    assert list(buckets.values()) == [1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66, 78, 91, 105, 120]
    bounds = [le for _, le in buckets]
    assert bounds == ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0",
                      "60.0", "300.0", "+Inf"]  # fmt: skip
    assert values(read, "livethread_apply_lag_seconds_count") == {("0",): 120}
    assert values(read, "livethread_apply_lag_seconds_sum") == {("0",): 12.5}


def test_workers_are_counted_while_they_live_and_for_each_shard_that_they_serve() -> None:
    read = reading(shard(0), shard(1), shard(2), workers=[worker(0, 1), worker(1), worker(2, is_live=False)])

    assert values(read, "livethread_workers") == {(): 2}
    assert values(read, "livethread_shard_workers") == {("0",): 1, ("1",): 2, ("2",): 0}


def test_what_is_not_known_is_left_out() -> None:
    unknown = reading(shard(swept_at=None))
    known = reading(shard(), redis=redis(1000, None), home=home(2000, None))

    names = {
        "livethread_last_sweep_timestamp_seconds",
        "livethread_redis_memory_bytes",
        "livethread_redis_memory_limit_bytes",
        "livethread_home_free_bytes",
        "livethread_index_bytes",
    }
    assert {name for name in names if values(unknown, name)} == set()
    assert {name for name in names if not values(known, name)} == {
        "livethread_redis_memory_limit_bytes",
        "livethread_index_bytes",
    }
    assert [values(FULL, name) for name in sorted(names)] == [
        {(): 2000},
        {(): 3000},
        {("0",): NOW - 1},
        {(): 1000},
        {(): 4000},
    ]


def test_no_label_names_a_thread() -> None:
    samples = [sample for family in families(FULL) for sample in family.samples]

    assert {label for sample in samples for label in sample.labels} == {"shard", "state", "op", "le"}
