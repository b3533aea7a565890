"""Examines lines that are not one record: why, and which records they hold."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final, NamedTuple, Self

from livethread.rollout.lines import decode_line
from livethread.rollout.old_forms import modern_record

#: How a record begins, even in the middle of a line.
_BEGINNING: Final = re.compile(r'\{"(?:timestamp|type|ordinal|id|record_type)"')

#: Maximum number of lines that the detail of a fault lists.
MAX_LISTED: Final = 5

#: Maximum number of places in a line at which a record is looked for: each may cost a pass over the line.
_MAX_PLACES: Final = 1_000

#: An escape in JSON: a surrogate pair, half of one, or any other.
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f]")

_decode: Final = json.JSONDecoder(strict=False).raw_decode


class BadLine(NamedTuple):
    """A line that is not one JSON object."""

    reason: str
    #: The records in it as lines; None if the line stays, since it says something that no reader accepts.
    records: list[bytes] | None


@dataclass(slots=True)
class LinesExamination:
    """What is wrong with the lines of a rollout."""

    #: Numbers of lines, from 0, that are not UTF-8.
    invalid: list[int] = field(default_factory=list)
    #: Number of a line -> what is wrong; first for lines that can be repaired or removed, then for lines that stay.
    bad: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    #: Whether any line is a record, or holds one.
    has_records: bool = False
    is_utf16: bool = False

    @classmethod
    def of(cls, file: BinaryIO) -> Self:
        """Examine the lines of *file*, except a torn last line."""
        found = cls()
        for number, line in enumerate(file):
            found._add(number, line)
        return found

    def _add(self, number: int, line: bytes) -> None:
        if number == 0:
            self.is_utf16 = is_utf16(line)
        bad = examine_line(line.removesuffix(b"\n"))
        is_complete = line.endswith(b"\n")
        if bad is None:
            self.has_records = self.has_records or bool(line.strip())
        elif bad.records is None:
            self.has_records = True
            if is_complete:
                self.unreadable[number] = bad.reason
        elif is_complete or bad.records:
            self.bad[number] = bad.reason
            self.has_records = self.has_records or bool(bad.records)
        if (is_complete or bad is None or bad.records) and not is_utf8(line):
            self.invalid.append(number)


def is_utf16(line: bytes) -> bool:
    """Return whether the first *line* of a file begins as UTF-16 does."""
    return line.startswith((BOM_UTF16_LE, BOM_UTF16_BE))


def is_utf8(line: bytes) -> bool:
    """Return whether *line* is UTF-8."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def listed(bad: Mapping[int, str]) -> str:
    """Return the first of the *bad* lines as text."""
    more = len(bad) - MAX_LISTED
    first = ", ".join(f"line {number}: {reason}" for number, reason in islice(bad.items(), MAX_LISTED))
    return first + (f" and {more} more" if more > 0 else "")


def examine_line(line: bytes) -> BadLine | None:
    """Return what is wrong with *line*, which has no line end; None for a record and for a blank line."""
    text = line.decode(errors="replace")
    if not text.strip():
        return None
    if line.startswith(BOM_UTF8):
        rest = text.lstrip("\ufeff").encode()
        return BadLine("a byte order mark before it", _records(text) if decode_line(rest) is None else [rest])
    if decode_line(text.encode()) is not None:
        return None
    if not (bare := text.strip("\0 \t\r")):
        return BadLine("NUL characters", [])
    if (found := _whole(bare)) is not None:
        return found
    records = _records(bare)
    return BadLine("several records, or a part of one" if records else "not a JSON object", records)


def _whole(text: str) -> BadLine | None:
    """Examine a line that is one JSON object by the rules of a more tolerant reader."""
    try:
        value, end = _decode(text)
    except (ValueError, RecursionError):
        return None
    if end != len(text) or not isinstance(value, dict):
        return None
    escaped = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    repaired = _without_halves(escaped)
    if decode_line(repaired.encode()) is None:
        return BadLine("a number that is not JSON, or too deep nesting", None)
    reason = "control characters" if repaired == escaped else "half a surrogate pair"
    return BadLine(reason, [repaired.encode()])


def _without_halves(text: str) -> str:
    """Return JSON *text* with U+FFFD for each escape of half a surrogate pair."""
    return _ESCAPE.sub(lambda found: "\ufffd" if found["half"] else found[0], text)


def _records(text: str) -> list[bytes]:
    """Return the records in *text*, whatever stands between them."""
    records: list[bytes] = []
    end = at = 0
    for _ in range(_MAX_PLACES):
        if (found := _BEGINNING.search(text, at)) is None:
            break
        at = found.start() + 1
        try:
            value, after = _decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        line = text[found.start() : after].encode()
        is_outermost = not text[end : found.start()].strip("\0 \t\r")
        if _is_record(value, is_outermost=is_outermost) and decode_line(line) is not None:
            records.append(line)
            end = at = after
    return records


def _is_record(value: Any, *, is_outermost: bool) -> bool:
    """Whether *value* is a line of a rollout, and not an object in one."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("type"), str) and "payload" in value:
        return True
    return is_outermost and ("record_type" in value or modern_record(value) is not None)
