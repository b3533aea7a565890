from __future__ import annotations

import pytest
from tests.nodes.items import append, history, message, new_thread, payload_of, payloads, said, texts, update
from tests.store_spec.kinds import EVERY_READER, MAX_ITEM_BYTES

from livethread import (
    InvalidRequest,
    LoadThreadHistoryParams,
    ShutdownThreadParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)

pytestmark = EVERY_READER


async def test_the_history_begins_with_session_meta_and_has_every_item_in_order(store: ThreadStore) -> None:
    thread_id = await new_thread(store, originator="a-product")
    await append(store, thread_id, said("one"), message("two"))
    await append(store, thread_id, message("three"))

    loaded = await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))

    first, *items = loaded.items
    assert loaded.thread_id == thread_id
    assert (first.type, first.ordinal) == ("session_meta", 0)
    assert (first.payload["id"], first.payload["originator"]) == (thread_id, "a-product")
    assert [(item.type, item.ordinal) for item in items] == [
        ("event_msg", 1),
        ("response_item", 2),
        ("response_item", 3),
    ]
    assert texts(items) == ["one", "two", "three"]


async def test_the_stores_own_lines_are_not_items(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await update(store, thread_id, ThreadMetadataPatch(title="A title", preview="A preview"))
    await append(store, thread_id, message("two"))

    loaded = await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))

    assert [item.type for item in loaded.items] == ["session_meta", "response_item", "response_item"]


async def test_a_read_sees_what_was_accepted_before_it(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    for n in range(10):
        await append(store, thread_id, message(f"{n}"))
        assert len(await history(store, thread_id)) == n + 1


async def test_a_history_of_megabytes_is_complete(store: ThreadStore) -> None:
    """Over Celery it needs more than one message."""
    thread_id = await new_thread(store)
    long = "Ω" * (MAX_ITEM_BYTES // 2 - 1000)
    for n in range(40):
        await append(store, thread_id, message(f"{n} {long}"))

    items = await history(store, thread_id)

    assert texts(items) == [f"{n} {long}" for n in range(40)]


async def test_values_come_back_exactly(store: ThreadStore) -> None:
    values = [2**80, -(2**63) - 1, 0.1, "🎉\u2028\x00", {"": None}]
    thread_id = await new_thread(store)
    await append(store, thread_id, *map(payload_of, values))

    assert [payload["value"] for payload in await payloads(store, thread_id)] == values


async def test_a_thread_that_is_not_open_can_be_read(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    assert texts(await history(store, thread_id)) == ["one"]


async def test_an_unknown_thread_has_no_history(store: ThreadStore) -> None:
    thread_id = new_thread_id()

    with pytest.raises(ThreadNotFound) as failure:
        await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))

    assert failure.value.thread_id == thread_id


async def test_an_id_that_is_not_a_uuid_is_refused(store: ThreadStore) -> None:
    with pytest.raises(InvalidRequest, match="a thread id is a UUID"):
        await store.load_history(LoadThreadHistoryParams(thread_id="*"))
