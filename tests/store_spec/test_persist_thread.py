from __future__ import annotations

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, read, texts

from livethread import (
    DiscardThreadParams,
    PersistThreadParams,
    ShutdownThreadParams,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)


async def test_a_thread_without_items_is_stored(store: ThreadStore) -> None:
    thread_id = await new_thread(store, cwd="/repo")

    await store.persist_thread(PersistThreadParams(thread_id=thread_id))

    await flush(store, thread_id)
    assert (await read(store, thread_id)).cwd == "/repo"
    assert await history(store, thread_id) == []


async def test_persisting_a_thread_again_does_nothing(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await store.persist_thread(PersistThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("one"))

    await store.persist_thread(PersistThreadParams(thread_id=thread_id))

    await append(store, thread_id, message("two"))
    assert texts(await history(store, thread_id)) == ["one", "two"]


async def test_a_persisted_thread_survives_its_discard(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await store.persist_thread(PersistThreadParams(thread_id=thread_id))
    await flush(store, thread_id)

    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

    assert (await read(store, thread_id)).thread_id == thread_id


async def test_a_thread_that_is_not_open_cannot_be_persisted(store: ThreadStore) -> None:
    shut_down = await new_thread(store)
    await store.shutdown_thread(ShutdownThreadParams(thread_id=shut_down))

    for thread_id in (new_thread_id(), shut_down):
        with pytest.raises(ThreadNotFound):
            await store.persist_thread(PersistThreadParams(thread_id=thread_id))
