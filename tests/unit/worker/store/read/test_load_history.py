"""`load_history` and its pages of lines show what every other read shows."""

from __future__ import annotations

import pytest
from tests.unit.worker.builders import Store, message_line, thread_id

from livethread import types
from livethread.metadata import StoredThreadHistory
from livethread.position import START
from livethread.rollout.lines import decode_line, items_of
from livethread_worker.store.read.list_items import list_items
from livethread_worker.store.read.thread_file import load_history, read_lines

ONE = thread_id(1)


def item_line(content: bytes) -> bytes:
    return b'{"type":"event_msg","payload":{"type":"user_message","message":%b}}' % content


@pytest.mark.parametrize(
    ("line", "is_good"),
    [
        (item_line(b'"hello","n":12345678901234567890'), True),
        (item_line(b'"hello","n": -1E30'), True),
        (item_line(b'"hello","n":%d' % 10**400), True),
        (item_line(b'"hello","n":1e999'), False),
        (item_line(b'"hello","n":NaN'), False),
        (item_line(b'"hello \xff"'), False),
        (item_line(b'"hello \\ud800"'), False),
        (item_line(b'"hello"') + b"}", False),
    ],
)
def test_a_bad_line_is_one_in_every_read_and_in_the_index(store: Store, line: bytes, is_good: bool) -> None:
    store.write_rollout(ONE, line, message_line("after it"))
    store.read_in(ONE)

    expected = ["hello", "after it"] if is_good else ["after it"]
    assert local_history(store) == expected
    assert history_over_celery(store) == expected
    assert [texts(list_items(store.home, store.index, pages)) for pages in (FORWARD, BACKWARD)] == [
        expected,
        expected[::-1],
    ]
    thread = store.index.read_thread(ONE)
    assert thread is not None
    assert thread.first_user_message == expected[0]


FORWARD = types.ListItemsParams(thread_id=ONE)
BACKWARD = types.ListItemsParams(thread_id=ONE, sort_direction=types.SortDirection.DESC)
PARAMS = types.LoadThreadHistoryParams(thread_id=ONE)


def local_history(store: Store) -> list[str]:
    return texts(load_history(store.home, store.index, PARAMS))


def history_over_celery(store: Store) -> list[str]:
    """Read as `CeleryReader` does."""
    lines, _, _ = read_lines(store.home, store.index, PARAMS, 0, 1_000_000)
    return texts(StoredThreadHistory(ONE, items_of(map(decode_line, lines.split(b"\n"))), START))


def texts(read: types.ItemPage | StoredThreadHistory) -> list[str]:
    return [item.payload["message"] for item in read.items if item.kind == "user_message"]
