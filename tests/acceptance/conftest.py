"""A deployment of real processes, a Redis and a cluster of workers, in pytest-celery's fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytest_celery import CeleryBrokerCluster, CeleryTestWorker, CeleryWorkerCluster, RedisTestBroker  # type: ignore[import-untyped]  # it has no types
from tests.acceptance.nodes import ProcessRedis, ProcessWorker
from tests.nodes.processes import RedisServer

from livethread_config import Settings
from livethread_worker.app import create_app

if TYPE_CHECKING:
    from celery import Celery


@pytest.fixture
def deployment(own_redis: RedisServer, tmp_path: Path) -> Settings:
    """Settings of clients and workers. Claims expire soon, so that other drains soon take a killed worker's threads."""
    return Settings(
        redis_url=own_redis.url, home=tmp_path / "home", reads="local", claim_ttl_s=1.0, sweep_interval_s=0.5
    )


@pytest.fixture
def workers() -> tuple[tuple[str, ...], ...]:
    """The additional options of each worker; the number of entries is the number of workers."""
    return ((),)


@pytest.fixture
def celery_broker(own_redis: RedisServer) -> RedisTestBroker:
    return RedisTestBroker(ProcessRedis(own_redis))


@pytest.fixture
def celery_broker_cluster(celery_broker: RedisTestBroker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(celery_broker)


@pytest.fixture
def celery_backend_cluster() -> None:
    """The broker's Redis holds the results, too."""


@pytest.fixture
def celery_setup_app(deployment: Settings) -> Iterator[Celery]:
    """Our own application, not pytest-celery's blank one."""
    app = create_app(deployment)
    yield app
    app.close()


@pytest.fixture
def celery_worker_cluster(
    deployment: Settings, workers: tuple[tuple[str, ...], ...], celery_setup_app: Celery, tmp_path: Path
) -> Iterator[CeleryWorkerCluster]:
    nodes = [
        ProcessWorker(deployment, tmp_path / "workers", f"worker-{number}", *options)
        for number, options in enumerate(workers, start=1)
    ]
    for node in nodes:
        node.process.start()
    for node in nodes:
        assert node.ready()
    yield CeleryWorkerCluster(*(CeleryTestWorker(node, celery_setup_app) for node in nodes))
    for node in nodes:
        node.process.kill()
