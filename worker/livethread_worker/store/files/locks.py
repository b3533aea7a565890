"""Locks of a home: BSD ``flock``, as codex takes them, freed by the kernel with the process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from livethread_worker.store.files.home import FILE_MODE

#: How often a busy lock is tried again by who may wait for it.
_RETRY_INTERVAL: Final = 0.01  # seconds


class LockBusy(Exception):
    """Somebody else holds the lock."""


@contextmanager
def file_lock(path: str | Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold ``flock(LOCK_EX)`` on *path*, for up to *wait_s* seconds of waiting.

    codex >= 0.160 holds the same lock on ``thread-writer-locks/<id>.lock`` while it writes a thread; POSIX
    ``lockf`` would not exclude it.

    Raises:
        LockBusy: somebody else holds it.
    """
    descriptor = take_lock(str(path), wait_s=wait_s)
    try:
        yield
    finally:
        os.close(descriptor)


def take_lock(path: str, *, wait_s: float = 0.0) -> int:
    """Take the lock that `file_lock` holds, and return a descriptor: to close it gives the lock back.

    Raises:
        LockBusy: somebody else holds it.
    """
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_current = _is_current(path, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= deadline:
                raise LockBusy(path.rpartition("/")[2]) from None
            time.sleep(_RETRY_INTERVAL)
            continue
        except BaseException:
            os.close(descriptor)
            raise
        if is_current:
            return descriptor
        os.close(descriptor)  # somebody deleted the file between our open and our lock: that lock excludes nobody


def _is_current(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))  # noqa: PTH116 - a Path takes as long as the call
    except FileNotFoundError:
        return False
