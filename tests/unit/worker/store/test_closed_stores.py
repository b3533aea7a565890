"""Stores without Redis, after their end; the queued one has `test_opener`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.nodes.items import append, message, new_thread

from livethread import (
    CreateThreadParams,
    InMemoryThreadStore,
    ListThreadsParams,
    LiveThread,
    Settings,
    Unavailable,
    WatchThreadParams,
)
from livethread_worker.store import LocalThreadStore

MakeStore = Callable[[Settings], InMemoryThreadStore | LocalThreadStore]


@pytest.mark.parametrize(
    "make",
    [lambda _: InMemoryThreadStore(), LocalThreadStore, lambda settings: LocalThreadStore(settings, index=None)],
)
async def test_a_closed_store_refuses_calls(make: MakeStore, tmp_path: Path) -> None:
    async with make(Settings(home=tmp_path / "home")) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        thread_id = await new_thread(store)
        watch = store.watch_thread(WatchThreadParams(thread_id=thread_id))

    closed = pytest.raises(Unavailable, match="the store was closed")
    with closed:
        await append(store, thread_id, message("late"))
    with closed:
        await LiveThread.create(store, CreateThreadParams())
    with closed:
        await store.list_threads(ListThreadsParams())
    with closed:
        await thread.flush()
    with closed:
        await anext(watch)


async def test_a_local_store_can_be_closed_twice(tmp_path: Path) -> None:
    async with LocalThreadStore(Settings(home=tmp_path / "home")) as store:
        await store.aclose()


async def test_the_representation_of_a_store_in_memory_shows_no_items() -> None:
    async with InMemoryThreadStore() as store:
        await append(store, await new_thread(store), message("a secret"))

    assert repr(store) == "InMemoryThreadStore(max_item_bytes=4194304)"
