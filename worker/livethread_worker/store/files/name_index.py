"""``session_index.jsonl``: codex's append-only index of thread names. The last line of a thread wins."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from livethread.model import format_time
from livethread.rollout.lines import decode_line, encode_json
from livethread_worker.store.files import locks, sync
from livethread_worker.store.files.home import FILE_MODE, Home
from livethread_worker.store.files.name_reader import NameLine
from livethread_worker.store.files.recorder import RolloutRecorder

#: How long to wait for the lock of the name index.
LOCK_WAIT: Final = 2.0  # seconds


def set_name(home: Home, thread_id: str, name: str | None, at: datetime) -> None:
    """Name the thread as of *at*; None removes the name.

    A repeated call has no further effect. None replaces the thread's lines by one with a null name, which codex skips:
    after an empty name, it would show the previous one. The line stays, because the rollout may hold an earlier name: a
    process may be killed after it has named the thread here, and another one after it has removed that name here.

    Raises:
        LockBusy: another program holds the lock for more than `LOCK_WAIT`.
        OSError: the name index cannot be written.
    """
    line = encode_json({"id": thread_id, "thread_name": name, "updated_at": format_time(at)}) + b"\n"
    if name is None and thread_id in (known := read_names(home)):
        if known[thread_id] is not None:
            _remove_lines(home, {thread_id}, instead=line)
        return
    with _locked(home), RolloutRecorder.open(home.session_index, create=True) as recorder:
        size = recorder.size
        if size and os.pread(recorder.file.fileno(), 1, size - 1) != b"\n":
            line = b"\n" + line  # end a torn line first
        recorder.append(line)
        sync.sync_now(recorder)


def forget_names(home: Home, *thread_ids: str, keep: Callable[[bytes], object] = lambda _: None) -> None:
    """Remove all lines of *thread_ids* from the name index, after passing them to *keep*.

    Raises:
        LockBusy: another program holds the lock for more than `LOCK_WAIT`.
        OSError: the name index cannot be written.
    """
    if not read_names(home).keys().isdisjoint(thread_ids):
        _remove_lines(home, frozenset(thread_ids), keep=keep)


def _remove_lines(
    home: Home, thread_ids: Collection[str], *, instead: bytes = b"", keep: Callable[[bytes], object] = lambda _: None
) -> None:
    """Replace all lines of *thread_ids*, which are passed to *keep*, by the line *instead*."""
    with _locked(home):
        remaining: list[bytes] = []
        removed: list[bytes] = []
        for line in home.session_index.read_bytes().splitlines(keepends=True):
            (removed if _id_of(line) in thread_ids else remaining).append(line)
        if removed:
            keep(b"".join(removed))
            _replace(home, [instead, *remaining])


def restore_names(home: Home, lines: bytes) -> None:
    """Put removed *lines* back at the beginning of the name index, since all others are newer.

    Raises:
        LockBusy: another program holds the lock for more than `LOCK_WAIT`.
        OSError: the name index cannot be written.
    """
    with _locked(home):
        present = home.session_index.read_bytes() if home.session_index.exists() else b""
        if not present.startswith(lines):
            _replace(home, [lines if lines.endswith(b"\n") or not present else lines + b"\n", present])


def _replace(home: Home, lines: Iterable[bytes]) -> None:
    replacement = home.session_index.with_name(f"{home.session_index.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(replacement, flags, FILE_MODE), "wb") as file:  # noqa: PTH123 - a descriptor
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    replacement.replace(home.session_index)
    sync.sync_directory(home.root)


def _id_of(line: bytes) -> str | None:
    id_ = (decode_line(line) or {}).get("id")
    return id_ if isinstance(id_, str) else None


def _locked(home: Home) -> AbstractContextManager[None]:
    return locks.file_lock(home.session_index.with_name(f"{home.session_index.name}.lock"), wait_s=LOCK_WAIT)


@dataclass(slots=True)
class NameCache:
    """Caches the current names until the name index changes."""

    home: Home
    _lines: dict[str, NameLine] = field(default_factory=dict)
    _names: dict[str, str | None] = field(default_factory=dict)
    _stamp: tuple[int, ...] | None = None

    def names(self) -> dict[str, str | None]:
        """Return the current names, like `read_names`; the same object until they change."""
        stamp = self._current_stamp()  # before reading, so that a concurrent write changes it
        if stamp != self._stamp:
            self._lines, self._stamp = dict(self.home.names.read()), stamp
            self._names = {thread_id: line.name for thread_id, line in self._lines.items()}
        return self._names

    def named_at(self, thread_id: str) -> datetime | None:
        """Return when the thread got its current name, as of the last call of `names`; None if it has none there."""
        line = self._lines.get(thread_id)
        return line.at if line else None

    def _current_stamp(self) -> tuple[int, ...]:
        try:
            stat = self.home.session_index.stat()
        except FileNotFoundError:
            return ()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_names(home: Home) -> dict[str, str | None]:
    """Return the current name of every thread in the name index, in the order of their lines; None for a removed one.

    The next call may change what this one returned.
    """
    return home.names.names()
