"""Reads codex's name index as it grows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from livethread.model import parse_time
from livethread_worker.store.files import scan

_EPOCH: Final = datetime.fromtimestamp(0, UTC)

#: How many bytes before the lines that were added must be as they were.
_TAIL: Final = 256


@dataclass(frozen=True, slots=True)
class NameLine:
    """A thread's last line in a name index."""

    #: None if the name was removed.
    name: str | None
    updated_at: Any

    @property
    def at(self) -> datetime:
        """Return when the name was set; 1970 if the line has no valid time."""
        return parse_time(self.updated_at) or _EPOCH


class NameReader:
    """Reads a name index, then only the lines added since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, NameLine] = {}
        self._names: dict[str, str | None] = {}
        self._identity: tuple[int, int] | None = None
        #: Length and modification time when it was read last.
        self._size = 0, 0
        self._end = 0
        self._tail = b""

    def read(self) -> dict[str, NameLine]:
        """Return each thread's last line, in order, by the id as written there; an empty dict without a name index.

        Raises:
            OSError: the name index cannot be read.
        """
        try:
            # Opening a FIFO would wait for a writer.
            with open(self._path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                self._read_on(file)
        except FileNotFoundError:
            self._forget()
        return self._lines

    def names(self) -> dict[str, str | None]:
        """Read on like `read`, and return the names alone."""
        self.read()
        return self._names

    def _read_on(self, file: BinaryIO) -> None:
        stat = os.fstat(file.fileno())
        identity, size = (stat.st_dev, stat.st_ino), (stat.st_size, stat.st_mtime_ns)
        if identity == self._identity and size == self._size:
            return
        if identity != self._identity or stat.st_size <= self._size[0] or self._tail_of(file) != self._tail:
            self._forget()  # it was replaced, cut, or edited in place
        self._identity, self._size = identity, size
        for record in scan.scan_records(file, self._end):
            if record.value is None and not record.is_complete:
                break  # still being written
            self._end = record.offset + record.size
            value = record.value or {}
            id_, name = value.get("id"), value.get("thread_name", 0)
            if isinstance(id_, str) and isinstance(name, str | None):
                for known in (self._lines, self._names):
                    known.pop(id_, None)  # in the order in which threads got their last names
                self._lines[id_] = NameLine(name or None, value.get("updated_at"))
                self._names[id_] = name or None
        self._tail = self._tail_of(file)

    def _tail_of(self, file: BinaryIO) -> bytes:
        begin = max(0, self._end - _TAIL)
        return os.pread(file.fileno(), self._end - begin, begin)

    def _forget(self) -> None:
        self._lines, self._names = {}, {}
        self._identity, self._size, self._end, self._tail = None, (0, 0), 0, b""
