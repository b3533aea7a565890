"""Fixtures for all suites: a private Redis, settings and workers."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

import pytest

from livethread.errors import Unavailable
from livethread_config import Settings

# For `tests.nodes`: pytest puts only the source roots on the path.
sys.path.insert(0, str(Path(__file__).parents[1]))

from collections.abc import Iterator

from tests.nodes.processes import READY, RedisServer, worker_process
from tests.nodes.proxy import RedisProxy
from tests.nodes.workers import HandWorker


@pytest.fixture(scope="session", autouse=True)
def no_settings_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the developer's settings file from the tests, and from the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.delenv("LIVETHREAD_SETTINGS_FILE", raising=False)
        yield


def _start_redis() -> RedisServer:
    try:
        return RedisServer().start()
    except Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a Redis: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for all tests that do not harm it, each with its own key prefix."""
    server = _start_redis()
    yield server
    server.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that the test may kill, pause or empty."""
    server = _start_redis()
    yield server
    server.close()


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[RedisProxy]:
    """A proxy for `own_redis` that can be slow, or cut connections."""
    with RedisProxy(own_redis) as proxy:
        yield proxy


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> Settings:
    """Settings with the test's own home and key prefix, on the shared Redis."""
    return Settings(
        redis_url=redis_server.url,
        home=tmp_path / "home",
        key_prefix=f"t{uuid.uuid4().hex[:12]}",
        drain_linger_ms=1,
        connect_timeout_s=30.0,  # other tests may load the machine
    )


@pytest.fixture
def hand_worker(settings: Settings) -> Iterator[HandWorker]:
    """A worker for `settings` that drains only when the test calls it."""
    worker = HandWorker(settings)
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def served(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a deployment whose worker runs for the whole test run: starting a worker takes seconds."""
    folder = tmp_path_factory.mktemp("served")
    settings = Settings(redis_url=redis_server.url, home=folder / "home", key_prefix="served", reads="local")
    worker = worker_process(settings, folder, "worker")
    worker.start()
    worker.wait_for_log(READY)
    yield settings
    worker.kill()
