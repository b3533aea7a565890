"""The processes of a local runtime: Redis, and Celery workers."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

from livethread_config import Settings
from livethread_worker.embedded.redis_server import answers, prepare_directories, run_dir, server_command, server_lock
from livethread_worker.embedded.supervisor import ProcessSpec

ENV_PREFIX: Final = "LIVETHREAD_"
#: What a worker includes to say when it is ready. Not imported here: it imports Celery, which supervisors can do without.
WORKER_SIGNALS: Final = "livethread_worker.embedded.worker_signals"
#: Redis syncs its log before it ends.
REDIS_GRACE: Final = 10.0  # seconds
#: A worker ends its drain first; a drain takes no more than this beyond its ``drain_max_s``.
WORKER_GRACE: Final = 10.0  # seconds
REDIS_READY_TIMEOUT: Final = 30.0  # seconds; a long append-only file has to be loaded
WORKER_READY_TIMEOUT: Final = 30.0  # seconds


def settings_env(settings: Settings) -> dict[str, str]:
    """Return this process's environment with exactly *settings* in it, whatever ``LIVETHREAD_*`` it had."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    ours = settings.model_dump(mode="json", exclude_none=True)
    return inherited | {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in ours.items()}


def ready_file(settings: Settings, node: str) -> Path:
    """Return the file that holds the pid of the worker *node* once that consumes its queues."""
    return run_dir(settings) / f"{node}.ready"


def is_worker_ready(settings: Settings, node: str, pid: int) -> bool:
    """Return whether the worker *node*, with this *pid*, consumes its queues; it must include `WORKER_SIGNALS`."""
    try:
        return ready_file(settings, node).read_text(encoding="ascii") == str(pid)
    except OSError:
        return False


def redis_spec(settings: Settings) -> ProcessSpec:
    """Return how to run the home's Redis; ready once *a* server answers.

    If another process tree runs the home's server already, this one waits behind its lock and takes over when it ends.

    Raises:
        Unavailable: there is no server to run, or no place for its socket.

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


def worker_spec(settings: Settings, name: str, *, concurrency: int = 2, beat: bool = False) -> ProcessSpec:
    """Return how to run the Celery worker *name*, with *beat* inside it if asked for; ready once it consumes."""
    node = name.replace(".", "-")
    schedule = ("--beat", "--schedule-filename", str(run_dir(settings) / f"{node}.schedule")) if beat else ()
    return ProcessSpec(
        name=name,
        command=[
            # -P: the working directory is no place to import from.
            *(sys.executable, "-P", "-m", "celery", "--quiet", "--app", "livethread_worker.entrypoint", "worker"),
            *("--hostname", f"{node}@%h", "--concurrency", str(concurrency), "--loglevel", "WARNING"),
            *("--include", WORKER_SIGNALS),
            # Neighbours have nothing to tell each other, and asking for them takes a second.
            *("--without-mingle", "--without-gossip"),
            *schedule,
        ],
        env=settings_env(settings),
        grace_s=WORKER_GRACE + settings.drain_max_s,
        ready=partial(is_worker_ready, settings, node),
        ready_timeout_s=WORKER_READY_TIMEOUT,
        cwd=run_dir(settings),
    )
