from __future__ import annotations

import pytest
from tests.nodes.items import append, history, message, new_thread, read, texts, update

from livethread import ShutdownThreadParams, ThreadMetadataPatch, ThreadNotFound, ThreadStore, new_thread_id


async def test_a_shutdown_stores_what_was_accepted_and_refuses_more(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await update(store, thread_id, ThreadMetadataPatch(name="A name"))

    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    with pytest.raises(ThreadNotFound):
        await append(store, thread_id, message("late"))
    assert texts(await history(store, thread_id)) == ["one"]
    assert (await read(store, thread_id)).name == "A name"


async def test_a_thread_without_items_leaves_nothing(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


async def test_a_thread_that_is_not_open_cannot_be_shut_down(store: ThreadStore) -> None:
    shut_down = await new_thread(store)
    await store.shutdown_thread(ShutdownThreadParams(thread_id=shut_down))

    for thread_id in (new_thread_id(), shut_down):
        with pytest.raises(ThreadNotFound):
            await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))


async def test_a_thread_that_was_shut_down_can_still_be_renamed(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    await update(store, thread_id, ThreadMetadataPatch(name="Renamed"))

    assert (await read(store, thread_id)).name == "Renamed"
    assert texts(await history(store, thread_id)) == ["one"]
