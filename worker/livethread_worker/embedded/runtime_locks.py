"""The locks by which the processes of one home agree on which of them runs its Redis and workers.

``users.lock``   shared: a process uses the runtime. Exclusive: the runner ends; newcomers wait for a fresh one.
``runner.lock``  exclusive: this process provides the runtime. The file's content is its `RunnerState`.
``exit.lock``    exclusive: a process checks whether others still use the runtime; one at a time, or two would see each other.

A lock ends with its process, also after ``kill -9``; the files stay.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, Self

from livethread_config import Settings
from livethread_worker.embedded.redis_server import run_dir
from livethread_worker.flock import flock

MAX_STATE_BYTES: Final = 4096


class FileLock:
    """A lock on the file *path*, held by this object until it is released or the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self, *, shared: bool = False, wait_s: float | None = 0.0) -> bool:
        """Take the lock, exclusively unless *shared*, and return whether it is held now.

        Waits up to *wait_s* seconds, or indefinitely if that is None; an exception from a signal handler ends the wait.
        """
        return flock(self._open(), shared=shared, wait_s=wait_s)

    def release(self) -> None:
        """Free the lock, also for processes that were forked while it was held."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> bytes:
        """Return the file's content; the lock need not be held."""
        return os.pread(self._open(), MAX_STATE_BYTES, 0)

    def write(self, content: bytes) -> None:
        """Replace the file's content; only the holder of the exclusive lock may."""
        os.ftruncate(self._open(), 0)
        os.pwrite(self._open(), content, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor


@dataclass(frozen=True, slots=True)
class RunnerState:
    """The process that holds ``runner.lock``, and its progress."""

    pid: int
    #: ``shared``: the detached runner, which ends with its last user; ``own``: ends independently of users.
    kind: Literal["shared", "own"]
    #: Whether Redis and a worker serve.
    ready: bool = False


def home_lock(settings: Settings, name: Literal["users", "runner", "exit"]) -> FileLock:
    """Return the home's lock of this name, not yet taken."""
    return FileLock(run_dir(settings) / f"{name}.lock")


def publish_state(lock: FileLock, state: RunnerState) -> None:
    """Write *state* into *lock*, the ``runner.lock`` that this process holds."""
    lock.write(json.dumps(asdict(state)).encode())


def read_state(settings: Settings) -> RunnerState | None:
    """Return the state of the home's runner, or None if no runner runs."""
    with home_lock(settings, "runner") as lock:
        if lock.take(shared=True):
            return None
        try:
            return RunnerState(**json.loads(lock.read()))
        except (ValueError, TypeError):  # it has only just taken the lock
            return RunnerState(pid=0, kind="shared")
