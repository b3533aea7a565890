"""A read says which position it shows, and can demand one, or everything that was accepted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest
from tests.nodes.items import append, message, new_thread, read, said, update
from tests.store_spec.kinds import CELERY, EVERY_READER, FILES, LOCAL, MEMORY, QUEUED

from livethread import (
    ArchiveThreadParams,
    Conflict,
    DeleteThreadParams,
    FindThreadByNameParams,
    ListItemsParams,
    ListThreadsParams,
    ListTurnsParams,
    LoadThreadHistoryParams,
    Position,
    ReadThreadByRolloutPathParams,
    ReadThreadParams,
    ResumeThreadParams,
    SearchOccurrencesParams,
    SearchThreadsParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)
from livethread.position import START, position_key


class Shown(Protocol):
    @property
    def position(self) -> Position: ...


#: Every read of one thread.
READS: dict[str, Callable[..., Awaitable[Shown]]] = {
    "read_thread": lambda store, thread_id, **demand: store.read_thread(
        ReadThreadParams(thread_id=thread_id, include_history=True, **demand)
    ),
    "load_history": lambda store, thread_id, **demand: store.load_history(
        LoadThreadHistoryParams(thread_id=thread_id, **demand)
    ),
    "load_latest_model_context": lambda store, thread_id, **demand: store.load_latest_model_context(
        LoadThreadHistoryParams(thread_id=thread_id, **demand)
    ),
    "list_turns": lambda store, thread_id, **demand: store.list_turns(ListTurnsParams(thread_id=thread_id, **demand)),
    "list_items": lambda store, thread_id, **demand: store.list_items(ListItemsParams(thread_id=thread_id, **demand)),
    "search_occurrences": lambda store, thread_id, **demand: store.search_occurrences(
        SearchOccurrencesParams(thread_id=thread_id, search_term="one", **demand)
    ),
}
each_read = pytest.mark.parametrize("show", READS.values(), ids=READS)


def beyond(position: Position) -> Position:
    return f"{position_key(position)[0] + 1}-0"


@EVERY_READER
@each_read
async def test_a_read_shows_the_position_of_the_last_task(store: ThreadStore, show: Any) -> None:
    thread_id = await new_thread(store)
    first = await append(store, thread_id, said("one"))
    assert (await show(store, thread_id)).position == first.position

    last = await update(store, thread_id, ThreadMetadataPatch(name="a name"))

    assert position_key(last.position) > position_key(first.position)
    assert (await show(store, thread_id)).position == last.position


@EVERY_READER
@each_read
async def test_a_read_shows_the_position_that_it_must(store: ThreadStore, show: Any) -> None:
    thread_id = await new_thread(store)
    first = await append(store, thread_id, said("one"))
    last = await append(store, thread_id, said("two"))

    for demand in ({"at_least": first.position}, {"at_least": last.position}, {"fresh": True}):
        assert (await show(store, thread_id, **demand)).position == last.position


@EVERY_READER
@each_read
async def test_a_position_that_the_thread_never_had_is_refused(store: ThreadStore, show: Any) -> None:
    thread_id = await new_thread(store)
    last = (await append(store, thread_id, said("one"))).position
    await show(store, thread_id)

    with pytest.raises(Conflict, match=f"thread {thread_id} has no position") as failure:
        await show(store, thread_id, at_least=beyond(last))

    assert failure.value.last_position == last


@EVERY_READER
@each_read
async def test_an_unknown_thread_is_not_found_however_fresh_it_must_be(store: ThreadStore, show: Any) -> None:
    for demand in ({"at_least": "1-0"}, {"fresh": True}):
        with pytest.raises(ThreadNotFound):
            await show(store, new_thread_id(), **demand)


@EVERY_READER
async def test_the_thread_and_its_history_show_a_position(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    receipt = await append(store, thread_id, message("one"))

    thread = await store.read_thread(ReadThreadParams(thread_id=thread_id, include_history=True))

    assert thread.history is not None
    assert (thread.position, thread.history.position) == (receipt.position, receipt.position)


@EVERY_READER
async def test_a_resumed_thread_shows_the_position_after_which_to_append(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    thread = await store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    assert (await append(store, thread_id, message("two"), expected=thread.position)).position > thread.position


@EVERY_READER
async def test_a_thread_read_by_its_path_shows_a_position(store: ThreadStore, kind: str) -> None:
    thread_id = await new_thread(store)
    position = (await append(store, thread_id, message("one"))).position
    path = str((await read(store, thread_id)).rollout_path)
    if kind == MEMORY:
        path = f"rollout-2026-11-22T12-00-00-{thread_id}.jsonl"

    for demand in ({}, {"fresh": True}, {"at_least": position}):
        params = ReadThreadByRolloutPathParams.model_validate({"rollout_path": path, **demand})
        assert (await store.read_thread_by_rollout_path(params)).position == position
    with pytest.raises(Conflict, match="has no position"):
        await store.read_thread_by_rollout_path(
            ReadThreadByRolloutPathParams(rollout_path=path, at_least=beyond(position))
        )


@EVERY_READER
async def test_fresh_listings_show_what_was_accepted(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    name = f"name of {thread_id}"
    await append(store, thread_id, said(f"zebra {thread_id}"))
    position = (await update(store, thread_id, ThreadMetadataPatch(name=name, preview="here"))).position

    listed = (await store.list_threads(ListThreadsParams(page_size=1000, fresh=True))).items
    found = (await store.search_threads(SearchThreadsParams(search_term=f'"{thread_id}"', fresh=True))).items
    named = await store.find_thread_by_name(FindThreadByNameParams(name=name, fresh=True))

    assert [thread.position for thread in listed if thread.thread_id == thread_id] == [position]
    assert [(result.thread.thread_id, result.thread.position) for result in found] == [(thread_id, position)]
    assert (named.thread_id, named.position) == (thread_id, position)


@EVERY_READER
async def test_a_fresh_listing_lacks_a_thread_whose_deletion_was_accepted(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, said("one"))
    await store.delete_thread(DeleteThreadParams(thread_id=thread_id))

    listed = (await store.list_threads(ListThreadsParams(page_size=1000, fresh=True))).items

    assert thread_id not in {thread.thread_id for thread in listed}
    with pytest.raises(ThreadNotFound):
        await store.read_thread(ReadThreadParams(thread_id=thread_id, fresh=True))


@pytest.mark.parametrize("kind", [FILES])
async def test_a_store_without_an_index_does_not_know_the_positions_of_others(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await new_thread(store)
    position = (await append(store, thread_id, said("one"))).position

    assert (await read(second_store, thread_id)).position == START
    with pytest.raises(Conflict, match="not known"):
        await second_store.read_thread(ReadThreadParams(thread_id=thread_id, at_least=position))


@pytest.mark.parametrize("kind", [LOCAL, QUEUED, CELERY])
async def test_a_fresh_read_shows_what_another_store_had_accepted(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await new_thread(store)
    for n in range(10):
        position = (await append(store, thread_id, said(f"{n}"))).position
        demand = ReadThreadParams(thread_id=thread_id, **({"fresh": True} if n % 2 else {"at_least": position}))
        assert (await second_store.read_thread(demand)).position == position
    archived = await store.archive_thread(ArchiveThreadParams(thread_id=thread_id))

    page = await second_store.list_threads(
        ListThreadsParams(page_size=1000, archived=True, include_without_preview=True, fresh=True)
    )

    assert [each.position for each in page.items if each.thread_id == thread_id] == [archived.position]
