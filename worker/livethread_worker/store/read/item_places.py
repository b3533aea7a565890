"""Places between the lines of a history: in cursors of items, and after an ordinal or a position."""

from __future__ import annotations

import zlib
from typing import BinaryIO, Final

from livethread.cursor import LinePlace, decode_line_place, encode_line_place
from livethread.errors import Conflict, InvalidRequest
from livethread.position import START, Position, position_key
from livethread_worker.store.files.scan import (
    Record,
    ordinal_of,
    position_of,
    scan_backward,
    scan_records,
)

#: The place before the first line that is listed.
BEGINNING: Final = encode_line_place(LinePlace(0, 0, 0))


def cursor_after(file: BinaryIO, record: Record | None) -> str:
    """Return the cursor of the place after a line; None: at the beginning."""
    if record is None:
        return BEGINNING
    file.seek(record.offset)
    checksum = zlib.crc32(file.read(record.size))
    return encode_line_place(LinePlace(record.offset + record.size, record.size, checksum))


def cursor_at(file: BinaryIO, place: int, start: int) -> str:
    """Return the cursor of a *place* that is not before *start*, where the beginning is."""
    return cursor_after(file, next(scan_backward(file, place, start), None))


def place_of(file: BinaryIO, cursor: str) -> int | None:
    """Return where the place of a *cursor* is now; None: at the beginning.

    A repair may have moved the line before it.

    Raises:
        InvalidRequest: it is not a cursor of items, or the line before it is not in *file*.
    """
    place = decode_line_place(cursor)
    if not place.size:
        return None
    if _is_there(file, place, place.end):
        return place.end
    ends = [record.offset + record.size for record in scan_records(file) if record.size == place.size]
    moved = [end for end in ends if _is_there(file, place, end)]
    if not moved:
        raise InvalidRequest("this cursor belongs to another thread, or to another turn, or its place was taken back")
    return min(moved, key=lambda end: abs(end - place.end))


def _is_there(file: BinaryIO, place: LinePlace, end: int) -> bool:
    if end < place.size:
        return False
    file.seek(end - place.size)
    return zlib.crc32(file.read(place.size)) == place.checksum


def after_ordinal(file: BinaryIO, ordinal: int, end: int) -> int:
    """Return the place after the line with an *ordinal*, or before the first later one; at most *end*.

    Lines of other programs that have no ordinal are counted, as in the index.
    """
    number, place = -1, 0
    for record in scan_backward(file, end):
        known = ordinal_of(record.value or {})
        if known is not None and known <= ordinal:
            number, place = known, record.offset + record.size
            break
    for record in scan_records(file, place):
        if record.offset >= end:
            break
        if record.value is not None:
            number = max(number + 1, ordinal_of(record.value) or 0)
            if number > ordinal:
                break
        place = record.offset + record.size
    return place


def after_position(file: BinaryIO, thread_id: str, position: Position, end: int) -> int:
    """Return the place after the last line of the tasks up to *position*.

    Raises:
        Conflict: no line says its position: other programs wrote them.
    """
    has_positions = False
    for record in scan_backward(file, end):
        its = position_of(record.value or {})
        if its is not None and position_key(its) <= position_key(position):
            return record.offset + record.size
        has_positions = has_positions or its is not None
    if has_positions or position == START:
        return 0
    raise Conflict(
        f"the lines of thread {thread_id} have no positions, since another program wrote them; use an ordinal"
    )
