"""Opaque cursors: the sort value and the id of the last row of a page."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from livethread.errors import InvalidRequest
from livethread.model import format_time

if TYPE_CHECKING:
    from livethread.metadata import StoredThread
    from livethread.types import ThreadSortKey


def encode_cursor(thread: StoredThread, sort_key: ThreadSortKey) -> str:
    """Return the cursor of the page after *thread*."""
    return _encode(sort_key.value, format_time(getattr(thread, sort_key.value)), thread.thread_id)


def decode_cursor(cursor: str, sort_key: ThreadSortKey) -> tuple[str, str]:
    """Return sort value and id of the last row of the page before.

    Raises:
        InvalidRequest: it is no cursor, or one of a listing by another key.
    """
    value, thread_id = _decode(cursor, sort_key.value)
    return str(value), str(thread_id)


def encode_search_cursor(order: str | float, thread_id: str, sort_key: ThreadSortKey | None) -> str:
    """Return the cursor of the page after a found thread."""
    return _encode(sort_key.value if sort_key else "relevance", order, thread_id)


def decode_search_cursor(cursor: str, sort_key: ThreadSortKey | None) -> tuple[str | float, str]:
    """Return sort value and id of the last row of the page before.

    Raises:
        InvalidRequest: it is no cursor, or one of a search sorted otherwise.
    """
    return _decode(cursor, sort_key.value if sort_key else "relevance")


def encode_offset(offset: int) -> str:
    """Return the cursor of the page that begins at a place in a rollout."""
    return _encode("offset", offset, "")


def decode_offset(cursor: str) -> int:
    """Return the place in a rollout at which the page begins.

    Raises:
        InvalidRequest: it is no cursor of a thread's turns or items.
    """
    offset, _ = _decode(cursor, "offset")
    if not isinstance(offset, int):
        raise InvalidRequest("not a cursor; pass it as it came")
    return offset


def _encode(kind: str, *fields: str | float) -> str:
    return base64.urlsafe_b64encode(json.dumps([kind, *fields]).encode()).decode()


def _decode(cursor: str, kind: str) -> tuple[Any, str]:
    try:
        found, value, thread_id = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError):
        raise InvalidRequest("not a cursor; pass it as it came") from None
    if found != kind:
        raise InvalidRequest(f"this is the cursor of a page by {found}, not by {kind}")
    return value, str(thread_id)
