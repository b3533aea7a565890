from __future__ import annotations

from typing import Any

import pytest
from tests.nodes.items import message, read, said

from livethread import (
    CreateThreadParams,
    InvalidRequest,
    LiveThread,
    ResumeThreadParams,
    ThreadManager,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)

NAMED = ThreadMetadataPatch(name="A name")


@pytest.fixture
def manager(store: ThreadStore) -> ThreadManager:
    return ThreadManager(store)


async def a_thread(manager: ThreadManager, **params: Any) -> LiveThread:
    thread = await manager.create_thread(CreateThreadParams.model_validate(params))
    await thread.append_items([message("one")])
    return thread


async def test_a_created_thread_is_loaded_until_it_is_shut_down(manager: ThreadManager) -> None:
    thread = await a_thread(manager)
    while_open = manager.get(thread.thread_id), manager.loaded()

    await thread.shutdown()

    assert while_open == (thread, (thread,))
    assert (manager.get(thread.thread_id), manager.loaded()) == (None, ())


async def test_the_threads_of_a_strict_manager_are_strict(store: ThreadStore) -> None:
    manager = ThreadManager(store, strict=True)
    thread = await a_thread(manager)
    unknown = {"type": "from_the_future", "payload": {}}

    with pytest.raises(InvalidRequest, match="from_the_future"):
        await thread.append_items([unknown])

    await thread.shutdown()
    resumed = await manager.resume_thread(ResumeThreadParams(thread_id=thread.thread_id))
    with pytest.raises(InvalidRequest, match="from_the_future"):
        await resumed.append_items([unknown])


async def test_resuming_a_loaded_thread_returns_it(manager: ThreadManager) -> None:
    thread = await a_thread(manager)

    assert await manager.resume_thread(ResumeThreadParams(thread_id=thread.thread_id)) is thread


async def test_resuming_a_cold_thread_loads_it(manager: ThreadManager) -> None:
    thread = await a_thread(manager)
    await thread.shutdown()

    again = await manager.resume_thread(ResumeThreadParams(thread_id=thread.thread_id))

    assert again is not thread
    assert manager.get(thread.thread_id) is again


async def test_a_loaded_thread_is_patched_after_its_own_appends(manager: ThreadManager, store: ThreadStore) -> None:
    thread = await a_thread(manager)
    await thread.append_items([said("a fact")])
    await thread.append_items([{**message("later"), "timestamp": "2100-01-01T00:00:00.000Z"}])

    await manager.update_thread_metadata(thread.thread_id, NAMED)

    stored = await read(store, thread.thread_id)
    assert (stored.name, stored.updated_at.year) == ("A name", 2100)


async def test_a_cold_thread_is_patched_through_the_store(manager: ThreadManager, store: ThreadStore) -> None:
    thread = await a_thread(manager)
    await thread.shutdown()

    receipt = await manager.update_thread_metadata(thread.thread_id, NAMED)

    assert receipt.thread_id == thread.thread_id
    assert manager.loaded() == ()
    resumed = await manager.resume_thread(ResumeThreadParams(thread_id=thread.thread_id))
    assert (await resumed.read_thread()).name == "A name"


async def test_an_id_in_capitals_names_the_loaded_thread(manager: ThreadManager, store: ThreadStore) -> None:
    thread = await a_thread(manager)

    await manager.update_thread_metadata(thread.thread_id.upper(), NAMED)

    assert (await read(store, thread.thread_id)).name == "A name"


async def test_an_unknown_thread_cannot_be_patched(manager: ThreadManager) -> None:
    with pytest.raises(ThreadNotFound):
        await manager.update_thread_metadata(new_thread_id(), NAMED)
    with pytest.raises(InvalidRequest):
        await manager.update_thread_metadata("my-thread", NAMED)


async def test_shutting_down_flushes_and_closes_every_thread(manager: ThreadManager, store: ThreadStore) -> None:
    threads = [await a_thread(manager) for _ in range(3)]

    await manager.shutdown()

    assert [thread.is_open for thread in threads] == [False] * 3
    assert manager.loaded() == ()
    assert [(await read(store, thread.thread_id)).thread_id for thread in threads] == [t.thread_id for t in threads]


async def test_a_thread_that_fails_to_shut_down_stays_and_the_others_are_closed(
    manager: ThreadManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, other = await a_thread(manager), await a_thread(manager)

    async def fail() -> None:
        raise OSError

    monkeypatch.setattr(failing, "shutdown", fail)

    with pytest.RaisesGroup(OSError):
        await manager.shutdown()

    assert manager.loaded() == (failing,)
    assert not other.is_open
