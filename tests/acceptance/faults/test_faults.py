"""Every fault hits a working deployment; then the journals of its sessions show whether a promise was broken."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it comes with pytest-celery
import pytest
from pytest_celery import CeleryTestSetup  # type: ignore[import-untyped]  # it has no types
from tests.acceptance.faults.cluster import Cluster
from tests.acceptance.faults.conftest import SEED
from tests.acceptance.faults.fleet import FLEET_FAULTS, HOMES, Fleet
from tests.acceptance.faults.nemesis import FAULTS, pool_of
from tests.nodes.waiting import wait_until

from livethread_config import names

#: `make test` injects these into one deployment, one after the other; `make test-faults` injects all, each into its own.
SELECTED = (
    "worker_killed",
    "killed_half_write",
    "killed_after_commit",
    "client_killed",
    "answers_lost",
    "doorbells_lost",
    "index_deleted",
    "rollout_moved_away",
)

#: These can make Redis lose accepted tasks: the clients must live on to send them again.
LOSING = frozenset({
    "redis_killed",
    "redis_flushed",
    "failed_over_after_a_death",
    "failed_over_with_open_connections",
})

#: For how many minutes `make test-faults` injects faults at random; 0 in `make test`.
MINUTES = float(os.environ.get("LIVETHREAD_TEST_MINUTES") or 0)

ALL = pytest.mark.skipif(not MINUTES, reason="only make test-faults runs it")


def save_totals(what: str, redis_keeps_all: bool, totals: dict[str, Any]) -> None:
    """Print the totals of a run, and write them to the folder that ``LIVETHREAD_TEST_TOTALS`` names."""
    print(json.dumps(totals, indent=2))  # noqa: T201 - shown on failure
    if folder := os.environ.get("LIVETHREAD_TEST_TOTALS"):
        name = "keeps" if redis_keeps_all else "loses"
        Path(folder, f"faults-{what}-{name}.json").write_text(json.dumps(totals, indent=2))


def test_no_promise_is_broken_by_one_fault_after_the_other(cluster: Cluster) -> None:
    cluster.pace_s = 0.05  # other tests run meanwhile
    cluster.start()

    for fault in SELECTED:
        FAULTS[fault](cluster)
        cluster.go_on()
    report = cluster.finish()

    assert report.violations == []
    assert report.applied > 0


@ALL
@pytest.mark.parametrize("fault", FAULTS)
def test_no_promise_is_broken_by_a_fault(cluster: Cluster, fault: str) -> None:
    cluster.start()

    FAULTS[fault](cluster)
    cluster.go_on()
    report = cluster.finish()

    assert report.violations == []
    assert report.applied > 0


@ALL
@pytest.mark.parametrize("redis_keeps_all", [True, False], ids=["Redis keeps all", "Redis loses data"])
def test_no_promise_is_broken_by_all_faults_at_random(cluster: Cluster, redis_keeps_all: bool) -> None:
    """Conversations also move to new threads."""
    names = sorted(FAULTS.keys() - LOSING) if redis_keeps_all else sorted(FAULTS.keys() - {"client_killed"})
    cluster.new_thread_after_s = 20.0
    done: Counter[str] = Counter()
    end = time.monotonic() + MINUTES * 60 / 2
    cluster.start()

    while time.monotonic() < end:
        fault = cluster.random.choice(names)
        FAULTS[fault](cluster)
        done[fault] += 1
        try:
            cluster.go_on(cluster.random.randrange(10, 200))
        except AssertionError as error:
            error.add_note(f"after fault {done.total()}, {fault}")
            raise
    report = cluster.finish()

    totals = {"seed": SEED, "redis_keeps_all": redis_keeps_all, "faults": dict(done), **asdict(report)}
    save_totals("redis", redis_keeps_all, totals)
    assert report.violations == []
    assert report.applied > 0


@ALL
@pytest.mark.parametrize("redis_keeps_all", [True, False], ids=["Redis keeps all", "Redis loses data"])
def test_no_promise_is_broken_in_four_homes(fleet: Fleet, redis_keeps_all: bool) -> None:
    """All faults at random, and failovers, while shards are added, and one is moved to another home."""
    excluded = LOSING if redis_keeps_all else {"client_killed"}
    names = sorted(FLEET_FAULTS.keys() - excluded)
    fleet.start()
    done: Counter[str] = Counter()
    end = time.monotonic() + MINUTES * 60 / 2
    fleet.add_shards(2)
    moved: tuple[int, Path] | None = None

    while time.monotonic() < end or moved is None:
        fault = fleet.random.choice(names)
        done[fault] += 1
        print(f"fault {done.total()}: {fault}")  # noqa: T201 - shown on failure
        fleet.turn_to_any_host()
        FLEET_FAULTS[fault](fleet)
        fleet.go_on(fleet.random.randrange(10, 200))
        listed = fleet.listed(fleet.client())
        assert sorted(set(listed)) == sorted(listed)
        if (
            moved is None
            and time.monotonic() > end - MINUTES * 60 / 4
            and fleet.has_threads_in(range(HOMES, HOMES + 2))
        ):
            moved = fleet.move_shard()
    fleet.end_sessions()
    reports = fleet.judge()

    totals = {
        "seed": SEED,
        "redis_keeps_all": redis_keeps_all,
        "faults": dict(done),
        "moved": str(moved),
        "homes": {str(home.root): asdict(report) for home, report in zip(fleet.homes, reports, strict=True)},
        "threads": len(fleet.stored()),
    }
    save_totals("homes", redis_keeps_all, totals)
    assert [violation for report in reports for violation in report.violations] == []
    assert all(report.applied > 0 for report in reports)
    # Each thread was judged in exactly one home.
    assert {report.threads + report.elsewhere for report in reports} == {sum(report.threads for report in reports)}
    for client in (fleet.nowhere, *(host.settings for host in fleet.hosts)):
        assert sorted(fleet.listed(client) + fleet.listed(client, archived=True)) == fleet.stored()


def test_a_worker_outlives_the_loss_of_redis_while_a_message_waits_in_it(
    cluster: Cluster, celery_setup: CeleryTestSetup
) -> None:
    """Its pool is stopped, so the message stays unacknowledged; the worker still waits for another one."""
    other, worker = cluster.workers
    other.kill()
    pool = [psutil.Process(pid) for pid in pool_of(worker)]
    for process in pool:
        process.suspend()
    prefix = cluster.settings.key_prefix
    queue = f"{names.celery_key_prefix(prefix)}{names.queue_name(prefix, 0)}"
    celery_setup.app.send_task(names.DRAIN_TASK)
    wait_until(lambda: not cluster.redis.exists(queue), "a message that the worker has taken")

    cluster.redis_server.kill()
    wait_until(lambda: "Connection to broker lost" in worker.logs(), "the loss of Redis")
    cluster.redis_server.start()
    for process in pool:
        process.resume()
    wait_until(lambda: worker.logs().count("Connected to") > 1, "another connection")
    cluster.start_session()
    cluster.go_on()
    report = cluster.finish()

    assert worker.container.status == "running"
    assert report.violations == []
