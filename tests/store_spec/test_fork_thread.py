"""A fork continues another thread from its end or from a turn: it shares a paginated thread's lines, and copies others'."""

from __future__ import annotations

from typing import Any

import pytest
from tests.codex.conversation import Turn
from tests.nodes.items import read
from tests.store_spec.kinds import EVERY_READER, SHARED
from tests.store_spec.operations import a_word, delete
from tests.store_spec.turns import turns_of

from livethread import (
    Conflict,
    CreateThreadParams,
    HistoryPosition,
    InitializationMode,
    InvalidRequest,
    ListThreadsParams,
    LiveThread,
    LoadThreadHistoryParams,
    PrepareForkParams,
    ResumeThreadParams,
    SearchThreadsParams,
    ThreadInitialized,
    ThreadManager,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)

T1, T2, T3, OWN = (Turn(f"t{n}", f"question {n}", f"answer {n}") for n in range(1, 5))

#: Threads that share their lines with forks, and threads whose lines are copied.
BOTH = pytest.mark.parametrize("history_mode", ["paginated", None])


@pytest.fixture
def manager(store: ThreadStore) -> ThreadManager:
    return ThreadManager(store)


async def say(thread: LiveThread, *turns: Turn) -> None:
    is_paginated = (await thread.read_thread()).history_mode == "paginated"
    for turn in turns:
        await thread.append_items(list(turn.paginated_items(thread.thread_id) if is_paginated else turn.items()))


async def begin(manager: ThreadManager, *turns: Turn, history_mode: str | None, **params: Any) -> LiveThread:
    """Return a thread of three turns, which was not flushed."""
    created = CreateThreadParams.model_validate({"history_mode": history_mode, **params})
    thread = await manager.create_thread(created)
    await thread.persist()
    await say(thread, *(turns or (T1, T2, T3)))
    return thread


async def turn_ids(store: ThreadStore, thread_id: str) -> list[str]:
    return [turn.turn_id for turn in await turns_of(store, thread_id)]


async def said(store: ThreadStore, thread_id: str) -> list[str]:
    """Return the messages that the model sees."""
    items = (await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))).items
    assert [item.type for item in items].count("session_meta") == 1
    assert (items[0].type, items[0].payload["id"]) == ("session_meta", thread_id)
    return [item.payload["content"][0]["text"] for item in items if item.type == "response_item"]


def texts(*turns: Turn) -> list[str]:
    return [text for turn in turns for text in (turn.question, turn.answer)]


@BOTH
@EVERY_READER
async def test_a_fork_goes_on_without_its_source(
    manager: ThreadManager, store: ThreadStore, history_mode: str | None
) -> None:
    source = await begin(manager, history_mode=history_mode, cwd="/repo", model_provider="own", originator="me")
    facts = await source.read_thread()

    fork = await manager.fork_thread(source.thread_id)
    await say(source, Turn("not-in-the-fork", "q", "a"))
    await say(fork, OWN)

    assert await turn_ids(store, fork.thread_id) == ["t1", "t2", "t3", "t4"]
    assert await said(store, fork.thread_id) == texts(T1, T2, T3, OWN)
    assert await said(store, source.thread_id) == [*texts(T1, T2, T3), "q", "a"]
    forked = await fork.read_thread()
    assert (forked.forked_from_id, forked.history_mode) == (source.thread_id, facts.history_mode)
    assert (forked.title, forked.preview, forked.first_user_message) == (T1.question,) * 3
    assert (forked.cwd, forked.model_provider, forked.originator) == ("/repo", "own", "me")
    assert (forked.source, forked.session_id) == (facts.source, fork.thread_id)
    assert forked.created_at > facts.created_at
    assert manager.get(fork.thread_id) is fork


@BOTH
@pytest.mark.parametrize(
    ("boundary", "expected"),
    [
        ({"before_turn_id": "t1"}, ()),
        ({"before_turn_id": "t3"}, (T1, T2)),
        ({"through_turn_id": "t1"}, (T1,)),
        ({"through_turn_id": "t3"}, (T1, T2, T3)),
    ],
)
async def test_a_fork_begins_before_or_after_a_turn(
    manager: ThreadManager,
    store: ThreadStore,
    history_mode: str | None,
    boundary: dict[str, str],
    expected: tuple[Turn, ...],
) -> None:
    source = await begin(manager, history_mode=history_mode)

    fork = await manager.fork_thread(source.thread_id, None, **boundary)
    await say(fork, OWN)

    assert await turn_ids(store, fork.thread_id) == [turn.turn_id for turn in (*expected, OWN)]
    assert await said(store, fork.thread_id) == texts(*expected, OWN)
    assert (await read(store, fork.thread_id)).title == (*expected, OWN)[0].question


@BOTH
@SHARED
async def test_a_fork_has_what_other_stores_had_accepted(
    manager: ThreadManager, store: ThreadStore, second_store: ThreadStore, history_mode: str | None
) -> None:
    source = await begin(manager, T1, history_mode=history_mode)
    await source.flush()
    other = await LiveThread.resume(second_store, ResumeThreadParams(thread_id=source.thread_id))
    await say(other, T2, T3)

    fork = await manager.fork_thread(source.thread_id)

    assert await said(store, fork.thread_id) == texts(T1, T2, T3)
    assert await said(second_store, fork.thread_id) == texts(T1, T2, T3)


@BOTH
async def test_a_fork_can_be_forked(manager: ThreadManager, store: ThreadStore, history_mode: str | None) -> None:
    source = await begin(manager, T1, T2, history_mode=history_mode)
    first = await manager.fork_thread(source.thread_id)
    await say(first, T3)

    forks = [
        await manager.fork_thread(first.thread_id),
        await manager.fork_thread(first.thread_id, before_turn_id="t3"),
        await manager.fork_thread(first.thread_id, through_turn_id="t1"),
        await manager.fork_thread(first.thread_id, before_turn_id="t1"),
    ]

    assert [await said(store, fork.thread_id) for fork in forks] == [
        texts(T1, T2, T3),
        texts(T1, T2),
        texts(T1),
        [],
    ]
    assert {(await read(store, fork.thread_id)).forked_from_id for fork in forks} == {first.thread_id}


@BOTH
async def test_a_fork_is_listed_and_found(
    manager: ThreadManager, store: ThreadStore, history_mode: str | None
) -> None:
    word = a_word()
    source = await begin(manager, Turn("t1", word, "yes"), history_mode=history_mode)
    await source.update_metadata(ThreadMetadataPatch(name=f"Named {word}"))
    fork = await manager.fork_thread(source.thread_id)

    page = await store.list_threads(ListThreadsParams(search_term=word))
    found = await store.search_threads(SearchThreadsParams(search_term=word))

    wanted = {(source.thread_id, word, f"Named {word}"), (fork.thread_id, word, f"Named {word}")}
    assert {(thread.thread_id, thread.preview, thread.name) for thread in page.items} == wanted
    assert {hit.thread.thread_id for hit in found.items} == {source.thread_id, fork.thread_id}


async def test_a_thread_that_a_fork_shares_lines_with_is_not_deleted_before_it(
    manager: ThreadManager, store: ThreadStore
) -> None:
    source = await begin(manager, history_mode="paginated")
    fork = await manager.fork_thread(source.thread_id)
    await source.shutdown()

    with pytest.raises(Conflict, match=f"thread {fork.thread_id} was forked from it"):
        await delete(store, source.thread_id)
    await fork.shutdown()
    assert await said(store, fork.thread_id) == texts(T1, T2, T3)

    await delete(store, fork.thread_id)
    with pytest.raises(ThreadNotFound):
        await read(store, fork.thread_id)
    await delete(store, source.thread_id)


async def test_a_thread_whose_lines_were_copied_can_be_deleted(manager: ThreadManager, store: ThreadStore) -> None:
    source = await begin(manager, history_mode=None)
    fork = await manager.fork_thread(source.thread_id)
    await source.shutdown()

    await delete(store, source.thread_id)

    assert await said(store, fork.thread_id) == texts(T1, T2, T3)


@BOTH
@EVERY_READER
async def test_a_fork_at_a_turn_that_is_missing_or_goes_on_is_refused(
    manager: ThreadManager, history_mode: str | None
) -> None:
    source = await begin(manager, T1, history_mode=history_mode)
    await source.append_items([{"type": "event_msg", "payload": {"type": "task_started", "turn_id": "open"}}])
    loaded = manager.loaded()

    for boundary in ({"before_turn_id": "no"}, {"through_turn_id": "no"}):
        with pytest.raises(InvalidRequest, match="has no turn no"):
            await manager.fork_thread(source.thread_id, None, **boundary)
    with pytest.raises(InvalidRequest, match="turn open has not ended"):
        await manager.fork_thread(source.thread_id, through_turn_id="open")
    with pytest.raises(InvalidRequest, match="exclude each other"):
        await manager.fork_thread(source.thread_id, before_turn_id="t1", through_turn_id="t1")
    with pytest.raises(InvalidRequest, match="through_turn_id"):
        await manager.fork_thread(source.thread_id, through_turn_id="")
    with pytest.raises(ThreadNotFound):
        await manager.fork_thread(new_thread_id())

    assert manager.loaded() == loaded


@BOTH
async def test_a_fork_is_told_apart_from_a_new_thread(
    manager: ThreadManager, store: ThreadStore, history_mode: str | None
) -> None:
    source = await begin(manager, history_mode=history_mode)
    started: list[ThreadInitialized] = []
    store.observers.subscribe(lambda event: started.append(event) if isinstance(event, ThreadInitialized) else None)
    created: list[LiveThread] = []
    manager.subscribe_thread_created(created.append)

    fork = await manager.fork_thread(source.thread_id, CreateThreadParams(thread_source="user", cwd="/other"))

    [event] = started
    assert (event.thread_id, event.mode) == (fork.thread_id, InitializationMode.FORKED)
    assert (event.forked_from_id, event.thread_source) == (source.thread_id, "user")
    assert created == [fork]
    assert (await fork.read_thread()).cwd == "/other"


async def test_preparing_a_fork_stores_nothing(manager: ThreadManager, store: ThreadStore) -> None:
    source = await begin(manager, history_mode="paginated")

    prepared = await store.prepare_fork(PrepareForkParams(thread_id=source.thread_id))

    assert (prepared.thread_id, prepared.is_shared) == (source.thread_id, True)
    assert prepared.history_base is not None
    with pytest.raises(ThreadNotFound):
        await read(store, prepared.fork_id)


async def test_only_a_paginated_fork_shares_lines() -> None:
    base = HistoryPosition(thread_id=new_thread_id(), end_ordinal_exclusive=3, end_byte_offset=10)

    with pytest.raises(InvalidRequest, match="history_mode"):
        CreateThreadParams(history_base=base, forked_from_id=base.thread_id)
    with pytest.raises(InvalidRequest, match="forked_from_id"):
        CreateThreadParams(history_base=base, history_mode="paginated")
