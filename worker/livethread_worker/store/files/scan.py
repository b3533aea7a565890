"""Reads the lines of rollouts. Bad lines have no value: readers skip them, as codex does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, Final, NamedTuple

from livethread.position import Position
from livethread.rollout.lines import KEY_FIELD, decode_line

#: Larger numbers are not valid counters or ordinals: the index holds 64 bits.
MAX_COUNTER: Final = 2**62

_POSITION: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")

_SEQ: Final = re.compile(r"(?P<writer>[!-9;-~]{1,64}):(?P<n>[0-9]{1,18})")

#: Bytes read at once.
READ_BYTES: Final = 64 * 1024


class Record(NamedTuple):
    """One line of a rollout."""

    #: Where the line begins, and its length with the line end.
    offset: int
    size: int
    #: The line's JSON object; None for a bad line.
    value: dict[str, Any] | None
    #: Whether the line has its line end; only the last one may lack it.
    is_complete: bool = True


def scan_records(file: BinaryIO, start: int = 0) -> Iterator[Record]:
    """Yield the lines of *file* from offset *start*, good and bad."""
    file.seek(start)
    offset = start
    for lines, end in _blocks(file):
        for line in lines:
            size = len(line) + end
            yield Record(offset, size, decode_line(line), is_complete=bool(end))
            offset += size


def scan_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of *file* without line ends."""
    return chain.from_iterable(lines for lines, _ in _blocks(file))


def _blocks(file: BinaryIO) -> Iterator[tuple[list[bytes], int]]:
    """Yield lists of lines without line ends, with the length of the line end: 0 for an incomplete last line."""
    pieces: list[bytes] = []
    while chunk := file.read(READ_BYTES):
        pieces.append(chunk)
        if b"\n" not in chunk:
            continue  # join the pieces once: a line may be as long as the file
        *lines, rest = b"".join(pieces).split(b"\n")
        pieces = [rest]
        yield lines, 1
    if rest := b"".join(pieces):
        yield [rest], 0


def scan_backward(file: BinaryIO, end: int, start: int = 0) -> Iterator[Record]:
    """Yield the lines of *file* between the offsets *start* and *end*, last line first."""
    position, is_last = end, True
    pieces: list[bytes] = []  # last piece first
    while position > start:
        size = min(READ_BYTES, position - start)
        position -= size
        file.seek(position)
        pieces.append(file.read(size))
        if b"\n" not in pieces[-1]:
            continue
        first, *lines = b"".join(reversed(pieces)).split(b"\n")
        pieces = [first]
        offset = position + len(first) + 1 + sum(len(line) + 1 for line in lines)
        for line in reversed(lines):
            offset -= len(line) + 1
            if line or not is_last:  # nothing follows the last line's end
                yield Record(offset, len(line) + (not is_last), decode_line(line), is_complete=not is_last)
            is_last = False
    rest = b"".join(reversed(pieces))
    if rest or not is_last:
        yield Record(start, len(rest) + (not is_last), decode_line(rest), is_complete=not is_last)


def common_length(one: BinaryIO, other: BinaryIO) -> int:
    """Return how many bytes at their beginning two files have in common."""
    one.seek(0)
    other.seek(0)
    length = 0
    while True:
        left, right = one.read(READ_BYTES), other.read(READ_BYTES)
        if left != right or not left:
            pairs = enumerate(zip(left, right, strict=False))
            return length + next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))
        length += len(left)


def end_of_lines(file: BinaryIO) -> int:
    """Return where the last complete line ends; the rest is torn, or still being written."""
    size = file.seek(0, os.SEEK_END)
    last = next(scan_backward(file, size), None)
    return size if last is None or last.is_complete else last.offset


def writer_mark(value: dict[str, Any]) -> tuple[str, int] | None:
    """Return the writer and counter of the task that wrote a line, or None if the line is not ours."""
    seq = value.get("seq")
    if not isinstance(seq, str) or ordinal_of(value) is None:
        return None
    match = _SEQ.fullmatch(seq)
    return (match[1], int(match[2])) if match else None


def position_of(value: dict[str, Any]) -> Position | None:
    """Return the position of the task that wrote a line of ours."""
    position = value.get("position")
    is_ours = isinstance(position, str) and _POSITION.fullmatch(position) and writer_mark(value)
    return position if is_ours else None


def idempotency_key_of(value: dict[str, Any]) -> str | None:
    """Return the idempotency key of the append that wrote a line of ours, if it had one."""
    key = value.get(KEY_FIELD)
    return key if isinstance(key, str) else None


def ordinal_of(value: dict[str, Any]) -> int | None:
    """Return a line's number in its rollout, or None if it has no valid one."""
    ordinal = value.get("ordinal")
    return ordinal if type(ordinal) is int and 0 <= ordinal < MAX_COUNTER else None
