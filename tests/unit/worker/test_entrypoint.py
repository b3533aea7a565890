from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("variable", "value"), [("LIVETHREAD_SHARD", "8"), ("LIVETHREAD_SYNC", "fsync")])
def test_a_worker_with_an_invalid_setting_ends_with_one_line(variable: str, value: str) -> None:
    command = [sys.executable, "-m", "celery", "--app", "livethread_worker.entrypoint", "worker"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), variable: value}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    [line] = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert line.startswith(f"livethread: {variable}")


def test_a_worker_without_its_extra_says_what_to_install() -> None:
    code = "import sys; sys.modules['sqlite_utils'] = None; from celery.__main__ import main; main()"
    command = [sys.executable, "-c", code, "--app", "livethread_worker.entrypoint", "worker"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "livethread: sqlite_utils is not installed; run: pip install 'livethread[worker]'"
    ]
