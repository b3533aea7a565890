from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.nodes.items import append, flush, history, message, metadata, new_thread, read, said, texts, update
from tests.store_spec.kinds import EVERY_READER, MEMORY, SHARED
from tests.store_spec.operations import archive, home_of, path_of, stored, unarchive

from livethread import (
    CreateThreadParams,
    InvalidRequest,
    ListThreadsParams,
    LiveThread,
    LoadThreadHistoryParams,
    ReadThreadParams,
    ResumeThreadParams,
    ShutdownThreadParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)
from livethread.position import position_key
from livethread.types import ArchiveThreadParams


@EVERY_READER
async def test_archiving_changes_only_archived_at_and_the_path(store: ThreadStore, kind: str) -> None:
    thread_id = await stored(store, said("one"), name="A name", cwd="/repo")
    before = await metadata(store, thread_id)
    earliest = datetime.now(UTC) - timedelta(milliseconds=1)

    await archive(store, thread_id)

    after = await metadata(store, thread_id)
    assert after.archived_at is not None
    assert earliest <= after.archived_at <= datetime.now(UTC)
    changed = {"archived_at": after.archived_at, "rollout_path": after.rollout_path}
    assert after == before.model_copy(update=changed)
    assert texts(await history(store, thread_id)) == ["one"]


async def test_the_rollout_moves_to_archived_sessions(store: ThreadStore, kind: str) -> None:
    thread_id = await stored(store)
    before = await metadata(store, thread_id)

    await archive(store, thread_id)

    after = await read(store, thread_id)
    if kind == MEMORY:
        assert after.rollout_path is None
        return
    assert path_of(after) == home_of(before) / "archived_sessions" / path_of(before).name
    assert path_of(after).is_file()
    assert not path_of(before).exists()


@EVERY_READER
async def test_an_archived_thread_is_found_only_if_archived_threads_are_included(store: ThreadStore) -> None:
    thread_id = await stored(store)

    await archive(store, thread_id)

    with pytest.raises(ThreadNotFound, match="it is archived"):
        await store.read_thread(ReadThreadParams(thread_id=thread_id, include_archived=False))
    with pytest.raises(ThreadNotFound, match="it is archived"):
        await store.load_history(LoadThreadHistoryParams(thread_id=thread_id, include_archived=False))
    with pytest.raises(ThreadNotFound, match="it is archived"):
        await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    resumed = await store.resume_thread(ResumeThreadParams(thread_id=thread_id, include_archived=True))
    assert resumed == await read(store, thread_id)


@EVERY_READER
async def test_an_archived_thread_is_listed_only_among_archived_threads(store: ThreadStore) -> None:
    cwd = f"/{new_thread_id()}"
    archived, active = await stored(store, cwd=cwd), await stored(store, cwd=cwd)

    await archive(store, archived)
    await flush(store, archived)

    async def listed(*, archived: bool) -> list[str]:
        page = await store.list_threads(
            ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,), archived=archived)
        )
        return [thread.thread_id for thread in page.items]

    assert (await listed(archived=True), await listed(archived=False)) == ([archived], [active])


async def test_archiving_a_thread_again_changes_nothing(store: ThreadStore) -> None:
    thread_id = await stored(store)
    first = await archive(store, thread_id)
    before = await metadata(store, thread_id)

    second = await archive(store, thread_id)

    assert await metadata(store, thread_id) == before
    assert position_key(second.position) > position_key(first.position)


async def test_a_thread_that_is_not_open_can_be_archived(store: ThreadStore) -> None:
    thread_id = await stored(store)
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    receipt = await archive(store, thread_id)

    assert receipt.thread_id == thread_id
    assert (await read(store, thread_id)).archived_at is not None


async def test_archiving_stores_an_open_thread_that_is_not_stored_yet(store: ThreadStore) -> None:
    thread_id = await new_thread(store, cwd="/repo")

    await archive(store, thread_id)

    thread = await read(store, thread_id)
    assert (thread.cwd, thread.archived_at is not None) == ("/repo", True)


async def test_an_open_thread_can_still_be_changed_after_it_is_archived(store: ThreadStore) -> None:
    thread_id = await stored(store)
    await archive(store, thread_id)

    await append(store, thread_id, message("two"))
    await update(store, thread_id, ThreadMetadataPatch(name="Renamed"))

    thread = await read(store, thread_id)
    assert (thread.name, thread.archived_at is not None) == ("Renamed", True)
    assert texts(await history(store, thread_id)) == ["one", "two"]


async def test_archiving_takes_effect_in_order_with_the_appends(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    receipts = await asyncio.gather(
        append(store, thread_id, message("one")),
        archive(store, thread_id),
        append(store, thread_id, message("two")),
        unarchive(store, thread_id),
        append(store, thread_id, message("three")),
        archive(store, thread_id),
    )

    positions = [position_key(receipt.position) for receipt in receipts]
    assert positions == sorted(set(positions))
    assert texts(await history(store, thread_id)) == ["one", "two", "three"]
    assert (await read(store, thread_id)).archived_at is not None


async def test_archiving_and_unarchiving_add_nothing_to_the_history(store: ThreadStore) -> None:
    thread_id = await stored(store, message("one"))

    await archive(store, thread_id)
    await unarchive(store, thread_id)
    await append(store, thread_id, message("two"))

    loaded = await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))
    assert [item.type for item in loaded.items] == ["session_meta", "response_item", "response_item"]


@SHARED
async def test_another_writer_can_archive_a_thread_in_use(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await stored(store)

    for n in range(5):
        await asyncio.gather(append(store, thread_id, message(f"{n}")), archive(second_store, thread_id))
        await asyncio.gather(append(store, thread_id, message(f"{n}")), unarchive(second_store, thread_id))
    await archive(second_store, thread_id)
    await read(second_store, thread_id)

    assert texts(await history(store, thread_id)) == ["one", *(f"{n // 2}" for n in range(10))]
    thread = await read(store, thread_id)
    assert thread.archived_at is not None
    assert path_of(thread).parent.name == "archived_sessions"


@SHARED
async def test_archiving_takes_effect_in_order_with_the_appends_of_two_live_threads(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    first = await LiveThread.create(store, CreateThreadParams())
    await first.append_items([said("0")])
    await first.flush()
    second = await LiveThread.resume(second_store, ResumeThreadParams(thread_id=first.thread_id))
    expected = ["0"]

    for n, change in enumerate([archive, archive, unarchive, unarchive, archive, unarchive, archive], start=1):
        await (first if n % 2 else second).append_items([said(f"{n}a")])
        await change(second_store if n % 2 else store, first.thread_id)
        await (second if n % 2 else first).append_items([said(f"{n}b")])
        expected += [f"{n}a", f"{n}b"]
        await asyncio.gather(first.flush(), second.flush())
        thread = await read(store, first.thread_id)
        assert (thread.archived_at is not None) == (change is archive)

    assert texts(await history(store, first.thread_id)) == expected
    assert (thread.title, path_of(thread).parent.name) == ("0", "archived_sessions")
    assert await read(second_store, first.thread_id) == thread


@EVERY_READER
async def test_an_archived_thread_is_patched_unless_archived_threads_are_excluded(store: ThreadStore) -> None:
    thread_id = await stored(store)
    await archive(store, thread_id)
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    await update(store, thread_id, ThreadMetadataPatch(title="cold"))

    with pytest.raises(ThreadNotFound, match="it is archived"):
        await update(store, thread_id, ThreadMetadataPatch(title="never"), include_archived=False)
    assert (await read(store, thread_id)).title == "cold"


async def test_an_unknown_thread_cannot_be_archived(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await archive(store, new_thread_id())


def test_an_id_that_is_not_a_uuid_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="a thread id is a UUID"):
        ArchiveThreadParams(thread_id="../x")
