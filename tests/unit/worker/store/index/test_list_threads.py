from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.worker.builders import AT, Store, opened_store, thread_id

from livethread import types
from livethread.directories import Identity, identity
from livethread.errors import InvalidRequest
from livethread.in_memory import list_threads as in_memory
from livethread.metadata import StoredThread
from livethread.model import format_time
from livethread_worker.store.index import directories as directories_module
from livethread_worker.store.index import list_threads as list_threads_module
from livethread_worker.store.thread_state import ThreadState


@pytest.fixture(scope="module")
def listed() -> Iterator[Store]:
    """A store whose rows each test, or example, replaces: opening an index takes longer than filling it."""
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
    page = store.index.list_threads(
        types.ListThreadsParams.model_validate({"include_without_preview": True, **params})
    )
    assert page.next_cursor is None
    return sorted(t.thread_id for t in page.items)


@given(
    seconds=st.lists(st.tuples(*[st.sampled_from([0, 1, 10, 11])] * 3), max_size=12),
    page_size=st.integers(1, 5),
    key=st.sampled_from(types.ThreadSortKey),
    direction=st.sampled_from(types.SortDirection),
)
def test_pages_are_complete_though_times_are_equal(
    listed: Store,
    seconds: list[tuple[int, int, int]],
    page_size: int,
    key: types.ThreadSortKey,
    direction: types.SortDirection,
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
        params = types.ListThreadsParams(
            include_without_preview=True, page_size=page_size, cursor=cursor, sort_key=key, sort_direction=direction
        )
        page = listed.index.list_threads(params)
        assert len(page.items) == page_size or page.next_cursor is None
        seen += [t.thread_id for t in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break

    ordered = sorted(threads, key=lambda t: (format_time(getattr(t, key.value)), t.thread_id))
    expected = [t.thread_id for t in (ordered if direction is types.SortDirection.ASC else reversed(ordered))]
    assert seen == expected


CWDS = ("/a", "/b", "")
SOURCES = ("cli", "exec", {"custom": "x"})
PROVIDERS = ("openai", "azure", "")
#: Mostly one letter, so that short and long terms match within a text, and never across two.
TEXTS = ("", "a", "aaaa", "aaAb abc", "Straße ÉTÉ", "ab\0c\x1fabc", "q\"uote's% _", "e\u0301te\u0301 abcabcabc")
TERMS = (
    "",
    "a",
    "ab",
    "aaa",
    "AAAB",
    "abcabc",
    "STRASSE",
    "été",
    "c abc",
    "c\x1fa",
    '"uo',
    "'s%",
    "% _",
    "aaaaa",
    "zzz",
)

thread_fields = st.fixed_dictionaries({
    "cwd": st.sampled_from(CWDS),
    "source": st.sampled_from(SOURCES),
    "model_provider": st.sampled_from(PROVIDERS),
    "archived_at": st.sampled_from((None, None, None, AT)),
    "parent": st.none() | st.integers(0, 9),
    "attached_to": st.none() | st.integers(0, 1),
    "name": st.none() | st.sampled_from(TEXTS),
    "title": st.none() | st.sampled_from(TEXTS),
    "preview": st.sampled_from(TEXTS),
    "created_at": st.integers(0, 2).map(lambda s: AT + timedelta(seconds=s)),
    "updated_at": st.integers(0, 2).map(lambda s: AT + timedelta(seconds=s)),
})
relations = st.builds(
    types.ThreadRelationFilter,
    kind=st.sampled_from(types.RelationKind),
    thread_id=st.integers(0, 9).map(thread_id),
    further_thread_ids=st.lists(st.integers(0, 9).map(thread_id), max_size=2).map(tuple),
)
filters = {
    "cwd_filters": st.lists(st.sampled_from(CWDS), max_size=4),
    "allowed_sources": st.lists(st.sampled_from(SOURCES), max_size=2),
    "model_providers": st.lists(st.sampled_from(PROVIDERS), max_size=2),
    "archived": st.just(True),
    "search_term": st.sampled_from(TERMS),
    "relation_filter": relations,
    "attached_to_thread_id": st.integers(0, 1).map(thread_id),
}
orders = st.fixed_dictionaries({
    "include_without_preview": st.booleans(),
    "include_attached_threads": st.booleans(),
    "sort_key": st.sampled_from(types.ThreadSortKey),
    "sort_direction": st.sampled_from(types.SortDirection),
    "page_size": st.integers(1, 4),
})
#: Two filters at most: more would leave almost no threads.
listings = st.sets(st.sampled_from(sorted(filters)), max_size=2).flatmap(
    lambda names: st.fixed_dictionaries({name: filters[name] for name in sorted(names)})
)


@pytest.mark.parametrize("few", [0, 2, list_threads_module.SORT_LIMIT])
@pytest.mark.parametrize("merged", [1, list_threads_module.MERGED_VALUES])
@settings(max_examples=100)
@given(fields=st.lists(thread_fields, max_size=10), wanted=listings, order=orders)
def test_every_listing_equals_the_in_memory_stores(
    listed: Store,
    *,
    few: int,
    merged: int,
    fields: list[dict[str, Any]],
    wanted: dict[str, Any],
    order: dict[str, Any],
) -> None:
    """Sorting in memory, merging values or reading an index: each gives the same page."""
    threads = []
    for n, values in enumerate(fields):
        own = {key: value for key, value in values.items() if key not in {"parent", "attached_to"}}
        for field, key in (("parent_thread_id", "parent"), ("attached_to_thread_id", "attached_to")):
            own[field] = None if values[key] is None else thread_id(values[key])
        threads.append(thread(n, **own))
    fill(listed, *threads)
    by_id = {t.thread_id: t for t in threads}
    cursor: str | None = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_threads_module, "SORT_LIMIT", few)
        patch.setattr(list_threads_module, "MERGED_VALUES", merged)
        for _ in range(len(threads) + 1):
            params = types.ListThreadsParams.model_validate(wanted | order | {"cursor": cursor})
            page = listed.index.list_threads(params)
            expected = in_memory.list_threads(by_id, params)
            assert [t.thread_id for t in page.items] == [t.thread_id for t in expected.items]
            assert page.next_cursor == expected.next_cursor
            cursor = page.next_cursor
            if cursor is None:
                break
    assert cursor is None


def steps(store: Store, read: Callable[[], object]) -> int:
    """Return how many instructions SQLite needs for what *read* reads."""
    count = 0

    def note() -> int:
        nonlocal count
        count += 1
        return 0

    store.index.db.conn.set_progress_handler(note, 1)
    read()
    store.index.db.conn.set_progress_handler(None, 1)
    return count


@pytest.mark.parametrize("hidden", [{"preview": ""}, {"attached_to_thread_id": thread_id(1)}], ids=str)
@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"cwd_filters": ["/a"]},
        {"allowed_sources": ["cli"]},
        {"model_providers": ["azure"]},
        {"relation_filter": {"kind": "direct_children", "thread_id": thread_id(2)}},
    ],
    ids=str,
)
def test_hidden_threads_cost_a_page_nothing(listed: Store, hidden: dict[str, Any], wanted: dict[str, Any]) -> None:
    def made(n: int, **fields: Any) -> StoredThread:
        at = AT + timedelta(minutes=n)
        times = dict.fromkeys(("created_at", "updated_at", "recency_at"), at)
        shared = {"cwd": "/a", "source": "cli", "model_provider": "azure", "parent_thread_id": thread_id(2)}
        return thread(n, **{"preview": "asked"} | shared | times | fields)

    costs: list[list[int]] = []
    for many in (10, 300):
        fill(listed, made(1), made(2), *(made(n, **hidden) for n in range(3, many)))
        listings = [types.ListThreadsParams.model_validate(wanted | {"sort_key": key}) for key in types.ThreadSortKey]
        assert [[t.thread_id for t in listed.index.list_threads(each).items] for each in listings] == [
            [thread_id(2), thread_id(1)]
        ] * len(listings)
        costs.append([steps(listed, partial(listed.index.list_threads, each)) for each in listings])

    assert costs[0] == costs[1]


@pytest.mark.parametrize("few", [0, list_threads_module.SORT_LIMIT])
def test_a_term_matches_as_a_whole_and_not_by_its_trigrams(
    listed: Store, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_threads_module, "SORT_LIMIT", few)
    fill(listed, thread(1, name="abcabd"), thread(2, name="xabcabcabdx"))

    assert ids(listed, search_term="ABCabcabd") == [thread_id(2)]


def test_a_listing_with_many_filter_values_finds_all_threads(listed: Store) -> None:
    fill(listed, *(thread(n, cwd=f"/{n}") for n in range(4)))

    assert ids(listed, cwd_filters=[f"/{n}" for n in range(1, 1000)]) == [thread_id(n) for n in (1, 2, 3)]


def looks(store: Store, cwd: str) -> list[str]:
    """Return the threads' directories at which a listing by *cwd* looks."""
    looked: list[str] = []

    def note(path: str) -> Identity:
        looked.append(path)
        return identity(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directories_module, "identity", note)
        store.index.list_threads(types.ListThreadsParams(cwd_filters=(cwd,)))
    return sorted(looked)


def test_a_listing_by_directory_does_not_look_at_every_directory_each_time(store: Store) -> None:
    fill(store, *(thread(n, cwd=f"/{n}") for n in range(9)))
    assert looks(store, "/1") == [f"/{n}" for n in range(9)]
    few = steps(store, lambda: looks(store, "/1"))
    store.commit(*(ThreadState(thread_id(n), thread(n, cwd=f"/{n}"), path=f"sessions/{n}") for n in range(9, 300)))
    assert len(looks(store, "/1")) == 291

    assert looks(store, "/1") == []
    assert steps(store, lambda: looks(store, "/1")) == few
    store.commit(ThreadState(thread_id(300), thread(300, cwd="/300"), path="sessions/300"))
    assert looks(store, "/1") == ["/300"]


def test_a_directory_whose_link_changed_is_looked_at_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, now = tmp_path / "link", 0.0
    fill(store, thread(1, cwd=str(link)))
    monkeypatch.setattr(directories_module, "time", SimpleNamespace(monotonic=lambda: now))
    assert ids(store, cwd_filters=[str(tmp_path)]) == []

    link.symlink_to(tmp_path)
    assert ids(store, cwd_filters=[str(tmp_path)]) == []
    now = 11.0

    assert ids(store, cwd_filters=[str(tmp_path)]) == [thread_id(1)]


def test_the_directories_are_those_of_the_threads(store: Store) -> None:
    def directories() -> list[str]:
        return [row["path"] for row in store.index.db.query("SELECT path FROM directories ORDER BY path")]

    fill(store, thread(1, cwd="/a"), thread(2, cwd="/a"), thread(3, cwd="/b"))
    assert directories() == ["/a", "/b"]

    store.commit(ThreadState(thread_id(2), thread(2, cwd="/c"), path="sessions/2"))
    store.forget(thread_id(3))
    assert directories() == ["/a", "/c"]

    store.forget(thread_id(1))
    assert directories() == ["/c"]


def test_a_changed_text_is_found_by_its_new_words_only(listed: Store) -> None:
    fill(listed, thread(1, name="former", title="title"))
    loaded = listed.index.read_thread(thread_id(1))
    assert loaded is not None

    renamed = loaded.model_copy(update={"name": "present"})
    listed.commit(ThreadState(renamed.thread_id, renamed, path="sessions/1"), loaded=loaded)

    assert [ids(listed, search_term=term) for term in ("former", "present", "title")] == [
        [],
        [thread_id(1)],
        [thread_id(1)],
    ]


some_text = st.sampled_from(["", "former", "Former", "present", "a preview"])


@given(st.lists(st.fixed_dictionaries({"preview": some_text, "title": some_text, "name": some_text}), min_size=1))
def test_the_search_table_holds_the_current_texts_once(listed: Store, changes: list[dict[str, str]]) -> None:
    """Equal texts are held once, even if one of them changes."""
    fill(listed, thread(1, **changes[0]))
    for fields in changes[1:]:
        loaded = listed.index.read_thread(thread_id(1))
        assert loaded is not None
        patched = loaded.model_copy(update=fields)
        listed.commit(ThreadState(patched.thread_id, patched, path="sessions/1"), loaded=loaded)

    held = [row["text"] for row in listed.index.db.query("SELECT text FROM listing_texts ORDER BY rowid")]

    assert held == list(
        dict.fromkeys(changes[-1][name].lower() for name in ("preview", "title", "name") if changes[-1][name])
    )


def test_a_text_that_a_reread_rollout_no_longer_holds_is_not_found(listed: Store) -> None:
    fill(listed, thread(1, preview="preview", name="former"))

    listed.commit(ThreadState(thread_id(1), thread(1, preview="preview"), path="sessions/1"))

    assert (ids(listed, search_term="former"), ids(listed, search_term="preview")) == ([], [thread_id(1)])


def test_deleting_a_thread_deletes_its_texts(listed: Store) -> None:
    fill(listed, thread(1, name="needle"), thread(2, name="needle"))

    listed.forget(thread_id(1))

    assert ids(listed, search_term="needle") == [thread_id(2)]
    count = "SELECT count(*) FROM listing_texts WHERE listing_texts MATCH 'nee'"
    assert listed.index.db.execute(count).fetchone()[0] == 1


def test_a_new_thread_before_the_cursor_shifts_no_later_page(listed: Store) -> None:
    threads = [thread(n, created_at=AT + timedelta(seconds=n)) for n in range(4)]
    fill(listed, *threads)
    first = listed.index.list_threads(types.ListThreadsParams(include_without_preview=True, page_size=2))

    newest = thread(9, created_at=AT + timedelta(seconds=9))
    fill(listed, *threads, newest)
    second = listed.index.list_threads(
        types.ListThreadsParams(include_without_preview=True, page_size=2, cursor=first.next_cursor)
    )

    assert [t.thread_id for t in (*first.items, *second.items)] == [thread_id(n) for n in (3, 2, 1, 0)]


def test_the_page_with_the_last_thread_has_no_cursor(listed: Store) -> None:
    fill(listed, thread(1), thread(2))

    assert (
        listed.index.list_threads(types.ListThreadsParams(include_without_preview=True, page_size=2)).next_cursor
        is None
    )
    assert (
        listed.index.list_threads(types.ListThreadsParams(include_without_preview=True, page_size=1)).next_cursor
        is not None
    )


def test_an_empty_index_has_an_empty_page(listed: Store) -> None:
    fill(listed)

    assert ids(listed) == []


@pytest.mark.parametrize("cursor", ["garbage", "WyJ1cGRhdGVkX2F0IiwgIngiLCAieSJd"])
def test_a_cursor_of_another_listing_is_refused(listed: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        listed.index.list_threads(types.ListThreadsParams(include_without_preview=True, cursor=cursor))


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [1, 2, 3]),
        ({"model_providers": None}, [1, 2, 3]),
        ({"model_providers": []}, [1, 2, 3]),
        ({"model_providers": ["azure", "unused"]}, [2]),
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
def test_filters_are_combined(listed: Store, filters: dict[str, Any], found: list[int]) -> None:
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

    def related(kind: types.RelationKind, to: int) -> list[str]:
        return ids(listed, relation_filter=types.ThreadRelationFilter(kind=kind, thread_id=thread_id(to)))

    assert related(types.RelationKind.DIRECT_CHILDREN, 1) == [thread_id(2)]
    assert related(types.RelationKind.DESCENDANTS, 1) == [thread_id(n) for n in (2, 3, 5)]
    assert related(types.RelationKind.DESCENDANTS, 6) == []


def test_a_cycle_of_parents_ends(listed: Store) -> None:
    fill(listed, thread(1, parent_thread_id=thread_id(2)), thread(2, parent_thread_id=thread_id(1)))

    relation = types.ThreadRelationFilter(kind=types.RelationKind.DESCENDANTS, thread_id=thread_id(1))

    assert ids(listed, relation_filter=relation) == [thread_id(1), thread_id(2)]
