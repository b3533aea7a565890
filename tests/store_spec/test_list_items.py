from __future__ import annotations

import pytest
from tests.nodes.items import append, message, payload_of, said, texts, update
from tests.store_spec.kinds import EVERY_READER, MAX_ITEM_BYTES
from tests.store_spec.operations import a_word, archive, stored
from tests.store_spec.turns import ASC, DESC, event, item_page, kinds_of, pages_of_items, rolled_back, turn, turn_page

from livethread import (
    InvalidRequest,
    ItemPage,
    ListThreadsParams,
    LoadThreadHistoryParams,
    RolloutItem,
    SearchThreadsParams,
    SortDirection,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)

pytestmark = EVERY_READER


async def whole_history(store: ThreadStore, thread_id: str) -> tuple[RolloutItem, ...]:
    return (await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))).items


async def test_one_page_holds_the_whole_history(store: ThreadStore) -> None:
    thread_id = await stored(store, said("one"), message("two"), payload_of([2**80, "🎉\u2028\x00", None]))

    page = await item_page(store, thread_id)

    assert page == ItemPage(
        items=await whole_history(store, thread_id),
        end_cursor=page.end_cursor,
        backwards_cursor=page.backwards_cursor,
        position=page.position,
    )
    assert kinds_of(page.items) == [None, "user_message", "message", "message"]


@pytest.mark.parametrize("direction", list(SortDirection))
async def test_pages_neither_lose_nor_repeat_an_item(store: ThreadStore, direction: SortDirection) -> None:
    thread_id = await stored(store, *(message(f"{n}") for n in range(3)))
    await update(store, thread_id, ThreadMetadataPatch(title="A title"))
    await append(store, thread_id, *(message(f"{n} 🎉" * n) for n in range(3, 6)))
    await update(store, thread_id, ThreadMetadataPatch(title="Another title"))
    items = await whole_history(store, thread_id)
    ordered = items if direction is ASC else items[::-1]

    pages = {size: await pages_of_items(store, thread_id, size, sort_direction=direction) for size in (1, 2, 3, 7, 8)}

    assert len(items) == 7
    assert pages == {size: [ordered[i : i + size] for i in range(0, 7, size)] for size in (1, 2, 3, 7, 8)}


@pytest.mark.parametrize("direction", list(SortDirection))
async def test_items_of_many_kilobytes_are_paged(store: ThreadStore, direction: SortDirection) -> None:
    """Their lines are longer than one read of the file."""
    long = "Ω" * (MAX_ITEM_BYTES // 2 - 1000)
    thread_id = await stored(store, *(message(f"{n} {long if n % 2 else ''}") for n in range(9)))
    items = await whole_history(store, thread_id)

    pages = await pages_of_items(store, thread_id, 2, sort_direction=direction)

    paged = tuple(item for page in pages for item in page)
    assert paged == (items if direction is ASC else items[::-1])


async def test_the_backwards_cursor_of_a_page_leads_back_from_its_first_item(store: ThreadStore) -> None:
    thread_id = await stored(store, *(message(f"{n}") for n in range(1, 7)))
    items = await whole_history(store, thread_id)
    first = await item_page(store, thread_id, page_size=2)
    second = await item_page(store, thread_id, page_size=2, cursor=first.next_cursor)
    from_the_end = await item_page(store, thread_id, page_size=2, sort_direction=DESC)
    before_it = await item_page(store, thread_id, page_size=2, sort_direction=DESC, cursor=from_the_end.next_cursor)

    back = await item_page(store, thread_id, cursor=second.backwards_cursor, sort_direction=DESC)
    forth = await item_page(store, thread_id, cursor=before_it.backwards_cursor)

    assert second.items == items[2:4]
    assert back.items == items[:3][::-1]
    assert before_it.items == items[3:5][::-1]
    assert forth.items == items[4:]
    at_the_start = await item_page(store, thread_id, cursor=first.backwards_cursor, sort_direction=DESC)
    at_the_end = await item_page(store, thread_id, cursor=from_the_end.backwards_cursor)
    assert (at_the_start.items, at_the_end.items) == (items[:1], items[-1:])


@pytest.mark.parametrize("page_size", [1, 2, 3])
async def test_paging_to_the_end_and_back_visits_every_item_once_each_way(store: ThreadStore, page_size: int) -> None:
    thread_id = await stored(store, message("1"), *turn("t1", message("2")), message("3"))
    items = await whole_history(store, thread_id)

    there = [await item_page(store, thread_id, page_size=page_size)]
    while there[-1].next_cursor:
        there.append(await item_page(store, thread_id, page_size=page_size, cursor=there[-1].next_cursor))
    cursor, back = there[-1].backwards_cursor, list(there[-1].items[:0:-1])
    while cursor:
        page = await item_page(store, thread_id, page_size=page_size, cursor=cursor, sort_direction=DESC)
        back += page.items
        cursor = page.next_cursor

    assert tuple(item for page in there for item in page.items) == items
    assert tuple(back) == items[::-1]


async def test_a_turn_that_grows_between_pages_is_paged_back_to_its_first_item(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t0"), event("task_started", turn_id="t1"), message("one"))
    newest = await item_page(store, thread_id, turn_id="t1", page_size=1, sort_direction=DESC)

    await append(store, thread_id, message("two"))
    await append(store, thread_id, *turn("t2"))

    older = await item_page(store, thread_id, turn_id="t1", cursor=newest.next_cursor, sort_direction=DESC)
    newer = await item_page(store, thread_id, turn_id="t1", cursor=newest.backwards_cursor)
    assert kinds_of(older.items) == ["task_started"]
    assert texts(list(newer.items)) == ["one", "two"]


async def test_the_thread_may_grow_between_pages(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"), message("2"), message("3"))
    oldest = await item_page(store, thread_id, page_size=2)
    newest = await item_page(store, thread_id, page_size=2, sort_direction=DESC)

    await append(store, thread_id, message("4"))
    await update(store, thread_id, ThreadMetadataPatch(title="A title"))
    await append(store, thread_id, message("5"))

    on = await item_page(store, thread_id, cursor=oldest.next_cursor)
    older = await item_page(store, thread_id, cursor=newest.next_cursor, sort_direction=DESC, page_size=1)
    newer = await item_page(store, thread_id, cursor=newest.backwards_cursor)
    assert texts(list(on.items)) == ["2", "3", "4", "5"]
    assert texts(list(older.items)) == ["1"]
    assert texts(list(newer.items)) == ["3", "4", "5"]


@pytest.mark.parametrize("direction", list(SortDirection))
@pytest.mark.parametrize(("turn_id", "expected"), [("t1", ["1a", "1b"]), ("t2", ["2a", "2b", "2c"])])
async def test_the_items_of_one_turn_are_paged(
    store: ThreadStore, turn_id: str, expected: list[str], direction: SortDirection
) -> None:
    first = turn("t1", said("1a"), message("1b"))
    second = turn("t2", said("2a"), message("2b"), message("2c"))
    thread_id = await stored(store, message("before"), *first, *second)
    await update(store, thread_id, ThreadMetadataPatch(title="A title"))
    [each] = [one for one in (await turn_page(store, thread_id)).turns if one.turn_id == turn_id]
    ordered = each.items if direction is ASC else each.items[::-1]

    pages = {
        size: await pages_of_items(store, thread_id, size, turn_id=turn_id, sort_direction=direction)
        for size in (1, 2, 3, 8)
    }

    assert texts(list(each.items[1:-1])) == expected
    assert {size: tuple(item for page in paged for item in page) for size, paged in pages.items()} == dict.fromkeys(
        (1, 2, 3, 8), ordered
    )
    assert all(len(page) == 1 for page in pages[1])


async def test_pages_of_a_turn_continue_with_items_appended_later(store: ThreadStore) -> None:
    thread_id = await stored(store, event("task_started", turn_id="t1"), message("one"))
    first = await item_page(store, thread_id, turn_id="t1", page_size=1)

    await append(store, thread_id, message("two"))
    await append(store, thread_id, *turn("t2"))

    on = await item_page(store, thread_id, turn_id="t1", cursor=first.next_cursor)
    assert texts(list(on.items)) == ["one", "two"]
    assert on.next_cursor is None


async def test_the_items_of_an_implicit_turn_are_listed(store: ThreadStore) -> None:
    thread_id = await stored(store, said("one"), message("1"), said("two"))

    page = await item_page(store, thread_id, turn_id="turn-1")

    assert texts(list(page.items)) == ["one", "1"]


async def test_an_unknown_turn_is_refused(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1"))

    with pytest.raises(InvalidRequest, match="no turn t9"):
        await item_page(store, thread_id, turn_id="t9")


async def test_a_turn_that_was_rolled_back_is_unknown(store: ThreadStore) -> None:
    """Its items stay in the history."""
    thread_id = await stored(store, *turn("t1"), *turn("t2", said("lost")), rolled_back(1))

    with pytest.raises(InvalidRequest, match="no turn t2"):
        await item_page(store, thread_id, turn_id="t2")

    assert kinds_of((await item_page(store, thread_id)).items).count("user_message") == 1


async def test_a_turn_with_the_id_of_a_rolled_back_turn_is_listed(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1", said("lost")), rolled_back(1), *turn("t1", said("kept")))

    page = await item_page(store, thread_id, turn_id="t1")

    assert texts(list(page.items[1:-1])) == ["kept"]


async def test_a_read_sees_what_was_accepted_before_it(store: ThreadStore) -> None:
    thread_id = await stored(store, message("0"))

    for n in range(1, 10):
        await append(store, thread_id, message(f"{n}"))
        page = await item_page(store, thread_id, page_size=1, sort_direction=DESC)
        assert texts(list(page.items)) == [f"{n}"]


async def test_an_archived_thread_is_read_unless_archived_threads_are_excluded(store: ThreadStore) -> None:
    thread_id = await stored(store, message("one"), message("two"))
    first = await item_page(store, thread_id, page_size=2)

    await archive(store, thread_id)

    on = await item_page(store, thread_id, cursor=first.next_cursor)
    assert texts(list(on.items)) == ["two"]
    with pytest.raises(ThreadNotFound, match="it is archived"):
        await item_page(store, thread_id, include_archived=False)


@pytest.mark.parametrize("cursor", ["x", "!", "é", "e30=", "WzFd", "W10=", "IiI="])
async def test_a_malformed_cursor_is_refused(store: ThreadStore, cursor: str) -> None:
    thread_id = await stored(store)

    with pytest.raises(InvalidRequest):
        await item_page(store, thread_id, cursor=cursor)


async def test_a_cursor_of_threads_of_results_or_of_turns_is_refused(store: ThreadStore) -> None:
    word, cwd = a_word(), f"/{new_thread_id()}"
    thread_id, _ = [await stored(store, *turn("t1", said(word)), *turn("t2"), cwd=cwd) for _ in range(2)]
    listed = await store.list_threads(
        ListThreadsParams(include_without_preview=True, page_size=1, cwd_filters=(cwd,))
    )
    found = await store.search_threads(SearchThreadsParams(page_size=1, search_term=word))
    turns = await turn_page(store, thread_id, page_size=1)

    for cursor in (listed.next_cursor, found.next_cursor, turns.next_cursor):
        assert cursor is not None
        with pytest.raises(InvalidRequest, match="this cursor is for"):
            await item_page(store, thread_id, cursor=cursor)


async def test_a_cursor_of_another_turn_is_refused(store: ThreadStore) -> None:
    thread_id = await stored(store, *turn("t1", said("x"), said("y")), *turn("t2"))
    page = await item_page(store, thread_id, turn_id="t1", page_size=1)

    assert page.next_cursor is not None
    with pytest.raises(InvalidRequest, match="another turn"):
        await item_page(store, thread_id, turn_id="t2", cursor=page.next_cursor)


async def test_an_unknown_thread_is_not_found(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await item_page(store, new_thread_id())
