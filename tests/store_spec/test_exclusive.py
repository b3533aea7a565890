"""An exclusive opening fences older writers in other stores, but not writers that open the thread later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, read, said, texts, update
from tests.store_spec.conftest import OpenStore
from tests.store_spec.kinds import LOCAL, QUEUED
from tests.store_spec.operations import archive, delete, unarchive

from livethread import (
    Conflict,
    CreateThreadParams,
    LiveThread,
    PersistThreadParams,
    ResumeThreadParams,
    ShutdownThreadParams,
    ThreadManager,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)
from livethread.model import format_time, utc_now

#: For tests of fences: stores that can share a home and its epochs.
FENCED = pytest.mark.parametrize("kind", [LOCAL, QUEUED])

TAKEN_OVER = "a newer exclusive writer took over thread"


async def resume(store: ThreadStore, thread_id: str, *, exclusive: bool = False) -> None:
    await store.resume_thread(ResumeThreadParams(thread_id=thread_id, exclusive=exclusive))


async def taken_over(store: ThreadStore, second_store: ThreadStore) -> str:
    """Return a thread that *store* has open, and *second_store* has since opened exclusively."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("before"))
    await resume(second_store, thread_id, exclusive=True)
    return thread_id


CHANGES: dict[str, Callable[[ThreadStore, str], Awaitable[Any]]] = {
    "an append": lambda store, thread_id: append(store, thread_id, message("fenced")),
    "an append with an idempotency key": lambda store, thread_id: append(
        store, thread_id, message("fenced"), key="k"
    ),
    "a patch": lambda store, thread_id: update(store, thread_id, ThreadMetadataPatch(name="fenced")),
    "an archiving": archive,
    "an unarchiving": unarchive,
    "a deletion": delete,
}


# -- the exclusive writer ----------------------------------------------------------------------------------


async def test_a_thread_that_is_open_exclusively_is_written_like_any_other(store: ThreadStore) -> None:
    thread_id = await new_thread(store, exclusive=True)
    await append(store, thread_id, message("one"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    await resume(store, thread_id, exclusive=True)
    await append(store, thread_id, message("two"))
    await update(store, thread_id, ThreadMetadataPatch(name="A name"))

    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["one", "two"]
    assert (await read(store, thread_id)).name == "A name"


async def test_handles_in_one_store_share_a_writer(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    await resume(store, thread_id, exclusive=True)
    await append(store, thread_id, message("two"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("three"))

    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["one", "two", "three"]


async def test_an_unknown_thread_cannot_be_taken_over(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await resume(store, new_thread_id(), exclusive=True)


# -- other writers -----------------------------------------------------------------------------------------


@FENCED
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
async def test_an_older_writer_is_refused_every_change_until_it_resumes(
    store: ThreadStore, second_store: ThreadStore, change: Callable[[ThreadStore, str], Awaitable[Any]]
) -> None:
    thread_id = await taken_over(store, second_store)

    for _ in range(2):
        with pytest.raises(Conflict, match=f"{TAKEN_OVER} {thread_id}.*Resume"):
            await change(store, thread_id)
    await append(second_store, thread_id, message("exclusive"))
    await flush(second_store, thread_id)
    stored = texts(await history(second_store, thread_id))
    await resume(store, thread_id)
    await change(store, thread_id)

    assert stored == ["before", "exclusive"]


@FENCED
async def test_the_new_writer_reads_what_the_older_writer_had_accepted(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await new_thread(store)
    receipts = await asyncio.gather(*(append(store, thread_id, message(f"{n}")) for n in range(20)))

    await resume(second_store, thread_id, exclusive=True)

    assert texts(await history(second_store, thread_id)) == [f"{n}" for n in range(len(receipts))]
    await flush(store, thread_id)


@FENCED
async def test_a_writer_that_opens_the_thread_later_is_not_fenced(
    store: ThreadStore, second_store: ThreadStore, open_another: OpenStore
) -> None:
    thread_id, third = await taken_over(store, second_store), await open_another()

    await resume(third, thread_id)
    await append(third, thread_id, message("third"))
    await flush(third, thread_id)
    await append(second_store, thread_id, message("second"))

    await flush(second_store, thread_id)
    assert texts(await history(third, thread_id)) == ["before", "third", "second"]


@FENCED
async def test_the_last_exclusive_writer_fences_the_earlier_ones(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await new_thread(store, exclusive=True)
    await append(store, thread_id, message("start"))
    openings = [(second_store, store), (store, second_store), (second_store, store)]

    for number, (newer, older) in enumerate(openings):
        await resume(newer, thread_id, exclusive=True)
        await append(newer, thread_id, message(f"{number}"))
        with pytest.raises(Conflict, match=TAKEN_OVER):
            await append(older, thread_id, message("fenced"))

    await flush(second_store, thread_id)
    assert texts(await history(second_store, thread_id)) == ["start", "0", "1", "2"]


@FENCED
async def test_a_store_that_does_not_have_the_thread_open_can_still_patch_it(
    store: ThreadStore, second_store: ThreadStore, open_another: OpenStore
) -> None:
    thread_id, third = await taken_over(store, second_store), await open_another()

    await ThreadManager(third).update_thread_metadata(thread_id, ThreadMetadataPatch(name="A name"))

    assert (await read(third, thread_id)).name == "A name"


@FENCED
async def test_the_second_of_two_writers_to_create_a_thread_conflicts(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await new_thread(store, exclusive=True)
    await new_thread(second_store, thread_id=thread_id)
    await append(store, thread_id, message("one"))

    with pytest.raises(Conflict):
        await append(second_store, thread_id, message("two"))

    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["one"]


# -- live threads ------------------------------------------------------------------------------------------


@FENCED
async def test_a_fenced_live_thread_can_be_shut_down_and_keeps_its_metadata(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread = await LiveThread.create(store, CreateThreadParams())
    await thread.append_items([said("A title")])
    late = utc_now() + timedelta(hours=1)
    await thread.append_items([{"timestamp": format_time(late), **message("late")}])
    await resume(second_store, thread.thread_id, exclusive=True)
    with pytest.raises(Conflict, match=TAKEN_OVER):
        await thread.append_items([message("fenced")])

    await thread.shutdown()

    assert (await read(second_store, thread.thread_id)).updated_at == late


@FENCED
async def test_a_manager_takes_over_with_the_live_thread_that_it_has_loaded(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    manager = ThreadManager(store)
    thread = await manager.create_thread(CreateThreadParams())
    await thread.persist()
    await resume(second_store, thread.thread_id, exclusive=True)
    with pytest.raises(Conflict, match=TAKEN_OVER):
        await thread.append_items([message("fenced")])

    again = await manager.resume_thread(ResumeThreadParams(thread_id=thread.thread_id, exclusive=True))

    assert again is thread
    await thread.append_items([message("one")])
    await thread.flush()
    with pytest.raises(Conflict, match=TAKEN_OVER):
        await append(second_store, thread.thread_id, message("fenced"))


async def test_a_thread_without_items_can_be_taken_over_once_it_is_stored(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await store.persist_thread(PersistThreadParams(thread_id=thread_id))
    await flush(store, thread_id)

    await resume(store, thread_id, exclusive=True)
    await append(store, thread_id, message("one"))

    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["one"]
