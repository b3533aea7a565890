"""Exclusive locks on files of a home, identified by their paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from livethread_worker.flock import flock
from livethread_worker.store.files.home import FILE_MODE, Home


class LockBusy(Exception):
    """Another process holds the lock."""


@contextmanager
def file_lock(path: str | Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of *path*; wait for it up to *wait_s* seconds.

    codex >= 0.160 holds the same lock on ``thread-writer-locks/<id>.lock`` while it writes a thread; POSIX
    ``lockf`` would not exclude it.

    Raises:
        LockBusy: another process holds it.
    """
    descriptor = take_lock(str(path), wait_s=wait_s)
    try:
        yield
    finally:
        os.close(descriptor)


def take_lock(path: str, *, wait_s: float = 0.0) -> int:
    """Take the lock that `file_lock` holds, and return its descriptor. Closing the descriptor frees the lock.

    Raises:
        LockBusy: another process holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            is_held = flock(descriptor, wait_s=wait_s)
            if is_held and _is_current(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not is_held:
            raise LockBusy(path.rpartition("/")[2])
        # The file was deleted between open and lock: the lock excludes no other process.


def remove_thread_lock(home: Home, thread_id: str) -> None:
    """Remove the lock file of a thread that no longer exists; the caller holds the lock.

    A worker that deletes the thread has removed it, but taking the lock since then has made another one.
    """
    Path(home.thread_lock(thread_id)).unlink(missing_ok=True)


def _is_current(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))  # noqa: PTH116 - a Path takes as long as the call
    except FileNotFoundError:
        return False
