from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.worker.builders import AT, Store, opened_store, thread_id

from livethread.errors import InvalidRequest
from livethread.metadata import StoredThread
from livethread.model import format_time
from livethread.types import (
    ListThreadsParams,
    RelationKind,
    SortDirection,
    ThreadRelationFilter,
    ThreadSortKey,
)
from livethread_worker.store.read import list_threads
from livethread_worker.store.state import ThreadState

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def listed() -> Iterator[Store]:
    """An index whose rows each test, or example, replaces: opening one takes longer than filling it."""
    with tempfile.TemporaryDirectory() as folder:
        yield from opened_store(Path(folder))


def thread(n: int, **fields: Any) -> StoredThread:
    times = {"created_at": AT, "updated_at": AT, "recency_at": AT}
    return StoredThread.model_validate({"thread_id": thread_id(n)} | times | fields)


def fill(store: Store, *threads: StoredThread) -> None:
    store.index.db.conn.execute("DELETE FROM threads")
    store.index.db.conn.execute("DELETE FROM rollouts")
    store.commit(*(ThreadState(t.thread_id, t, path=f"sessions/{t.thread_id}") for t in threads))


def ids(store: Store, **params: Any) -> list[str]:
    page = list_threads(store.home, store.index, ListThreadsParams.model_validate(params))
    assert page.next_cursor is None
    return sorted(t.thread_id for t in page.items)


@given(
    seconds=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=12),
    page_size=st.integers(1, 5),
    key=st.sampled_from(ThreadSortKey),
    direction=st.sampled_from(SortDirection),
)
def test_pages_lose_and_repeat_no_thread_though_times_are_equal(
    listed: Store,
    seconds: list[tuple[int, int, int]],
    page_size: int,
    key: ThreadSortKey,
    direction: SortDirection,
) -> None:
    names = ("created_at", "updated_at", "recency_at")
    threads = [
        thread(n, **{name: AT + timedelta(seconds=s) for name, s in zip(names, times, strict=True)})
        for n, times in enumerate(seconds)
    ]
    fill(listed, *threads)
    seen: list[str] = []
    cursor: str | None = None

    for _ in range(len(threads) + 1):
        params = ListThreadsParams(page_size=page_size, cursor=cursor, sort_key=key, sort_direction=direction)
        page = list_threads(listed.home, listed.index, params)
        assert len(page.items) == page_size or page.next_cursor is None
        seen += [t.thread_id for t in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break

    ordered = sorted(threads, key=lambda t: (format_time(getattr(t, key.value)), t.thread_id))
    expected = [t.thread_id for t in (ordered if direction is SortDirection.ASC else reversed(ordered))]
    assert seen == expected


def test_a_thread_that_comes_in_before_the_cursor_shifts_no_later_page(listed: Store) -> None:
    threads = [thread(n, created_at=AT + timedelta(seconds=n)) for n in range(4)]
    fill(listed, *threads)
    first = list_threads(listed.home, listed.index, ListThreadsParams(page_size=2))

    newest = thread(9, created_at=AT + timedelta(seconds=9))
    fill(listed, *threads, newest)
    second = list_threads(listed.home, listed.index, ListThreadsParams(page_size=2, cursor=first.next_cursor))

    assert [t.thread_id for t in (*first.items, *second.items)] == [thread_id(n) for n in (3, 2, 1, 0)]


def test_a_page_that_takes_the_last_thread_has_no_cursor(listed: Store) -> None:
    fill(listed, thread(1), thread(2))

    assert list_threads(listed.home, listed.index, ListThreadsParams(page_size=2)).next_cursor is None
    assert list_threads(listed.home, listed.index, ListThreadsParams(page_size=1)).next_cursor is not None


def test_an_empty_index_has_an_empty_page(listed: Store) -> None:
    fill(listed)

    assert ids(listed) == []


@pytest.mark.parametrize("cursor", ["garbage", "WyJ1cGRhdGVkX2F0IiwgIngiLCAieSJd"])
def test_a_cursor_of_something_else_is_refused(listed: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        list_threads(listed.home, listed.index, ListThreadsParams(cursor=cursor))


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [1, 2, 3]),
        ({"model_providers": None}, [1, 2, 3]),
        ({"model_providers": []}, [1, 2, 3]),
        ({"model_providers": ["azure", "nobody"]}, [2]),
        ({"cwd_filters": None}, [1, 2, 3]),
        ({"cwd_filters": []}, []),
        ({"cwd_filters": ["/a", "/b"]}, [1, 2]),
        ({"cwd_filters": [""]}, [3]),
        ({"allowed_sources": []}, [1, 2, 3]),
        ({"allowed_sources": ["cli"]}, [1]),
        ({"allowed_sources": ["exec", {"custom": "x"}]}, [2, 3]),
        ({"allowed_sources": [{"custom": "y"}]}, []),
        ({"archived": True}, [4]),
        ({"archived": True, "cwd_filters": ["/b"]}, []),
        ({"search_term": ""}, [1, 2, 3]),
        ({"search_term": "NAMED"}, [1]),
        ({"search_term": "titled"}, [2]),
        ({"search_term": "viewed"}, [3]),
        ({"search_term": "100%"}, [3]),
        ({"search_term": "%"}, [3]),
        ({"search_term": "_"}, []),
        ({"search_term": "été"}, [2]),
        ({"search_term": "titled", "cwd_filters": ["/a"]}, []),
    ],
    ids=str,
)
def test_filters_are_joined(listed: Store, filters: dict[str, Any], found: list[int]) -> None:
    fill(
        listed,
        thread(1, cwd="/a", source="cli", model_provider="openai", name="named"),
        thread(2, cwd="/b", source="exec", model_provider="azure", title="titled en été"),
        thread(3, cwd="", source={"custom": "x"}, preview="viewed 100%"),
        thread(4, cwd="/a", source="cli", archived_at=AT),
    )

    assert ids(listed, **filters) == [thread_id(n) for n in found]


def test_children_and_descendants_are_found(listed: Store) -> None:
    fill(
        listed,
        thread(1),
        thread(2, parent_thread_id=thread_id(1)),
        thread(3, parent_thread_id=thread_id(2)),
        thread(4, parent_thread_id=thread_id(3), archived_at=AT),
        thread(5, parent_thread_id=thread_id(4)),
        thread(6),
    )

    def related(kind: RelationKind, to: int) -> list[str]:
        return ids(listed, relation_filter=ThreadRelationFilter(kind=kind, thread_id=thread_id(to)))

    assert related(RelationKind.DIRECT_CHILDREN, 1) == [thread_id(2)]
    assert related(RelationKind.DESCENDANTS, 1) == [thread_id(n) for n in (2, 3, 5)]
    assert related(RelationKind.DESCENDANTS, 6) == []


def test_threads_that_are_each_others_parents_end(listed: Store) -> None:
    fill(listed, thread(1, parent_thread_id=thread_id(2)), thread(2, parent_thread_id=thread_id(1)))

    relation = ThreadRelationFilter(kind=RelationKind.DESCENDANTS, thread_id=thread_id(1))

    assert ids(listed, relation_filter=relation) == [thread_id(1), thread_id(2)]
