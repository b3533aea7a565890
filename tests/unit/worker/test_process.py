from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from livethread_worker.process import YOUNG_OBJECTS

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
