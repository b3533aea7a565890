from __future__ import annotations

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, read, texts

from livethread import (
    DiscardThreadParams,
    ListThreadsParams,
    ResumeThreadParams,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)


async def test_a_thread_without_an_accepted_task_leaves_nothing(store: ThreadStore) -> None:
    cwd = f"/{new_thread_id()}"
    thread_id = await new_thread(store, cwd=cwd)

    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)
    with pytest.raises(ThreadNotFound):
        await append(store, thread_id, message("late"))
    assert (await store.list_threads(ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,)))).items == ()


async def test_discarding_a_thread_that_is_not_open_does_nothing(store: ThreadStore) -> None:
    open_id, discarded_id = await new_thread(store), await new_thread(store)
    await store.discard_thread(DiscardThreadParams(thread_id=discarded_id))

    await store.discard_thread(DiscardThreadParams(thread_id=discarded_id))
    await store.discard_thread(DiscardThreadParams(thread_id=new_thread_id()))

    with pytest.raises(ThreadNotFound):
        await append(store, discarded_id, message("late"))
    await append(store, open_id, message("one"))
    assert texts(await history(store, open_id)) == ["one"]


async def test_a_discard_keeps_what_was_stored(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await flush(store, thread_id)

    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

    assert texts(await history(store, thread_id)) == ["one"]


async def test_a_read_after_the_discard_sees_what_was_accepted_before(store: ThreadStore) -> None:
    """It need not be flushed: a read sees what its own store had accepted."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

    assert texts(await history(store, thread_id)) == ["one"]


async def test_another_handle_of_the_thread_stays_open(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

    await append(store, thread_id, message("two"))
    assert texts(await history(store, thread_id)) == ["one", "two"]
