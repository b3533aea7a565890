"""Opaque cursors: the place where the next page begins."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

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
    return _encode(sort_key.value, format_time(getattr(thread, sort_key.value)), thread.thread_id)


def decode_cursor(cursor: str, sort_key: ThreadSortKey) -> tuple[str, str]:
    """Return the sort value and the id of the previous page's last thread.

    Raises:
        InvalidRequest: *cursor* is malformed, or belongs to a different sort key.
    """
    value, thread_id = _decode(cursor, sort_key.value)
    if not isinstance(value, str):
        raise InvalidRequest(_MALFORMED)
    return value, thread_id


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


def _decode_pair(cursor: str, kind: str) -> tuple[int, int]:
    first, second = _decode(cursor, kind)
    if type(first) is not int or not 0 <= first < MAX_OFFSET or not _COUNT.fullmatch(second):
        raise InvalidRequest(_MALFORMED)
    return first, int(second)


def _encode(kind: str, *fields: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps([kind, *fields]).encode()).decode()


def _decode(cursor: str, kind: str) -> tuple[Any, str]:
    try:
        found, value, thread_id = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest(_MALFORMED) from None
    if found != kind:
        raise InvalidRequest(
            f"this cursor is for {found}, not for {kind}; pass it with the parameters that returned it"
        )
    return value, str(thread_id)
