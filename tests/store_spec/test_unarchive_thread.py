from __future__ import annotations

import pytest
from tests.nodes.items import append, flush, history, message, metadata, read, said, texts
from tests.store_spec.kinds import EVERY_READER, MEMORY, SHARED
from tests.store_spec.operations import archive, path_of, stored, unarchive

from livethread import (
    ListThreadsParams,
    ResumeThreadParams,
    ShutdownThreadParams,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)
from livethread.position import position_key


@EVERY_READER
async def test_unarchiving_undoes_archiving(store: ThreadStore, kind: str) -> None:
    thread_id = await stored(store, said("one"), name="A name", cwd="/repo")
    before = await metadata(store, thread_id)
    await archive(store, thread_id)
    archived = await read(store, thread_id)

    await unarchive(store, thread_id)

    assert await metadata(store, thread_id) == before
    assert texts(await history(store, thread_id)) == ["one"]
    if kind != MEMORY:
        assert path_of(before).is_file()
        assert not path_of(archived).exists()


@EVERY_READER
async def test_an_unarchived_thread_is_listed_and_resumed_again(store: ThreadStore) -> None:
    cwd = f"/{new_thread_id()}"
    thread_id = await stored(store, cwd=cwd)
    await archive(store, thread_id)

    await unarchive(store, thread_id)
    await flush(store, thread_id)

    page = await store.list_threads(ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,)))
    assert [thread.thread_id for thread in page.items] == [thread_id]
    assert (
        await store.list_threads(ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,), archived=True))
    ).items == ()
    assert (await store.resume_thread(ResumeThreadParams(thread_id=thread_id))).archived_at is None


async def test_unarchiving_an_active_thread_changes_nothing(store: ThreadStore) -> None:
    thread_id = await stored(store)
    before = await metadata(store, thread_id)

    first = await unarchive(store, thread_id)
    second = await unarchive(store, thread_id)

    assert await metadata(store, thread_id) == before
    assert position_key(second.position) > position_key(first.position)


async def test_a_thread_that_is_not_open_can_be_unarchived_and_continued(store: ThreadStore) -> None:
    thread_id = await stored(store)
    await archive(store, thread_id)
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    await unarchive(store, thread_id)

    await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("two"))
    assert texts(await history(store, thread_id)) == ["one", "two"]


@SHARED
async def test_another_writer_can_unarchive_a_thread(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await stored(store)
    await archive(store, thread_id)
    await flush(store, thread_id)

    await unarchive(second_store, thread_id)
    resumed = await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(second_store, thread_id, message("two"))

    assert resumed.archived_at is None
    assert texts(await history(second_store, thread_id)) == ["one", "two"]
    assert path_of(await read(second_store, thread_id)).parents[3].name == "sessions"


async def test_an_unknown_thread_cannot_be_unarchived(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await unarchive(store, new_thread_id())
