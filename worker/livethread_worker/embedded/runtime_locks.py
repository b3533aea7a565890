"""The locks by which the processes of one home agree on who runs its Redis and workers.

``users.lock``   shared: somebody uses the runtime. Exclusive: the runner ends; newcomers wait for a fresh one.
``runner.lock``  exclusive: this process provides the runtime. Its content, `RunnerState`, says how far it is.
``exit.lock``    exclusive: somebody looks whether others still use the runtime; one at a time, or two would see each other.

The kernel frees a lock with the last process that holds it, also after ``kill -9``; the files stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from livethread_config import Settings
from livethread_worker.embedded.redis_server import run_dir

POLL_INTERVAL_S = 0.02
MAX_STATE_BYTES = 4096


class FileLock:
    """A lock on *path*, held by this object until released or until the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the lock if that needs no waiting, and return whether it is held now."""
        with contextlib.suppress(BlockingIOError):
            self._flock((fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        return False

    def lock(self) -> None:
        """Take the lock exclusively, however long that takes; an exception from a signal handler ends the wait."""
        self._flock(fcntl.LOCK_EX)

    def lock_within(self, timeout_s: float, *, shared: bool = False) -> bool:
        """Take the lock, waiting up to *timeout_s*; return whether it is held now."""
        deadline = time.monotonic() + timeout_s
        while not self.try_lock(shared=shared):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_INTERVAL_S)
        return True

    def release(self) -> None:
        """Free the lock, also for processes that were forked while it was held."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> bytes:
        """Return the file's content, whoever holds the lock."""
        return os.pread(self._open(), MAX_STATE_BYTES, 0)

    def write(self, content: bytes) -> None:
        """Replace the file's content; for the holder of the exclusive lock."""
        os.ftruncate(self._open(), 0)
        os.pwrite(self._open(), content, 0)

    def __enter__(self) -> Self:
        """Return the lock, not yet taken."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def _flock(self, operation: int) -> None:
        fcntl.flock(self._open(), operation)


@dataclass(frozen=True, slots=True)
class RunnerState:
    """What the holder of ``runner.lock`` says of itself."""

    pid: int
    #: ``shared``: the detached runner, which ends with its last user; ``own``: lives as long as it likes.
    kind: Literal["shared", "own"]
    #: Whether Redis and a worker serve.
    ready: bool = False


def users_lock(settings: Settings) -> FileLock:
    """Return ``users.lock``, not yet taken."""
    return FileLock(run_dir(settings) / "users.lock")


def exit_lock(settings: Settings) -> FileLock:
    """Return ``exit.lock``, not yet taken."""
    return FileLock(run_dir(settings) / "exit.lock")


def runner_lock(settings: Settings) -> FileLock:
    """Return ``runner.lock``, not yet taken."""
    return FileLock(run_dir(settings) / "runner.lock")


def publish_state(lock: FileLock, state: RunnerState) -> None:
    """Say in *lock*, the held ``runner.lock``, how far its holder is."""
    lock.write(json.dumps(asdict(state)).encode())


def read_state(settings: Settings) -> RunnerState | None:
    """Return what the home's runner says of itself; None if there is none."""
    with runner_lock(settings) as lock:
        if lock.try_lock(shared=True):
            return None
        try:
            return RunnerState(**json.loads(lock.read()))
        except (ValueError, TypeError):  # it has only just taken the lock
            return RunnerState(pid=0, kind="shared")
