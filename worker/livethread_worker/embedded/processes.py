"""The processes of a local runtime: Redis and Celery workers."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

from livethread_config import Settings
from livethread_config.settings_file import ENV_PREFIX, FILE_VARIABLE, variable_of
from livethread_worker.embedded.redis_server import answers, prepare_directories, run_dir, server_command, server_lock
from livethread_worker.embedded.supervisor import ProcessSpec

#: The module by which a worker reports that it is ready. Not imported here: supervisors need no Celery.
WORKER_SIGNALS: Final = "livethread_worker.embedded.worker_signals"
#: Redis syncs its log before it exits.
REDIS_GRACE: Final = 10.0  # seconds
#: A worker finishes its drain before it exits; a drain takes at most this long beyond its ``drain_max_s``.
WORKER_GRACE: Final = 10.0  # seconds
REDIS_READY_TIMEOUT: Final = 30.0  # seconds; a long append-only file has to be loaded
WORKER_READY_TIMEOUT: Final = 30.0  # seconds


def settings_env(settings: Settings) -> dict[str, str]:
    """Return this process's environment, with *settings* in place of its ``LIVETHREAD_*`` and the settings file."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    ours = settings.model_dump(mode="json", exclude_none=True)
    return inherited | {variable_of(name): str(value) for name, value in ours.items()} | {FILE_VARIABLE: os.devnull}


def ready_file(settings: Settings, node: str) -> Path:
    """Return the file in which the worker *node* writes its pid when it consumes its queues."""
    return run_dir(settings) / f"{node}.ready"


def is_worker_ready(settings: Settings, node: str, pid: int) -> bool:
    """Return whether the worker *node*, with this *pid*, consumes its queues; it must include `WORKER_SIGNALS`."""
    try:
        return ready_file(settings, node).read_text(encoding="ascii") == str(pid)
    except OSError:
        return False


def redis_spec(settings: Settings) -> ProcessSpec:
    """Return how to run the home's Redis. It is ready when *a* server answers.

    If the home's server already runs elsewhere, this one waits for its lock and takes over when it ends.

    Raises:
        Unavailable: no server is installed, or its folders cannot be created.
    """
    prepare_directories(settings)
    return ProcessSpec(
        name="redis",
        command=server_command(settings),
        env=settings_env(settings),
        grace_s=REDIS_GRACE,
        ready=lambda _pid: answers(settings),
        ready_timeout_s=REDIS_READY_TIMEOUT,
        cwd=run_dir(settings),
        lock=server_lock(settings),
    )


def worker_spec(settings: Settings, name: str, *, concurrency: int = 2) -> ProcessSpec:
    """Return how to run the Celery worker *name*. It is ready when it consumes its queues."""
    node = name.replace(".", "-")
    return ProcessSpec(
        name=name,
        command=[
            # -P: do not import from the working directory.
            *(sys.executable, "-P", "-m", "celery", "--quiet", "--app", "livethread_worker.entrypoint", "worker"),
            *("--hostname", f"{node}@%h", "--concurrency", str(concurrency), "--loglevel", "WARNING"),
            *("--include", WORKER_SIGNALS),
            # Workers need not know each other, and searching for others takes a second.
            *("--without-mingle", "--without-gossip"),
        ],
        env=settings_env(settings),
        grace_s=WORKER_GRACE + settings.drain_max_s,
        ready=partial(is_worker_ready, settings, node),
        ready_timeout_s=WORKER_READY_TIMEOUT,
        cwd=run_dir(settings),
    )
