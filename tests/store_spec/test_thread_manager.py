from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.nodes.items import message, read, said

from livethread import (
    ArchiveThreadParams,
    CreateThreadParams,
    GitInfo,
    InvalidRequest,
    LiveThread,
    ResumeThreadParams,
    ThreadManager,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadShutdownReport,
    ThreadStore,
    Unavailable,
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


# -- sub-agents --------------------------------------------------------------------------------------------


async def test_a_sub_agent_has_its_parents_settings(manager: ThreadManager, store: ThreadStore) -> None:
    parent = await a_thread(
        manager,
        session_id=new_thread_id(),
        cwd="/repo",
        model_provider="own",
        originator="me",
        git=GitInfo(branch="b"),
    )
    facts = await parent.read_thread()

    child = await manager.spawn_subagent(
        parent.thread_id, CreateThreadParams(agent_nickname="Nick", agent_role="reviewer", model_provider="another")
    )
    grandchild_of = child.thread_id
    await child.append_items([message("one")])
    grandchild = await manager.spawn_subagent(grandchild_of)
    await grandchild.append_items([message("two")])

    spawned, below = await child.read_thread(), await grandchild.read_thread()
    assert (spawned.parent_thread_id, below.parent_thread_id) == (parent.thread_id, child.thread_id)
    assert spawned.session_id == below.session_id == facts.session_id
    assert (spawned.cwd, spawned.originator, spawned.git_info) == ("/repo", "me", facts.git_info)
    assert (spawned.model_provider, spawned.agent_nickname, spawned.agent_role) == ("another", "Nick", "reviewer")
    assert (spawned.thread_source, below.thread_source) == ("subagent", "subagent")
    assert spawned.source == {
        "subagent": {
            "thread_spawn": {
                "parent_thread_id": parent.thread_id,
                "depth": 1,
                "agent_path": None,
                "agent_nickname": "Nick",
                "agent_role": "reviewer",
            }
        }
    }
    assert isinstance(below.source, dict)
    assert below.source["subagent"]["thread_spawn"]["depth"] == 2
    assert manager.get(child.thread_id) is child


async def test_a_sub_agent_of_an_unknown_thread_is_refused(manager: ThreadManager) -> None:
    with pytest.raises(ThreadNotFound):
        await manager.spawn_subagent(new_thread_id())
    assert manager.loaded() == ()


async def test_a_subtree_holds_archived_cold_and_unstored_threads(manager: ThreadManager, store: ThreadStore) -> None:
    root, other = await a_thread(manager), await a_thread(manager)
    first = await manager.spawn_subagent(root.thread_id)
    await first.append_items([message("one")])
    below = await manager.spawn_subagent(first.thread_id)
    await below.append_items([message("two")])
    for thread in (root, first, below):
        await thread.flush()
    await store.archive_thread(ArchiveThreadParams(thread_id=first.thread_id))
    await first.read_thread()
    await below.shutdown()
    unstored = await manager.spawn_subagent(root.thread_id)

    found = await manager.list_agent_subtree_thread_ids(root.thread_id)

    assert (found[0], found[-1]) == (root.thread_id, unstored.thread_id)
    assert sorted(found[1:-1]) == sorted([first.thread_id, below.thread_id])  # both may be from one millisecond
    assert await manager.list_agent_subtree_thread_ids(first.thread_id) == [first.thread_id, below.thread_id]
    assert await manager.list_agent_subtree_thread_ids(other.thread_id) == [other.thread_id]


# -- created threads ---------------------------------------------------------------------------------------


async def test_subscribers_see_each_thread_that_is_created_or_spawned(
    manager: ThreadManager, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[LiveThread] = []

    def fail(thread: LiveThread) -> None:
        raise RuntimeError(thread.thread_id)

    manager.subscribe_thread_created(fail)
    end = manager.subscribe_thread_created(seen.append)
    with caplog.at_level(logging.ERROR):
        created = await a_thread(manager)
        spawned = await manager.spawn_subagent(created.thread_id)
    await created.shutdown()
    await manager.resume_thread(ResumeThreadParams(thread_id=created.thread_id))
    end()
    await a_thread(manager)

    assert seen == [created, spawned]
    assert f"an observer of created threads failed at thread {spawned.thread_id}" in caplog.text


async def test_a_removed_thread_is_no_longer_loaded_and_stays_open(manager: ThreadManager) -> None:
    thread = await a_thread(manager)

    assert manager.remove_thread(thread.thread_id) is thread
    assert (manager.get(thread.thread_id), manager.remove_thread(thread.thread_id)) == (None, None)
    await thread.append_items([message("two")])
    await thread.shutdown()


# -- bounded shutdown --------------------------------------------------------------------------------------


async def test_a_bounded_shutdown_reports_each_thread(
    manager: ThreadManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = [await a_thread(manager) for _ in range(4)]
    failing, hanging, *others = threads
    error = Unavailable("Redis is away")

    async def fail(_: float) -> None:
        raise error

    async def hang(_: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(failing, "shutdown", fail)
    monkeypatch.setattr(hanging, "shutdown", hang)
    report = await manager.shutdown_all_threads_bounded(0.5)
    monkeypatch.undo()
    again = await manager.shutdown_all_threads_bounded(20)

    completed = tuple(sorted(thread.thread_id for thread in others))
    assert report == ThreadShutdownReport(completed, {failing.thread_id: error}, (hanging.thread_id,))
    assert again == ThreadShutdownReport(tuple(sorted([failing.thread_id, hanging.thread_id])))
    assert [thread.is_open for thread in threads] == [False] * 4
