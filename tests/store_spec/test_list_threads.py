from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import append, flush, message, new_thread, read, said, update
from tests.store_spec.kinds import EVERY_READER
from tests.store_spec.operations import archive

from livethread import (
    CreateThreadParams,
    InvalidRequest,
    ListThreadsParams,
    LiveThread,
    RelationKind,
    SortDirection,
    ThreadMetadataPatch,
    ThreadRelationFilter,
    ThreadSortKey,
    ThreadStore,
    new_thread_id,
)

pytestmark = EVERY_READER

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def cwd() -> str:
    """A directory that no other test uses: tests that use a worker share its home."""
    return f"/{new_thread_id()}"


async def stored(store: ThreadStore, patch: ThreadMetadataPatch | None = None, **params: Any) -> str:
    thread_id = await new_thread(store, **params)
    await append(store, thread_id, message("one"))
    if patch:
        await update(store, thread_id, patch)
    await flush(store, thread_id)
    return thread_id


async def listed(store: ThreadStore, cwd: str, **params: Any) -> list[str]:
    page = await store.list_threads(
        ListThreadsParams.model_validate({"include_without_preview": True, "cwd_filters": (cwd,), **params})
    )
    return [thread.thread_id for thread in page.items]


async def test_a_thread_in_which_nothing_was_asked_is_listed_only_on_request(store: ThreadStore, cwd: str) -> None:
    thread = await LiveThread.create(store, CreateThreadParams(cwd=cwd))
    await thread.append_items([message("An answer to nothing")])
    await thread.flush()
    before = await listed(store, cwd, include_without_preview=False), await listed(store, cwd)

    await thread.append_items([said("A question")])
    await thread.flush()

    assert before == ([], [thread.thread_id])
    assert await listed(store, cwd, include_without_preview=False) == [thread.thread_id]


async def test_threads_are_found_by_the_beginning_of_their_ids(store: ThreadStore, cwd: str) -> None:
    ids = ["fff0a93b-0000-7000-8000-", "fff0a93b-0001-7000-8000-", "fff0a93c-0000-7000-8000-"]
    first, second, third = [await stored(store, thread_id=f"{each}{cwd[-12:]}", cwd=cwd) for each in ids]

    async def found(prefix: str) -> set[str]:
        return {*await listed(store, cwd, thread_id_prefix=prefix)}

    assert await found("fff0a93b") == {first, second}
    assert await found("fff0a93b-0001") == {second}
    assert await found(third) == {third}
    assert await found("fff0a93d") == set()
    [page] = await all_pages(store, 2, thread_id_prefix=second)
    assert page == [second]
    for refused in ("", "FFF0", "%"):
        with pytest.raises(InvalidRequest):
            await found(refused)


async def all_pages(store: ThreadStore, page_size: int, **params: Any) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor: str | None = params.pop("cursor", None)
    while True:
        page = await store.list_threads(
            ListThreadsParams.model_validate({
                "include_without_preview": True,
                "page_size": page_size,
                "cursor": cursor,
                **params,
            })
        )
        pages.append([thread.thread_id for thread in page.items])
        cursor = page.next_cursor
        if cursor is None:
            return pages


def later(key: ThreadSortKey, days: int = 0) -> ThreadMetadataPatch:
    """Return a patch that sets the time *key* to a day in 2100."""
    field = "advance_recency_at" if key is ThreadSortKey.RECENCY_AT else key.value
    return ThreadMetadataPatch.model_validate({field: datetime(2100, 1, 1, tzinfo=UTC) + timedelta(days=days)})


def related(kind: RelationKind, thread_id: str) -> ThreadRelationFilter:
    return ThreadRelationFilter(kind=kind, thread_id=thread_id)


def paged(ids: Sequence[str], size: int) -> list[list[str]]:
    return [list(ids[i : i + size]) for i in range(0, len(ids), size)]


async def test_a_listed_thread_equals_the_thread_that_is_read(store: ThreadStore, cwd: str) -> None:
    thread_id = await stored(store, ThreadMetadataPatch(name="A name", token_usage={"n": 1}), cwd=cwd)

    [thread] = (await store.list_threads(ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,)))).items

    assert thread == await read(store, thread_id)


@pytest.mark.parametrize("key", list(ThreadSortKey))
async def test_threads_are_sorted_by_each_sort_key_in_both_directions(
    store: ThreadStore, cwd: str, key: ThreadSortKey
) -> None:
    ids = [await stored(store, later(key, day), cwd=cwd) for day in (2, 0, 1)]
    ascending = [ids[1], ids[2], ids[0]]

    oldest_first = await listed(store, cwd, sort_key=key, sort_direction=SortDirection.ASC)
    newest_first = await listed(store, cwd, sort_key=key)

    assert (oldest_first, newest_first) == (ascending, ascending[::-1])


@pytest.mark.parametrize("direction", list(SortDirection))
async def test_pages_neither_lose_nor_repeat_threads_with_equal_times(
    store: ThreadStore, cwd: str, direction: SortDirection
) -> None:
    """Seven threads share three times: a cursor with nothing but a time would lose some of them."""
    ids = [await stored(store, cwd=cwd, created_at=AT + timedelta(seconds=n // 3)) for n in range(7)]
    created = {thread_id: n // 3 for n, thread_id in enumerate(ids)}
    expected = sorted(ids, key=lambda id_: (created[id_], id_), reverse=direction is SortDirection.DESC)

    pages = {
        size: await all_pages(store, size, cwd_filters=(cwd,), sort_direction=direction) for size in (1, 2, 3, 7, 8)
    }

    assert pages == {size: paged(expected, size) for size in (1, 2, 3, 7, 8)}


async def test_hundreds_of_threads_with_one_time_are_paged_once_each(store: ThreadStore, cwd: str) -> None:
    ids = sorted(await asyncio.gather(*(stored(store, cwd=cwd, created_at=AT) for _ in range(201))))

    oldest_first = await all_pages(store, 40, cwd_filters=(cwd,), sort_direction=SortDirection.ASC)
    newest_first = await all_pages(store, 201, cwd_filters=(cwd, f"{cwd}/elsewhere"))

    assert (oldest_first, newest_first) == (paged(ids, 40), [ids[::-1]])


@pytest.mark.parametrize("direction", list(SortDirection))
@pytest.mark.parametrize("key", [ThreadSortKey.UPDATED_AT, ThreadSortKey.RECENCY_AT])
async def test_a_thread_that_changes_between_two_pages_moves_with_its_time(
    store: ThreadStore, cwd: str, key: ThreadSortKey, direction: SortDirection
) -> None:
    """Newest first, a thread that was not shown yet is skipped; oldest first, a shown thread is shown again."""
    oldest, old, young, youngest = [await stored(store, later(key, day), cwd=cwd) for day in range(4)]
    wanted = ListThreadsParams(
        include_without_preview=True, page_size=2, cwd_filters=(cwd,), sort_key=key, sort_direction=direction
    )
    first = await store.list_threads(wanted)

    for thread_id, day in ((oldest, 10), (youngest, 11)):
        await update(store, thread_id, later(key, day))
        await flush(store, thread_id)
    rest = await all_pages(
        store, 5, cwd_filters=(cwd,), sort_key=key, sort_direction=direction, cursor=first.next_cursor
    )

    shown = [thread.thread_id for thread in first.items]
    if direction is SortDirection.DESC:
        assert (shown, rest) == ([youngest, young], [[old]])
    else:
        assert (shown, rest) == ([oldest, old], [[young, oldest, youngest]])


async def test_a_page_begins_after_a_thread_that_is_gone(store: ThreadStore, cwd: str) -> None:
    ids = [await stored(store, cwd=cwd, created_at=AT + timedelta(seconds=n)) for n in range(3)]
    first = await store.list_threads(ListThreadsParams(include_without_preview=True, page_size=1, cwd_filters=(cwd,)))

    await archive(store, ids[2])
    await flush(store, ids[2])

    assert await listed(store, cwd, cursor=first.next_cursor) == [ids[1], ids[0]]


async def test_each_filter_pages_by_each_sort_key_in_both_directions(store: ThreadStore, cwd: str) -> None:
    """Four threads pass each filter; each sort key orders them differently, and two have equal times."""
    root = await stored(store, cwd=f"{cwd}/root")
    child = await stored(store, cwd=f"{cwd}/root", parent_thread_id=root)
    word = cwd.strip("/")
    filters: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"cwd": f"{cwd}/cwd"}, {"cwd_filters": (f"{cwd}/cwd",)}),
        ({"cwd": f"{cwd}/cwds"}, {"cwd_filters": (f"{cwd}/cwds", "/nowhere", f"{cwd}/cwds")}),
        ({"source": {"custom": word}}, {"allowed_sources": ({"custom": word}, {"custom": "none"})}),
        ({"model_provider": word}, {"model_providers": (word, "none")}),
        ({"name": f"the {word.upper()}."}, {"search_term": word}),
        (
            {"parent_thread_id": root},
            {"cwd_filters": (cwd,), "relation_filter": related(RelationKind.DIRECT_CHILDREN, root)},
        ),
        (
            {"parent_thread_id": child},
            {"cwd_filters": (cwd,), "relation_filter": related(RelationKind.DIRECT_CHILDREN, child)},
        ),
        (
            {"forked_from_id": root, "attached_thread": True},
            {"cwd_filters": (cwd,), "attached_to_thread_id": root},
        ),
    ]
    for given, wanted in filters:
        made = dict(given)
        name = made.pop("name", None)
        threads = []
        for created, updated, recency in ((0, 2, 1), (1, 0, 2), (2, 1, 0), (2, 1, 0)):
            thread_id = await stored(
                store,
                ThreadMetadataPatch.model_validate({
                    "created_at": AT + timedelta(days=created),
                    "updated_at": AT + timedelta(days=40000 + updated),
                    "advance_recency_at": AT + timedelta(days=40000 + recency),
                    **({"name": name} if name else {}),
                }),
                **{"cwd": cwd, **made},
            )
            threads.append((thread_id, {"created_at": created, "updated_at": updated, "recency_at": recency}))
        for key in ThreadSortKey:
            ascending = [id_ for id_, times in sorted(threads, key=lambda each: (each[1][key.value], each[0]))]
            oldest_first = await all_pages(store, 3, sort_key=key, sort_direction=SortDirection.ASC, **wanted)
            newest_first = await all_pages(store, 3, sort_key=key, **wanted)

            assert (oldest_first, newest_first) == (paged(ascending, 3), paged(ascending[::-1], 3)), (wanted, key)


async def test_threads_are_filtered_by_directory(store: ThreadStore, cwd: str) -> None:
    here = await stored(store, cwd=cwd)
    there = await stored(store, cwd=f"{cwd}/there")

    assert await listed(store, cwd) == [here]
    assert sorted(await listed(store, cwd, cwd_filters=(cwd, f"{cwd}/there"))) == sorted([here, there])
    assert await listed(store, cwd, cwd_filters=()) == []
    everything = await store.list_threads(
        ListThreadsParams(include_without_preview=True, page_size=1000, cwd_filters=None)
    )
    assert {here, there} <= {thread.thread_id for thread in everything.items}


async def test_directories_are_compared_as_paths(store: ThreadStore, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    link = tmp_path / "link"
    link.symlink_to(project)
    spellings = (str(project), f"{project}/", f"{link}/.")
    threads = sorted([await stored(store, cwd=spelling) for spelling in spellings])
    gone = await stored(store, cwd=f"{tmp_path}/gone//")

    for spelling in (*spellings, f"{link}/../project"):
        assert sorted(await listed(store, spelling)) == threads, spelling
    assert await listed(store, f"{tmp_path}/gone") == [gone]


async def test_threads_are_filtered_by_source(store: ThreadStore, cwd: str) -> None:
    cli, custom = await stored(store, cwd=cwd, source="cli"), await stored(store, cwd=cwd, source={"custom": "x"})
    exec_ = await stored(store, cwd=cwd, source="exec")

    assert await listed(store, cwd, allowed_sources=("cli",)) == [cli]
    assert await listed(store, cwd, allowed_sources=({"custom": "x"},)) == [custom]
    assert await listed(store, cwd, allowed_sources=({"custom": "y"}, "vscode")) == []
    assert sorted(await listed(store, cwd, allowed_sources=())) == sorted([cli, custom, exec_])


async def test_threads_are_filtered_by_model_provider(store: ThreadStore, cwd: str) -> None:
    one, two = await stored(store, cwd=cwd, model_provider="one"), await stored(store, cwd=cwd, model_provider="two")

    assert await listed(store, cwd, model_providers=("one",)) == [one]
    assert sorted(await listed(store, cwd, model_providers=("one", "two"))) == sorted([one, two])
    assert sorted(await listed(store, cwd, model_providers=())) == sorted([one, two])
    assert sorted(await listed(store, cwd, model_providers=None)) == sorted([one, two])


@pytest.mark.parametrize("term", ["needle", "NEEDLE", "a needle in", "ÉCOLE", "e\u0301co", "100%", "_", "'"])
async def test_a_search_term_is_found_in_name_title_and_preview(store: ThreadStore, cwd: str, term: str) -> None:
    text = "A needle in a haystack: école 100% _ '"
    hits = [
        await stored(store, ThreadMetadataPatch.model_validate({field: text}), cwd=cwd)
        for field in ("name", "title", "preview")
    ]
    await stored(store, ThreadMetadataPatch(name="hay", model="needle 100% _ '"), cwd=cwd)

    assert sorted(await listed(store, cwd, search_term=term)) == sorted(hits)


async def test_children_and_descendants_are_listed(store: ThreadStore, cwd: str) -> None:
    root = await stored(store, cwd=cwd)
    child = await stored(store, cwd=cwd, parent_thread_id=root)
    grandchild = await stored(store, cwd=cwd, parent_thread_id=child)
    await stored(store, cwd=cwd, parent_thread_id=new_thread_id())

    children = await listed(store, cwd, relation_filter=related(RelationKind.DIRECT_CHILDREN, root))
    descendants = await listed(store, cwd, relation_filter=related(RelationKind.DESCENDANTS, root))
    none = await listed(store, cwd, relation_filter=related(RelationKind.DESCENDANTS, grandchild))
    of_two = ThreadRelationFilter(
        kind=RelationKind.DIRECT_CHILDREN, thread_id=new_thread_id(), further_thread_ids=(root, child)
    )
    children_of_two = await listed(store, cwd, relation_filter=of_two)

    assert (children, sorted(descendants), none) == ([child], sorted([child, grandchild]), [])
    assert sorted(children_of_two) == sorted([child, grandchild])


async def test_descendants_are_found_through_an_archived_thread(store: ThreadStore, cwd: str) -> None:
    root = await stored(store, cwd=cwd)
    child = await stored(store, cwd=cwd, parent_thread_id=root)
    grandchild = await stored(store, cwd=cwd, parent_thread_id=child)
    relation = related(RelationKind.DESCENDANTS, root)

    await archive(store, child)
    await flush(store, child)

    assert await listed(store, cwd, relation_filter=relation) == [grandchild]
    assert await listed(store, cwd, relation_filter=relation, archived=True) == [child]


async def test_descendants_in_a_circle_are_found_once(store: ThreadStore, cwd: str) -> None:
    one, two = new_thread_id(), new_thread_id()
    await stored(store, cwd=cwd, thread_id=one, parent_thread_id=two)
    await stored(store, cwd=cwd, thread_id=two, parent_thread_id=one)
    relation = related(RelationKind.DESCENDANTS, one)

    assert sorted(await listed(store, cwd, relation_filter=relation)) == sorted([one, two])


async def test_active_and_archived_threads_are_listed_separately(store: ThreadStore, cwd: str) -> None:
    active, *archived = [await stored(store, cwd=cwd, created_at=AT) for _ in range(6)]
    for thread_id in archived:
        await archive(store, thread_id)
        await flush(store, thread_id)

    pages = await all_pages(store, 2, cwd_filters=(cwd,), archived=True, sort_direction=SortDirection.ASC)

    assert pages == paged(sorted(archived), 2)
    assert await listed(store, cwd) == [active]


@pytest.mark.parametrize("key", [ThreadSortKey.UPDATED_AT, ThreadSortKey.RECENCY_AT])
async def test_pages_by_each_sort_key_lose_no_thread_with_equal_times(
    store: ThreadStore, cwd: str, key: ThreadSortKey
) -> None:
    ids = [await stored(store, later(key), cwd=cwd) for _ in range(5)]

    pages = await all_pages(store, 2, cwd_filters=(cwd,), sort_key=key)

    assert pages == paged(sorted(ids, reverse=True), 2)


@pytest.mark.parametrize("cursor", ["x", "!", "é", "e30=", "WzFd", "W10=", "IiI="])
async def test_a_malformed_cursor_is_refused(store: ThreadStore, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await store.list_threads(ListThreadsParams(include_without_preview=True, cursor=cursor))


async def test_a_cursor_of_a_listing_by_another_sort_key_is_refused(store: ThreadStore, cwd: str) -> None:
    for _ in range(2):
        await stored(store, cwd=cwd)
    page = await store.list_threads(ListThreadsParams(include_without_preview=True, page_size=1, cwd_filters=(cwd,)))

    with pytest.raises(InvalidRequest, match="created_at"):
        await store.list_threads(
            ListThreadsParams(
                include_without_preview=True, cursor=page.next_cursor, sort_key=ThreadSortKey.UPDATED_AT
            )
        )


@pytest.mark.parametrize("page_size", [0, -1, 1001])
async def test_a_page_size_out_of_bounds_is_refused(page_size: int, kind: str) -> None:
    with pytest.raises(InvalidRequest, match="page_size"):
        ListThreadsParams(page_size=page_size)


async def test_attached_forks_are_listed_only_on_request(store: ThreadStore, cwd: str) -> None:
    root = await stored(store, cwd=cwd)
    fork = await stored(store, cwd=cwd, forked_from_id=root)
    attached = await stored(store, cwd=cwd, forked_from_id=root, attached_thread=True)

    assert {*await listed(store, cwd)} == {root, fork}
    assert {*await listed(store, cwd, include_attached_threads=True)} == {root, fork, attached}
    assert await listed(store, cwd, attached_to_thread_id=root) == [attached]
    assert await listed(store, cwd, attached_to_thread_id=fork) == []
    assert (await read(store, attached)).attached_to_thread_id == root
