from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from livethread.cursor import decode_cursor, encode_cursor
from livethread.errors import InvalidRequest
from livethread.metadata import StoredThread
from livethread.types import ThreadSortKey

THREAD = StoredThread(
    thread_id="019a93b9-f380-7600-98ff-940e6b99603c",
    created_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
    updated_at=datetime(2026, 11, 22, 12, tzinfo=UTC) + timedelta(milliseconds=1),
    recency_at=datetime(2026, 11, 22, 12, tzinfo=UTC) + timedelta(days=1),
)


def cursor_of(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (ThreadSortKey.CREATED_AT, "2026-11-22T12:00:00.000Z"),
        (ThreadSortKey.UPDATED_AT, "2026-11-22T12:00:00.001Z"),
        (ThreadSortKey.RECENCY_AT, "2026-11-23T12:00:00.000Z"),
    ],
)
def test_a_cursor_holds_the_sort_value_and_the_id(key: ThreadSortKey, value: str) -> None:
    cursor = encode_cursor(THREAD, key)

    assert decode_cursor(cursor, key) == (value, THREAD.thread_id)
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")


def test_a_cursor_of_another_sort_key_is_refused_by_name() -> None:
    cursor = encode_cursor(THREAD, ThreadSortKey.CREATED_AT)

    with pytest.raises(InvalidRequest, match="this cursor is for created_at, not for updated_at"):
        decode_cursor(cursor, ThreadSortKey.UPDATED_AT)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "next",
        "é",
        "a",
        "////",
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        cursor_of(None),
        cursor_of(7),
        cursor_of([]),
        cursor_of(["created_at", "v"]),
        cursor_of(["created_at", "v", "i", "x"]),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
    ids=lambda cursor: cursor[:20],
)
def test_a_malformed_cursor_is_an_invalid_request(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="this is not a cursor; pass next_cursor unchanged"):
        decode_cursor(cursor, ThreadSortKey.CREATED_AT)
