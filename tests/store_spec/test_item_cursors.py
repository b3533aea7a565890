"""Where a page of items begins: at a cursor, after an ordinal, or after a position."""

from __future__ import annotations

from typing import Any

import pytest
from tests.nodes.items import append, message, texts, update
from tests.store_spec.kinds import EVERY_READER
from tests.store_spec.operations import stored
from tests.store_spec.turns import DESC, event, item_page, turn

from livethread import MemoryMode, SortDirection, ThreadMetadataPatch, ThreadStore

pytestmark = EVERY_READER


async def shown(store: ThreadStore, thread_id: str, **params: Any) -> list[str]:
    return texts(list((await item_page(store, thread_id, **params)).items))


@pytest.mark.parametrize("page_size", [1, 2, 3, 50])
async def test_every_page_has_a_cursor_that_continues_after_its_last_item(store: ThreadStore, page_size: int) -> None:
    thread_id = await stored(store, message("1"), message("2"))
    pages = [await item_page(store, thread_id, page_size=page_size)]

    for n in range(3, 8):
        if pages[-1].next_cursor is None:
            await update(store, thread_id, ThreadMetadataPatch(title=f"{n}"))
            await append(store, thread_id, message(f"{n}"))
        pages.append(await item_page(store, thread_id, page_size=page_size, cursor=pages[-1].end_cursor))
    rest = await item_page(store, thread_id, cursor=pages[-1].end_cursor)

    paged = [item for page in (*pages, rest) for item in page.items]
    assert paged == list((await item_page(store, thread_id)).items)
    assert all(page.next_cursor in {None, page.end_cursor} for page in pages)


async def test_an_empty_page_continues_where_it_began(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))
    page = await item_page(store, thread_id)

    for _ in range(2):
        page = await item_page(store, thread_id, cursor=page.end_cursor)
        assert (page.items, page.next_cursor) == ((), None)

    await append(store, thread_id, message("2"))
    assert await shown(store, thread_id, cursor=page.end_cursor) == ["2"]


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 50])
async def test_a_newest_first_page_continues_with_its_items_in_order_and_then_later_ones(
    store: ThreadStore, page_size: int
) -> None:
    thread_id = await stored(store, message("1"), message("2"), message("3"))
    newest = await item_page(store, thread_id, page_size=page_size, sort_direction=DESC)

    await append(store, thread_id, message("4"))

    on = await item_page(store, thread_id, cursor=newest.end_cursor)
    assert list(on.items[:-1]) == list(newest.items[::-1])
    assert texts(list(on.items[-1:])) == ["4"]


@pytest.mark.parametrize("direction", list(SortDirection))
async def test_the_last_page_of_a_turn_has_a_cursor(store: ThreadStore, direction: SortDirection) -> None:
    thread_id = await stored(store, *turn("t0"), event("task_started", turn_id="t1"), message("1"))
    page = await item_page(store, thread_id, turn_id="t1", sort_direction=direction)

    await append(store, thread_id, message("2"))

    on = await item_page(store, thread_id, turn_id="t1", cursor=page.end_cursor)
    assert texts(list(on.items[-1:])) == ["2"]
    assert len(on.items) == (1 if direction is SortDirection.ASC else 3)


async def test_a_page_begins_after_an_ordinal(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"), message("2"))
    await update(store, thread_id, ThreadMetadataPatch(memory_mode=MemoryMode.DISABLED))
    await append(store, thread_id, message("3"), message("4"))
    items = (await item_page(store, thread_id)).items
    known = [item.ordinal for item in items]

    after = {ordinal: await item_page(store, thread_id, after=ordinal) for ordinal in known if ordinal is not None}

    assert None not in known
    assert {ordinal: page.items for ordinal, page in after.items()} == {
        item.ordinal: items[n:] for n, item in enumerate(items, start=1)
    }
    assert (await item_page(store, thread_id, after=10**9)).items == ()


async def test_a_page_begins_after_the_tasks_up_to_a_position(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))
    receipts = [await append(store, thread_id, message("2"), message("3"))]
    receipts.append(await update(store, thread_id, ThreadMetadataPatch(title="A title")))
    receipts.append(await append(store, thread_id, message("4")))

    after = [await shown(store, thread_id, after=receipt.position) for receipt in receipts]

    assert after == [["4"], ["4"], []]
    read = await item_page(store, thread_id)
    assert (await item_page(store, thread_id, after="0-0")).items == read.items
    assert await shown(store, thread_id, after=read.position) == []
