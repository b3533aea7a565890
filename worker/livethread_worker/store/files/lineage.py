"""Reads a thread's history across several rollouts.

A rollout whose ``session_meta`` has a ``history_base`` continues another rollout: of the same thread, if codex's
``thread/revert`` took that back to an earlier turn; or of another thread, if this one is its fork. The history reads as
one file: the rollout's own ``session_meta``, the lines that it inherits, then the rest of its own lines. Offsets in a
history are offsets in that file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from livethread.errors import InvalidRequest
from livethread.metadata import PAGINATED
from livethread.rollout.lines import decode_line
from livethread.thread_id import canonical_thread_id
from livethread_worker.store.files.compression import open_rollout
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.scan import ordinal_of, scan_backward

#: Maximum number of rollouts in a lineage, as in codex.
MAX_ROLLOUTS: Final = 128

_BUFFER_BYTES: Final = 64 * 1024


class HistoryBase(NamedTuple):
    """The place in another rollout up to which a rollout inherits its lines."""

    #: The thread's id, unless a revert began the rollout.
    rollout_id: str
    #: Number of the line after the last inherited one; the ``session_meta`` of the heir has it.
    end_ordinal: int
    #: Where the last inherited line ends.
    end: int


@dataclass(frozen=True, slots=True)
class First:
    """What the first line of a rollout says."""

    #: Length with the line end.
    size: int
    base: HistoryBase | None = None
    is_paginated: bool = False
    #: The thread from which it was forked, if it is attached to it.
    attached_to: str | None = None


class Inherited(NamedTuple):
    """Lines that a rollout inherits from another one."""

    rollout_id: str
    path: Path
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """A rollout and the lines that it inherits, the oldest first."""

    path: Path
    first: First
    inherited: tuple[Inherited, ...] = ()

    @property
    def inherited_bytes(self) -> int:
        """Length of the inherited lines."""
        return sum(each.end - each.begin for each in self.inherited)


def read_first(file: BinaryIO) -> First:
    """Read the first line of a rollout, and leave the file at its start."""
    file.seek(0)
    line = file.readline()
    file.seek(0)
    # Most first lines have neither, and decoding the instructions in them takes long.
    if b'"paginated"' not in line and b'"attached_thread"' not in line:
        return First(len(line))
    meta = (decode_line(line) or {}).get("payload")
    if not isinstance(meta, dict):
        return First(len(line))
    attached_to = meta.get("forked_from_id") if meta.get("attached_thread") is True else None
    return First(len(line), base_of(meta), meta.get("history_mode") == PAGINATED, attached_to)


def base_of(meta: dict[str, Any]) -> HistoryBase | None:
    """Return the ``history_base`` in a ``session_meta``; only paginated rollouts have one."""
    base = meta.get("history_base")
    if not isinstance(base, dict) or meta.get("history_mode") != PAGINATED:
        return None
    rollout_id, end = canonical_thread_id(str(base.get("thread_id"))), base.get("end_byte_offset")
    end_ordinal = ordinal_of({"ordinal": base.get("end_ordinal_exclusive")})
    if rollout_id is None or end_ordinal is None or type(end) is not int or end < 0:
        return HistoryBase("", 0, 0)  # no rollout has this id, so the lineage is broken
    return HistoryBase(rollout_id, end_ordinal, end)


def resolve(home: Home, path: Path, file: BinaryIO) -> Lineage:
    """Return the lineage of the rollout *path*, which is open as *file*.

    Raises:
        InvalidRequest: a rollout that it continues is missing, too short, or continues it in turn.
    """
    first = read_first(file)
    return Lineage(path, first, inherited_by(home, path, first.base))


def inherited_by(home: Home, path: Path, base: HistoryBase | None) -> tuple[Inherited, ...]:
    """Return the lines that the rollout *path*, which need not exist yet, inherits from its *base*.

    Raises:
        InvalidRequest: see `resolve`.
    """
    inherited: list[Inherited] = []
    seen = {home.rollout_id_of(path)}
    while base is not None:
        if base.rollout_id in seen or len(seen) == MAX_ROLLOUTS:
            raise _broken(path, base, "continues it in turn")
        seen.add(base.rollout_id)
        source = home.find_rollout_of_id(base.rollout_id) if base.rollout_id else None
        if source is None:
            raise _broken(path, base, "is missing")
        with open_rollout(source) as older:
            its_first, size = read_first(older), older.seek(0, os.SEEK_END)
            if size < base.end:
                raise _broken(path, base, f"has only {size} bytes")
            end = _end_of_line(older, base.end)
        inherited.append(Inherited(base.rollout_id, source, min(its_first.size, end), end))
        base = its_first.base
    return tuple(reversed(inherited))


def base_at(home: Home, path: Path, offset: int | None) -> HistoryBase | None:
    """Return the base of a fork of *path* up to *offset* in its history, or to its end; None if it inherits no line.

    As in codex, the place between two rollouts belongs to the earlier one.
    """
    with open_rollout(path) as file:
        family, end = resolve(home, path, file), file.seek(0, os.SEEK_END)
        if offset is None:
            return _base_in(home, path, file, family.first.size, end)
        at = offset - family.first.size
        for each in family.inherited:
            if at <= each.end - each.begin:
                with open_rollout(each.path) as older:
                    return _base_in(home, each.path, older, each.begin, each.begin + at)
            at -= each.end - each.begin
        return _base_in(home, path, file, family.first.size, family.first.size + at)


def _base_in(home: Home, path: Path, file: BinaryIO, begin: int, end: int) -> HistoryBase | None:
    """Return the base at *end* of a rollout; if it has no line between *begin* and *end*, return its own base."""
    end = _end_of_line(file, end)
    if end <= begin:
        return read_first(file).base
    ordinals = (ordinal_of(record.value or {}) for record in scan_backward(file, end))
    last = next((ordinal for ordinal in ordinals if ordinal is not None), -1)
    rollout_id = home.rollout_id_of(path)
    assert rollout_id is not None
    return HistoryBase(rollout_id, last + 1, end)


def _end_of_line(file: BinaryIO, end: int) -> int:
    """Return *end*, or the end of the last complete line before it: a part of a line must not be joined to the next."""
    last = next(scan_backward(file, end), None)
    return end if last is None or last.is_complete else last.offset


def _broken(path: Path, base: HistoryBase, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path.name} continues the first {base.end} bytes of the rollout {base.rollout_id or '?'}, which {problem}; "
        "nothing was changed: restore that rollout"
    )


@contextmanager
def open_history(home: Home, path: Path) -> Iterator[BinaryIO]:
    """Open the history of the rollout *path* for reading, as one file.

    Raises:
        FileNotFoundError: a rollout is missing, or was moved meanwhile.
        InvalidRequest: the lineage is broken, or a rollout is a symlink.
        Internal: a rollout is compressed and damaged.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_rollout(path))
        lineage = resolve(home, path, file)
        if not lineage.inherited:
            yield file
            return
        parts = [
            _Part(file, 0, lineage.first.size),
            *(
                _Part(stack.enter_context(open_rollout(each.path)), each.begin, each.end)
                for each in lineage.inherited
            ),
            _Part(file, lineage.first.size, None),
        ]
        yield cast("BinaryIO", io.BufferedReader(_Joined(parts), _BUFFER_BYTES))


class _Part(NamedTuple):
    """A range of a file; without an end, up to the end of the file."""

    file: BinaryIO
    begin: int
    end: int | None

    def size(self) -> int:
        end = os.fstat(self.file.fileno()).st_size if self.end is None else self.end
        return end - self.begin


class _Joined(io.RawIOBase):
    """Ranges of files, read as one file. The last one may grow."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the descriptor of the live rollout: for its times, not for its bytes."""
        return self._parts[-1].file.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (sum(part.size() for part in self._parts) if origin is None else origin)
        return self._at

    def readinto(self, buffer: Any) -> int:
        at = self._at
        for part in self._parts:
            size = part.size()
            if at < size:
                part.file.seek(part.begin + at)
                piece = part.file.read(min(len(buffer), size - at))
                buffer[: len(piece)] = piece
                self._at += len(piece)
                return len(piece)
            at -= size
        return 0
