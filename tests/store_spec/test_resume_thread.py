from __future__ import annotations

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, read, texts, update
from tests.store_spec.kinds import SHARED

from livethread import (
    InvalidRequest,
    ResumeThreadParams,
    ShutdownThreadParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)


async def test_an_unknown_thread_cannot_be_resumed(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await store.resume_thread(ResumeThreadParams(thread_id=new_thread_id()))


async def test_a_thread_that_is_not_stored_yet_cannot_be_resumed(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    with pytest.raises(ThreadNotFound):
        await store.resume_thread(ResumeThreadParams(thread_id=thread_id))


async def test_resuming_returns_the_stored_thread(store: ThreadStore) -> None:
    thread_id = await new_thread(store, cwd="/repo")
    await append(store, thread_id, message("one"))
    await update(store, thread_id, ThreadMetadataPatch(name="A name"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    resumed = await store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    assert (resumed.name, resumed.cwd) == ("A name", "/repo")
    assert resumed == await read(store, thread_id)


async def test_a_resumed_thread_goes_on_after_its_last_item(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"), message("two"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("three"))

    assert texts(await history(store, thread_id)) == ["one", "two", "three"]


async def test_an_open_thread_can_be_opened_again_and_closes_with_its_last_handle(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("two"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    with pytest.raises(ThreadNotFound):
        await append(store, thread_id, message("three"))
    assert texts(await history(store, thread_id)) == ["one", "two"]


@SHARED
async def test_another_writer_resumes_after_the_accepted_tasks_of_the_first(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    """Without a flush: accepted tasks have their positions, and the second writer's come after them."""
    thread_id = await new_thread(store)
    for text in ("one", "two", "three"):
        await append(store, thread_id, message(text))
    await update(store, thread_id, ThreadMetadataPatch(name="A name"))

    resumed = await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(second_store, thread_id, message("four"))

    assert resumed.name == "A name"
    assert texts(await history(second_store, thread_id)) == ["one", "two", "three", "four"]


@SHARED
async def test_two_writers_of_one_thread_can_alternate(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("a0"))
    await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    receipts = [
        await append(writer, thread_id, message(f"{name}{number}"))
        for number in range(1, 6)
        for name, writer in (("a", store), ("b", second_store))
    ]

    await flush(store, thread_id)
    await flush(second_store, thread_id)
    expected = ["a0", *(f"{name}{number}" for number in range(1, 6) for name in "ab")]
    assert texts(await history(store, thread_id)) == expected
    positions = [tuple(map(int, receipt.position.split("-"))) for receipt in receipts]
    assert positions == sorted(set(positions))


def test_an_id_that_is_not_a_uuid_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="a thread id is a UUID"):
        ResumeThreadParams(thread_id="my-thread")
