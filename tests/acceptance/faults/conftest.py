"""A cluster under fire: two workers with fault points, a proxy for Redis, and sessions that write."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker, CeleryWorkerCluster  # type: ignore[import-untyped]  # it has no types
from tests.acceptance.faults.cluster import Cluster
from tests.acceptance.nodes import ProcessWorker
from tests.nodes.processes import RedisServer
from tests.nodes.proxy import RedisProxy

from livethread_config import Settings

if TYPE_CHECKING:
    from celery import Celery

#: The seed of all random choices: with the same seed, sessions make the same calls, and faults come in the same order.
SEED = int(os.environ.get("LIVETHREAD_TEST_SEED") or random.randrange(10**6))


@pytest.fixture
def deployment(proxy: RedisProxy, tmp_path: Path) -> Settings:
    """Settings with short claims, drains and sweeps, so that a fault has its effects soon."""
    return Settings(
        redis_url=proxy.url,
        home=tmp_path / "home",
        reads="local",
        claim_ttl_s=1.0,
        drain_max_s=2.0,
        sweep_interval_s=0.5,
    )


@pytest.fixture
def celery_worker_cluster(
    deployment: Settings, celery_setup_app: Celery, tmp_path: Path
) -> Iterator[CeleryWorkerCluster]:
    """Two workers with fault points."""
    points = tmp_path / "points"
    points.mkdir()
    nodes = [
        ProcessWorker(
            deployment, tmp_path / "workers", f"worker-{number}", app="tests.acceptance.faults.faulty_worker"
        )
        for number in (1, 2)
    ]
    for node in nodes:
        node.process.env |= {"FAULT_POINTS": str(points), "PYTHONPATH": str(Path(__file__).parents[3])}
        node.process.start()
    for node in nodes:
        assert node.ready()
    yield CeleryWorkerCluster(*(CeleryTestWorker(node, celery_setup_app) for node in nodes))
    for node in nodes:
        node.process.kill()


@pytest.fixture
def cluster(
    celery_setup: CeleryTestSetup, deployment: Settings, own_redis: RedisServer, proxy: RedisProxy, tmp_path: Path
) -> Iterator[Cluster]:
    """A running cluster; its random choices follow from `SEED`, which a failure shows."""
    print(f"LIVETHREAD_TEST_SEED={SEED}")  # noqa: T201 - shown on failure
    workers = list(celery_setup.worker_cluster.nodes)
    cluster = Cluster(deployment, own_redis, proxy, workers, tmp_path, random.Random(SEED), SEED)
    yield cluster
    for child in cluster.sessions:
        child.kill()
