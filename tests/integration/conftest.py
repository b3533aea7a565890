"""Fixtures with a Redis of their own, which a test may kill, pause or fill."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nodes.processes import RedisServer
from tests.nodes.workers import HandWorker

from livethread_config import Settings


@pytest.fixture
def own_settings(own_redis: RedisServer, tmp_path: Path) -> Settings:
    """Return settings with a Redis of the test's own."""
    return Settings(
        redis_url=own_redis.url,
        home=tmp_path / "home",
        key_prefix=f"t{uuid.uuid4().hex[:12]}",
        reads="local",
        drain_linger_ms=1,
    )


@pytest.fixture
def own_worker(own_settings: Settings) -> Iterator[HandWorker]:
    worker = HandWorker(own_settings)
    yield worker
    worker.close()
