"""Opaque cursors: the sort value and the id of the last row of a page."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from livethread.errors import InvalidRequest
from livethread.metadata import StoredThread
from livethread.model import format_time
from livethread.types import ThreadSortKey

#: Longer than any rollout.
MAX_OFFSET = 2**62

_COUNT = re.compile(r"[0-9]{1,9}")


def encode_cursor(thread: StoredThread, sort_key: ThreadSortKey) -> str:
    """Return the cursor of the page after *thread*."""
    return _encode(sort_key.value, format_time(getattr(thread, sort_key.value)), thread.thread_id)


def decode_cursor(cursor: str, sort_key: ThreadSortKey) -> tuple[str, str]:
    """Return sort value and id of the last row of the previous page.

    Raises:
        InvalidRequest: it is not a cursor, or it belongs to another sort key.
    """
    value, thread_id = _decode(cursor, sort_key.value)
    if not isinstance(value, str):
        raise InvalidRequest("this is not a cursor; pass next_cursor unchanged")
    return value, thread_id


def encode_relevance(snapshot: int, offset: int) -> str:
    """Return the cursor of a page by relevance: the newest message when the search began, and the results shown so far.

    A match's rank depends on all texts, so messages that arrive during the search are left out.
    """
    return _encode("relevance", snapshot, str(offset))


def decode_relevance(cursor: str) -> tuple[int, int]:
    """Return snapshot and offset of a page by relevance.

    Raises:
        InvalidRequest: it is not a cursor, or it belongs to another order.
    """
    snapshot, offset = _decode(cursor, "relevance")
    if type(snapshot) is not int or not 0 <= snapshot < MAX_OFFSET or not _COUNT.fullmatch(offset):
        raise InvalidRequest("this is not a cursor; pass next_cursor unchanged")
    return snapshot, int(offset)


def encode_offset(kind: str, offset: int) -> str:
    """Return the cursor of the page of *kind* (``turns``, ``items``) that begins at a place in a rollout."""
    return _encode(kind, offset, "")


def decode_offset(kind: str, cursor: str) -> int:
    """Return the place in a rollout at which the page begins.

    Raises:
        InvalidRequest: it is not a cursor of this *kind*.
    """
    offset, _ = _decode(cursor, kind)
    if type(offset) is not int or not 0 <= offset < MAX_OFFSET:
        raise InvalidRequest("this is not a cursor; pass next_cursor unchanged")
    return offset


def _encode(kind: str, *fields: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps([kind, *fields]).encode()).decode()


def _decode(cursor: str, kind: str) -> tuple[Any, str]:
    try:
        found, value, thread_id = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest("this is not a cursor; pass next_cursor unchanged") from None
    if found != kind:
        raise InvalidRequest(f"this is the cursor of a page by {found}, not by {kind}")
    return value, str(thread_id)
