"""Deployments under fire: workers with fault points, a proxy for Redis, and sessions that write."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker, CeleryWorkerCluster  # type: ignore[import-untyped]  # it has no types
from tests.acceptance.faults.cluster import Cluster
from tests.acceptance.faults.fleet import HOMES, Fleet, Host
from tests.acceptance.faults.workers import faulty_worker
from tests.nodes.processes import RedisServer, free_port
from tests.nodes.proxy import RedisProxy

from livethread_config import Settings
from livethread_worker.app import create_app

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
    nodes = [faulty_worker(deployment, tmp_path, f"worker-{number}") for number in (1, 2)]
    for node in nodes:
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
    for child in [*cluster.sessions, *cluster.watchers]:
        child.kill()


@pytest.fixture
def fleet(redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """Four hosts with two workers each; Redis has a replica."""
    print(f"LIVETHREAD_TEST_SEED={SEED}")  # noqa: T201 - shown on failure
    with contextlib.ExitStack() as stack:
        # `redis_server` is not used, but skips the test if no server is installed.
        master, replica = (
            stack.enter_context(contextlib.closing(RedisServer("--port", str(free_port())).start())) for _ in range(2)
        )
        replica.replicate(master)
        proxy = stack.enter_context(RedisProxy(master))
        settings = Settings(
            redis_url=proxy.url, shards=HOMES, reads="local", claim_ttl_s=1.0, drain_max_s=2.0, sweep_interval_s=0.5
        )
        app = stack.enter_context(contextlib.closing(create_app(settings)))
        hosts = [
            Host(settings.model_copy(update={"home": tmp_path / f"home-{number}"}), []) for number in range(HOMES)
        ]
        fleet = Fleet(
            hosts[0].settings,
            master,
            proxy,
            [],
            tmp_path,
            random.Random(SEED),
            SEED,
            threads=tuple(f"conversation {number}" for number in range(8)),
            session_count=4,
            pace_s=0.1,
            new_thread_after_s=30.0,
            patience_s=120.0,
            hosts=hosts,
            replica=replica,
            app=app,
        )
        fleet.assign()
        nodes = []
        for number, host in enumerate(hosts):
            for name in (f"worker-{number}a", f"worker-{number}b"):
                node = faulty_worker(host.settings, tmp_path, name, "--concurrency", "1")
                node.process.start()
                stack.callback(node.process.kill)
                nodes.append(node)
                host.workers.append(CeleryTestWorker(node, app))
            fleet.workers += host.workers
        for node in nodes:
            assert node.ready()
        yield fleet
        for child in [*fleet.sessions, *fleet.watchers]:
            child.kill()
        for worker in fleet.workers:
            worker.kill()
