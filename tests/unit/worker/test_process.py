from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from livethread_config import Settings
from livethread_worker.app import create_app
from livethread_worker.process import YOUNG_OBJECTS, WorkerProcess
from livethread_worker.reads.answers import Answer
from livethread_worker.serving import Serving

SCRIPT = """
import gc
before = gc.get_threshold()[0]
from celery.signals import worker_process_init
import livethread_worker.{module}
worker_process_init.send(sender=None)
print(gc.get_threshold()[0] - before, gc.get_freeze_count() > 0)
"""


def collector(module: str, home: Path) -> str:
    """Return how much later a pool process collects garbage, and whether it froze objects, if its worker imports *module*."""
    script = SCRIPT.format(module=module)
    env = os.environ | {"LIVETHREAD_HOME": str(home), "LIVETHREAD_REDIS_URL": "redis://redis.invalid"}
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout


def test_a_pool_process_of_ours_collects_garbage_rarely(tmp_path: Path) -> None:
    more, is_frozen = collector("entrypoint", tmp_path).split()
    assert YOUNG_OBJECTS // 2 < int(more) < YOUNG_OBJECTS
    assert is_frozen == "True"


def test_a_pool_process_of_another_application_collects_it_as_before(tmp_path: Path) -> None:
    assert collector("app", tmp_path) == "0 False\n"


def test_reads_without_redis_are_no_faults_of_the_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(home=tmp_path, redis_url=f"unix://{tmp_path}/none.sock?db=0")
    app = create_app(settings)
    process = WorkerProcess(app, settings, Serving(app, settings))

    with caplog.at_level(logging.DEBUG, "livethread_worker"):
        for read in ("first", "second"):
            process.answer(0, read, "worker", lambda: Answer(b"{}"))

    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG"]
    assert caplog.messages[0].endswith("; a read gets no answer; its caller can read again")
