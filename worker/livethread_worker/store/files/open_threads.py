"""Tells which threads are open in a home: in a `LocalThreadStore` of any process, or in codex.

Each store keeps a locked file of its own in ``livethread/run``. The kernel releases the lock when the process ends, so
the threads of a killed store do not count as open.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from livethread_worker.flock import flock
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import LockBusy, take_lock

#: Length of a line: a sign, a thread's id and a line feed.
LINE_BYTES: Final = 38

#: Longest wait for a process that tests whether a new file is locked.
LOCK_WAIT: Final = 1.0  # seconds

#: Prefix of the files' names.
_PREFIX: Final = "open-threads-"


class OpenThreadsFile:
    """Tells other processes which threads one store has open: a line for each, ``+`` and its id.

    A thread that is closed leaves its line to another one, with ``-`` until then: a store may run for years. If the disk is
    full, a line may be missing or out of date.
    """

    def __init__(self, home: Home) -> None:
        self._path = home.run / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        self._descriptor: int | None = None
        #: Thread -> number of its line.
        self._open: dict[str, int] = {}
        #: Lines of threads that are closed.
        self._free: list[int] = []

    def add(self, thread_id: str) -> None:
        """Note that a thread is open."""
        if thread_id in self._open:
            return
        if self._descriptor is None:
            with suppress(OSError, LockBusy):
                self._descriptor = take_lock(str(self._path), wait_s=LOCK_WAIT)
        line = self._open[thread_id] = self._free.pop() if self._free else len(self._open)
        self._write(line, f"+{thread_id}\n")

    def remove(self, thread_id: str) -> None:
        """Note that a thread is closed."""
        if (line := self._open.pop(thread_id, None)) is not None:
            self._free.append(line)
            if self._open:
                self._write(line, f"-{thread_id}\n")
            else:
                self.close()

    def _write(self, line: int, text: str) -> None:
        if self._descriptor is None:
            return
        with suppress(OSError):
            os.pwrite(self._descriptor, text.encode("ascii"), line * LINE_BYTES)

    def close(self) -> None:
        """Remove the file."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
        self._open.clear()
        self._free.clear()


def is_open_elsewhere(home: Home, thread_id: str) -> bool:
    """Return whether another store of this host has a thread open, or another program holds its lock, as codex does."""
    if _is_locked(home.thread_lock(thread_id)):
        return True
    return any(thread_id in _open_threads(path) for path in home.run.glob(f"{_PREFIX}*"))


def _open_threads(path: Path) -> set[str]:
    """Return the threads in a store's file; if the store has ended, remove the file and return no thread."""
    with suppress(OSError):
        if _is_locked(str(path)):
            content = path.read_bytes()
            lines = (content[start : start + LINE_BYTES] for start in range(0, len(content), LINE_BYTES))
            return {line[1:-1].decode() for line in lines if line.startswith(b"+") and line.endswith(b"\n")}
        path.unlink(missing_ok=True)
    return set()


def _is_locked(path: str) -> bool:
    """Return whether another process holds a lock. The file is neither created nor changed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not flock(descriptor, shared=True)
    finally:
        os.close(descriptor)
