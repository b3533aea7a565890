from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.signals import worker_process_init

from livethread_config import Settings
from livethread_worker.app import create_app
from livethread_worker.process import YOUNG_OBJECTS


@pytest.fixture
def _collector_as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("_collector_as_before")
def test_a_pool_process_collects_garbage_rarely(tmp_path: Path) -> None:
    create_app(Settings(home=tmp_path, redis_url="redis://redis.invalid")).close()
    before = gc.get_threshold()

    worker_process_init.send(sender=None)

    assert gc.get_threshold() == (YOUNG_OBJECTS, *before[1:])
    assert gc.get_freeze_count() > 0
