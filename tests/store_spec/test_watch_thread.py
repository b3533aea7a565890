"""Following a thread, from any store that can read it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.nodes.items import append, flush, message, update
from tests.nodes.waiting import eventually
from tests.nodes.watchers import watching
from tests.store_spec import kinds
from tests.store_spec.operations import archive, delete, home_of, stored, unarchive
from tests.store_spec.turns import item_page

from livethread import (
    Conflict,
    LiveThread,
    ReadThreadParams,
    ResumeThreadParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)
from livethread_worker.store.files.compression import compress
from livethread_worker.store.files.home import Home

ON_FILES = pytest.mark.parametrize("kind", [kinds.LOCAL, kinds.FILES, kinds.QUEUED, kinds.CELERY])
WITH_INDEX = pytest.mark.parametrize("kind", [kinds.LOCAL, kinds.QUEUED, kinds.CELERY])


async def rollout_of(store: ThreadStore, thread_id: str) -> Path:
    path = (await store.read_thread(ReadThreadParams(thread_id=thread_id))).rollout_path
    assert path is not None
    return path


@kinds.EVERY_READER
async def test_a_watcher_replays_the_history_and_then_follows(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"), message("2"))

    async with watching(store, thread_id) as watcher:
        await watcher.until("1", "2")
        await append(store, thread_id, message("3"))
        await watcher.until("1", "2", "3")
        await append(store, thread_id, message("4"), message("5"))
        await append(store, thread_id, message("6"))
        await watcher.until("1", "2", "3", "4", "5", "6")

    items = (await item_page(store, thread_id)).items
    assert tuple(each.item for each in watcher.items) == items
    assert [each.ordinal for each in watcher.items] == [item.ordinal for item in items]


@kinds.EVERY_READER
async def test_a_long_history_is_replayed_in_bounded_pages(store: ThreadStore) -> None:
    numbers = [f"{n}" for n in range(450)]
    thread_id = await stored(store, *map(message, numbers))

    async with watching(store, thread_id) as watcher:
        await watcher.until(*numbers)

    assert sum(each.cursor is not None for each in watcher.items) == 3
    assert watcher.items[-1].cursor is not None


@kinds.EVERY_READER
async def test_a_watcher_begins_after_a_position(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))
    receipt = await append(store, thread_id, message("2"), message("3"))

    async with watching(store, thread_id, after=receipt.position) as watcher:
        await append(store, thread_id, message("4"))
        await watcher.until("4")


@kinds.EVERY_READER
async def test_a_watcher_begins_after_an_ordinal_that_may_be_still_to_come(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"), message("2"))
    last = (await item_page(store, thread_id)).items[-1].ordinal
    assert last is not None

    async with (
        watching(store, thread_id, after=last - 1) as near,
        watching(store, thread_id, after=last + 1) as far,
    ):
        await near.until("2")
        await append(store, thread_id, message("3"))
        await append(store, thread_id, message("4"))
        await near.until("2", "3", "4")
        await far.until("4")


@kinds.EVERY_READER
async def test_a_watcher_begins_at_the_cursor_of_a_page_or_of_an_item(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"), message("2"))
    page = await item_page(store, thread_id, page_size=2)  # the session_meta, and the first message

    async with watching(store, thread_id, cursor=page.end_cursor) as first:
        await first.until("2")
    await append(store, thread_id, message("3"), message("4"))
    async with watching(store, thread_id, cursor=first.items[-1].cursor) as second:
        await second.until("3", "4")


@kinds.EVERY_READER
async def test_the_last_item_says_up_to_which_position_everything_has_come(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))
    receipt = await append(store, thread_id, message("2"))
    await flush(store, thread_id)

    async with watching(store, thread_id) as watcher:
        await watcher.until("1", "2")

    assert [each.position for each in watcher.items] == [None, None, receipt.position]


@kinds.EVERY_READER
async def test_all_watchers_of_a_thread_see_the_same(store: ThreadStore) -> None:
    thread_id, other = await stored(store, message("1")), await stored(store, message("other"))

    async with (
        watching(store, thread_id) as one,
        watching(store, thread_id) as two,
        watching(store, other) as three,
    ):
        await append(store, thread_id, message("2"))
        await one.until("1", "2")
        await two.until("1", "2")
        await three.until("other")


@kinds.SHARED_READERS
async def test_what_another_process_writes_is_followed(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await stored(second_store, message("1"))

    async with watching(store, thread_id) as watcher:
        await watcher.until("1")
        await append(second_store, thread_id, message("2"))
        await watcher.until("1", "2")


@pytest.mark.parametrize("kind", [kinds.LOCAL, kinds.FILES, kinds.QUEUED])
async def test_what_another_program_writes_is_followed(store: ThreadStore) -> None:
    """codex appends to the rollout itself."""
    thread_id = await stored(store, message("1"))
    path = await rollout_of(store, thread_id)

    async with watching(store, thread_id) as watcher:
        await watcher.until("1")
        [line] = [line for line in path.read_bytes().splitlines(keepends=True) if b'"text":"1"' in line]
        with path.open("ab") as file:
            file.write(
                b'{"timestamp":"2026-11-22T12:00:00.000Z",' + line[line.index(b'"type"') :].replace(b'"1"', b'"2"')
            )
        await watcher.until("1", "2")


@kinds.EVERY_READER
async def test_patches_and_archiving_and_unarchiving_neither_repeat_nor_lose_an_item(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))

    async with watching(store, thread_id) as watcher:
        await append(store, thread_id, message("2"))
        await archive(store, thread_id)
        await append(store, thread_id, message("3"))
        await update(store, thread_id, ThreadMetadataPatch(name="a name", title="a title"))
        await unarchive(store, thread_id)
        await append(store, thread_id, message("4"))
        await watcher.until("1", "2", "3", "4")


@ON_FILES
async def test_compression_neither_repeats_nor_loses_an_item(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))

    async with watching(store, thread_id) as watcher:
        await watcher.until("1")
        compress(await rollout_of(store, thread_id))
        async with watching(store, thread_id) as late:
            await late.until("1")
            await append(store, thread_id, message("2"))  # which decompresses it
            await watcher.until("1", "2")
            await late.until("1", "2")


@WITH_INDEX
async def test_a_new_index_neither_repeats_nor_loses_an_item(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))
    home = Home(home_of(await store.read_thread(ReadThreadParams(thread_id=thread_id))))

    async with watching(store, thread_id) as watcher:
        await watcher.until("1")
        home.index.unlink()
        await append(store, thread_id, message("2"))
        await watcher.until("1", "2")
        await append(store, thread_id, message("3"))
        await watcher.until("1", "2", "3")


@kinds.EVERY_READER
async def test_deleting_the_thread_ends_the_watch(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))

    async with watching(store, thread_id) as watcher:
        await watcher.until("1")
        await delete(store, thread_id)

        with pytest.raises(ThreadNotFound):
            await asyncio.wait_for(watcher.over(), 20)


@kinds.EVERY_READER
async def test_an_unknown_thread_cannot_be_watched(store: ThreadStore) -> None:
    async with watching(store, new_thread_id()) as watcher:
        with pytest.raises(ThreadNotFound):
            await watcher.over()


@ON_FILES
async def test_a_watch_ends_if_the_history_was_taken_back(store: ThreadStore) -> None:
    """As after a revert by codex: ordinals are neither repeated nor skipped silently."""
    thread_id = await stored(store, message("1"), message("2"))
    path = await rollout_of(store, thread_id)

    async with watching(store, thread_id) as watcher:
        await watcher.until("1", "2")
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b'"2"', b'"another"')]))
        await append(store, thread_id, message("3"))

        with pytest.raises(Conflict, match="taken back"):
            await asyncio.wait_for(watcher.over(), 20)
    assert watcher.texts == ["1", "2"]


@kinds.EVERY_READER
async def test_a_cancelled_watch_leaves_nothing(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))
    before = asyncio.all_tasks()

    for _ in range(2):
        async with watching(store, thread_id) as watcher:
            await watcher.until("1")

    await eventually(lambda: asyncio.all_tasks() <= before)


@kinds.EVERY_READER
async def test_a_session_follows_its_own_thread(store: ThreadStore) -> None:
    thread_id = await stored(store, message("1"))
    thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread_id))
    receipt = await thread.append_items([message("2")])
    watch = thread.watch(after=receipt.position)

    await thread.append_items([message("3")])

    assert (await anext(watch)).item.payload["content"][0]["text"] == "3"
    await watch.aclose()
