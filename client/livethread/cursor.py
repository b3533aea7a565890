"""Opaque cursors: the place where the next page begins."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from livethread.errors import InvalidRequest
from livethread.metadata import StoredThread
from livethread.model import format_time
from livethread.types import ThreadSortKey

#: Larger than any offset in a rollout.
MAX_OFFSET = 2**62

_COUNT = re.compile(r"[0-9]{1,9}")
_MALFORMED = "this is not a cursor; pass next_cursor unchanged"


def encode_cursor(thread: StoredThread, sort_key: ThreadSortKey) -> str:
    """Return the cursor for the page after *thread*."""
    return encode_place(place_of(thread, sort_key), sort_key)


def decode_cursor(cursor: str, sort_key: ThreadSortKey) -> tuple[str, str]:
    """Return the sort value and the id of the previous page's last thread.

    Raises:
        InvalidRequest: *cursor* is malformed, or belongs to a different sort key.
    """
    value, thread_id = _decode(cursor, sort_key.value)
    if not isinstance(value, str):
        raise InvalidRequest(_MALFORMED)
    return value, thread_id


#: The sort value and the id of a thread.
Place = tuple[str, str]


def place_of(thread: StoredThread, sort_key: ThreadSortKey) -> Place:
    """Return the place of *thread* in a listing; places sort as threads do."""
    return format_time(getattr(thread, sort_key.value)), thread.thread_id


@dataclass(frozen=True, slots=True)
class Places:
    """The place after which the next page of a listing over all shards begins; None at the beginning."""

    place: Place | None = None
    #: The same for each shard that did not answer up to there.
    behind: Mapping[int, Place | None] = field(default_factory=dict)

    def of(self, shard: int) -> Place | None:
        """Return the place after which *shard*'s next threads begin."""
        return self.behind.get(shard, self.place)


def encode_place(place: Place, sort_key: ThreadSortKey) -> str:
    """Return the cursor for the page after *place*."""
    return _encode(sort_key.value, *place)


def encode_places(places: Places, sort_key: ThreadSortKey) -> str:
    """Return the cursor for the page after *places*. If no shard is behind, it is a cursor of `encode_cursor`."""
    if places.place is not None and not places.behind:
        return encode_place(places.place, sort_key)
    return _encode(sort_key.value, places.place, places.behind, "partial")


def decode_places(cursor: str | None, sort_key: ThreadSortKey) -> Places:
    """Return where the next page begins.

    Raises:
        InvalidRequest: *cursor* is malformed, or belongs to a different sort key.
    """
    if not cursor:
        return Places()
    fields = _fields(cursor, sort_key.value)
    try:
        if fields[-1] != "partial":
            return Places(decode_cursor(cursor, sort_key))
        place, behind, _ = fields
        return Places(_place(place), {int(shard): _place(each) for shard, each in behind.items()})
    except (ValueError, TypeError, AttributeError):
        raise InvalidRequest(_MALFORMED) from None


def _place(value: Any) -> Place | None:
    if value is None:
        return None
    at, thread_id = value
    return str(at), str(thread_id)


def encode_turns(homes: int, turns: Sequence[tuple[int, str | None]]) -> str:
    """Return the cursor for the next best matches of several homes.

    *turns* holds the number and the cursor of each home that may have more, in the order of their turns; the cursor is None
    if the home was not asked yet. *homes* identifies the homes and their shards.
    """
    return _encode("relevance of homes", homes, turns)


def decode_turns(cursor: str, homes: int) -> list[tuple[int, str | None]]:
    """Return the *turns* in a cursor of `encode_turns`.

    Raises:
        InvalidRequest: *cursor* is malformed, belongs to a different order, or to other *homes*.
    """
    fields = _fields(cursor, "relevance of homes")
    try:
        known, turns = fields
        decoded = [(int(home), None if each is None else str(each)) for home, each in turns]
    except (ValueError, TypeError):
        raise InvalidRequest(_MALFORMED) from None
    if known != homes:
        raise InvalidRequest("shards were added or moved since this search began; search again from the beginning")
    return decoded


def encode_relevance(snapshot: int, offset: int) -> str:
    """Return the cursor for the next page of best matches, after *offset* results.

    *snapshot* is the newest message when the search began. A rank depends on all texts, so later pages ignore newer
    messages.
    """
    return _encode("relevance", snapshot, str(offset))


def decode_relevance(cursor: str) -> tuple[int, int]:
    """Return the snapshot and the offset in a cursor of `encode_relevance`.

    Raises:
        InvalidRequest: *cursor* is malformed, or belongs to a different order.
    """
    return _decode_pair(cursor, "relevance")


def encode_occurrence(turn: int, number: int) -> str:
    """Return the cursor for a page that begins with this *number* of occurrence in the turn at the offset *turn*."""
    return _encode("occurrences", turn, str(number))


def decode_occurrence(cursor: str) -> tuple[int, int]:
    """Return the turn's offset and the occurrence's number from a cursor of `encode_occurrence`.

    Raises:
        InvalidRequest: *cursor* is malformed, or belongs to another kind of page.
    """
    return _decode_pair(cursor, "occurrences")


def encode_offset(kind: str, offset: int) -> str:
    """Return the cursor for the page of *kind* (``turns``, ``items``) that begins at *offset*."""
    return _encode(kind, offset, "")


def decode_offset(kind: str, cursor: str) -> int:
    """Return the offset at which the page begins.

    Raises:
        InvalidRequest: *cursor* is malformed, or of a different *kind*.
    """
    offset, _ = _decode(cursor, kind)
    if type(offset) is not int or not 0 <= offset < MAX_OFFSET:
        raise InvalidRequest(_MALFORMED)
    return offset


def require_items_cursor(cursor: str) -> None:
    """Check that *cursor* is one of items; only its thread's store knows whether its place is there.

    Raises:
        InvalidRequest: it is not.
    """
    _fields(cursor, "items")


class LinePlace(NamedTuple):
    """The place after a line of a history."""

    #: Where the line ends; 0 with a size of 0: at the beginning of what is listed.
    end: int
    size: int
    #: CRC-32 of the line.
    checksum: int


def encode_line_place(place: LinePlace) -> str:
    """Return the cursor for the page of items that begins at *place*."""
    return _encode("items", *place)


def decode_line_place(cursor: str) -> LinePlace:
    """Return the place at which the page begins.

    Raises:
        InvalidRequest: *cursor* is malformed, or belongs to another kind of page.
    """
    fields = _fields(cursor, "items")
    if len(fields) != len(LinePlace._fields) or not all(
        type(each) is int and 0 <= each < MAX_OFFSET for each in fields
    ):
        raise InvalidRequest(_MALFORMED)
    return LinePlace(*fields)


def _decode_pair(cursor: str, kind: str) -> tuple[int, int]:
    first, second = _decode(cursor, kind)
    if type(first) is not int or not 0 <= first < MAX_OFFSET or not _COUNT.fullmatch(second):
        raise InvalidRequest(_MALFORMED)
    return first, int(second)


def _encode(kind: str, *fields: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps([kind, *fields]).encode()).decode()


def _decode(cursor: str, kind: str) -> tuple[Any, str]:
    fields = _fields(cursor, kind)
    if len(fields) != 2:  # noqa: PLR2004
        raise InvalidRequest(_MALFORMED)
    value, thread_id = fields
    return value, str(thread_id)


def _fields(cursor: str, kind: str) -> list[Any]:
    """Return the fields of a cursor of *kind*: at least one."""
    fields: list[Any]
    try:
        found, *fields = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest(_MALFORMED) from None
    if found != kind:
        raise InvalidRequest(
            f"this cursor is for {found}, not for {kind}; pass it with the parameters that returned it"
        )
    if not fields:
        raise InvalidRequest(_MALFORMED)
    return fields
