from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from tests.unit.client.web.conftest import Queue, written
from tests.unit.client.web.items import call, event, output, turn

from livethread import (
    AppendThreadItemsParams,
    DeleteThreadParams,
    InMemoryThreadStore,
    ListItemsParams,
    ResumeThreadParams,
    RolloutItem,
    ShutdownThreadParams,
    Unavailable,
    watching,
)
from livethread.web import live
from livethread.web.live import GONE, RELOAD, end_of, follow
from livethread.web.transcript import Transcript


async def append(store: InMemoryThreadStore, thread_id: str, *items: RolloutItem) -> None:
    await store.append_items(AppendThreadItemsParams(thread_id=thread_id, items=items))


@pytest.fixture
async def thread_id(store: InMemoryThreadStore) -> str:
    thread_id = await written(
        store, *turn("t1", "one"), *turn("t2", "two", call("c", "shell", command="make"), ms=None)
    )
    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    return thread_id


async def elements(events: AsyncIterator[str]) -> list[list[str]]:
    """Return the elements of the next event that has any."""
    async for found in events:
        if found.startswith("id: "):
            data: list[list[str]] = json.loads(found.partition("\ndata: ")[2])
            return data
    raise AssertionError("the stream ended")


async def test_a_call_is_replaced_when_its_output_comes(
    store: InMemoryThreadStore, queue: Queue, thread_id: str
) -> None:
    events = follow(Transcript(store, queue, thread_id), await end_of(store, thread_id))
    await append(store, thread_id, event("agent_message", message="Done."))
    first = await elements(events)
    await append(store, thread_id, output("c", "ok"))

    second = await elements(events)

    # A new connection sends whole turns, since the page may have missed any of it; then only what changes.
    assert [(name, parent) for name, parent, _ in first] == [
        ("p-t1", "prompts"),
        ("t-t1", "turns"),
        ("p-t2", "prompts"),
        ("t-t2", "turns"),
    ]
    assert [(name, parent) for name, parent, _ in second] == [("b-t2-2", "blocks-t2")]
    assert "ok" in second[0][2]


async def test_a_new_turn_and_the_end_of_the_one_before_arrive(
    store: InMemoryThreadStore, queue: Queue, thread_id: str
) -> None:
    queue.open_threads.add(thread_id)
    events = follow(Transcript(store, queue, thread_id), await end_of(store, thread_id))
    await append(store, thread_id, event("agent_message", message="Done."))
    await elements(events)
    await append(store, thread_id, event("task_complete", turn_id="t2", duration_ms=1_000), *turn("t3", "three"))

    found = {name: html for name, _, html in await elements(events)}

    assert list(found) == ["head-t2", "p-t3", "t-t3"]
    assert "1.0 s" in found["head-t2"]


async def test_a_stream_goes_on_from_the_place_of_its_last_event(
    store: InMemoryThreadStore, queue: Queue, thread_id: str
) -> None:
    transcript = Transcript(store, queue, thread_id)
    events = follow(transcript, await end_of(store, thread_id))
    await append(store, thread_id, event("agent_message", message="first"))
    while not (last := await anext(events)).startswith("id: "):
        pass
    await events.aclose()
    await append(store, thread_id, event("agent_message", message="second"))

    again = await elements(follow(transcript, last.partition("\n")[0].removeprefix("id: ")))

    assert "second" in again[-1][2]


async def test_a_turn_whose_agent_is_gone_is_interrupted(
    store: InMemoryThreadStore, queue: Queue, thread_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "INTERVAL", 0)
    queue.open_threads.add(thread_id)
    events = follow(Transcript(store, queue, thread_id), await end_of(store, thread_id))
    assert "in progress" in (await elements(events))[-1][2]
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))
    queue.open_threads.clear()

    ((name, _, html),) = await elements(events)

    assert (name, "interrupted" in html) == ("head-t2", True)


async def test_a_stream_ends_with_its_server(store: InMemoryThreadStore, queue: Queue, thread_id: str) -> None:
    place = await end_of(store, thread_id)
    answers = iter([False, True])

    assert [event async for event in follow(Transcript(store, queue, thread_id), place, lambda: next(answers))]


async def test_a_rollback_reloads_the_page(store: InMemoryThreadStore, queue: Queue, thread_id: str) -> None:
    events = follow(Transcript(store, queue, thread_id), await end_of(store, thread_id))
    await append(store, thread_id, event("thread_rolled_back", num_turns=1))

    assert [found async for found in events][-1] == RELOAD


async def test_a_place_that_is_no_more_reloads_the_page(
    store: InMemoryThreadStore, queue: Queue, thread_id: str
) -> None:
    assert [found async for found in follow(Transcript(store, queue, thread_id), "gone")][-1] == RELOAD


async def test_a_page_that_missed_much_is_reloaded(
    store: InMemoryThreadStore, queue: Queue, thread_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await store.list_items(ListItemsParams(thread_id=thread_id, page_size=1))
    monkeypatch.setattr(watching, "PAGE", 2)
    reads, list_items = [], store.list_items

    async def count(params: ListItemsParams) -> object:
        reads.append(params)
        return await list_items(params)

    monkeypatch.setattr(store, "list_items", count)

    assert [found async for found in follow(Transcript(store, queue, thread_id), first.end_cursor)][-1] == RELOAD
    assert len(reads) == 1


async def test_a_deleted_thread_ends_its_stream(store: InMemoryThreadStore, queue: Queue, thread_id: str) -> None:
    place = await end_of(store, thread_id)
    await store.delete_thread(DeleteThreadParams(thread_id=thread_id))

    assert [found async for found in follow(Transcript(store, queue, thread_id), place)][-1] == GONE


@pytest.mark.parametrize("operation", ["list_items", "list_turns"])
async def test_a_stream_waits_while_the_store_does_not_answer(
    store: InMemoryThreadStore, queue: Queue, thread_id: str, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setattr(live, "INTERVAL", 0)
    answers, read = iter([Unavailable("Redis is away")] * 3), getattr(store, operation)

    async def fail_first(params: object) -> object:
        if error := next(answers, None):
            raise error
        return await read(params)

    place = await end_of(store, thread_id)
    await append(store, thread_id, event("agent_message", message="Done."))
    monkeypatch.setattr(store, operation, fail_first)

    assert "Done." in (await elements(follow(Transcript(store, queue, thread_id), place)))[-1][2]
