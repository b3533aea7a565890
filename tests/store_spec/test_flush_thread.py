from __future__ import annotations

import json

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, read, texts, update
from tests.store_spec.conftest import OpenStore
from tests.store_spec.kinds import SHARED

from livethread import (
    FlushThreadParams,
    InvalidRequest,
    ListThreadsParams,
    ShutdownThreadParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)


async def test_a_flush_stores_and_lists_what_was_accepted(store: ThreadStore) -> None:
    cwd = f"/{new_thread_id()}"
    thread_id = await new_thread(store, cwd=cwd)
    for n in range(5):
        await append(store, thread_id, message(f"{n}"))
    await update(store, thread_id, ThreadMetadataPatch(name="A name"))

    await flush(store, thread_id)

    [listed] = (await store.list_threads(ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,)))).items
    assert (listed.thread_id, listed.name) == (thread_id, "A name")
    assert texts(await history(store, thread_id)) == [f"{n}" for n in range(5)]


@SHARED
async def test_flushed_items_are_in_the_rollout_and_visible_to_another_store(
    store: ThreadStore, open_another: OpenStore
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"), message("two"))

    await flush(store, thread_id)

    other = await open_another()
    path = (await read(other, thread_id)).rollout_path
    assert path is not None
    meta, *lines = (json.loads(line) for line in path.read_bytes().splitlines())
    assert (meta["type"], meta["payload"]["id"]) == ("session_meta", thread_id)
    assert [line["payload"] for line in lines] == [message("one")["payload"], message("two")["payload"]]
    assert texts(await history(other, thread_id)) == ["one", "two"]


async def test_flushing_a_thread_without_items_stores_nothing(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    await flush(store, thread_id)

    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


async def test_flushing_again_changes_nothing(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    await flush(store, thread_id)
    await flush(store, thread_id)

    assert texts(await history(store, thread_id)) == ["one"]


async def test_a_thread_that_is_not_open_cannot_be_flushed(store: ThreadStore) -> None:
    shut_down = await new_thread(store)
    await append(store, shut_down, message("one"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=shut_down))

    for thread_id in (new_thread_id(), shut_down):
        with pytest.raises(ThreadNotFound):
            await flush(store, thread_id)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_an_invalid_timeout_is_refused(timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s"):
        FlushThreadParams(thread_id=new_thread_id(), timeout_s=timeout_s)
