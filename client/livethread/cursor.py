"""Opaque cursors: the sort value and the id of the last row of a page."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from livethread.errors import InvalidRequest
from livethread.model import format_time

if TYPE_CHECKING:
    from livethread.metadata import StoredThread
    from livethread.types import ThreadSortKey


def encode_cursor(thread: StoredThread, sort_key: ThreadSortKey) -> str:
    """Return the cursor of the page after *thread*."""
    fields = [sort_key.value, format_time(getattr(thread, sort_key.value)), thread.thread_id]
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def decode_cursor(cursor: str, sort_key: ThreadSortKey) -> tuple[str, str]:
    """Return sort value and id of the last row of the page before.

    Raises:
        InvalidRequest: it is no cursor, or one of a listing by another key.
    """
    try:
        key, value, thread_id = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError):
        raise InvalidRequest("not a cursor of a listing; pass next_cursor as it came") from None
    if key != sort_key.value:
        raise InvalidRequest(f"this cursor belongs to a listing by {key}, not by {sort_key.value}")
    return str(value), str(thread_id)
