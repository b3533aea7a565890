from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, read, said, texts, update
from tests.nodes.processes import RedisServer
from tests.nodes.waiting import eventually
from tests.store_spec import kinds
from tests.store_spec.kinds import EVERY_READER, SHARED
from tests.store_spec.operations import a_word, archive, delete, home_of, path_of, stored, unarchive

from livethread import (
    Conflict,
    CreateThreadParams,
    DiscardThreadParams,
    ListItemsParams,
    ListThreadsParams,
    ListTurnsParams,
    LoadThreadHistoryParams,
    Receipt,
    RelationKind,
    ResumeThreadParams,
    SearchThreadsParams,
    Settings,
    ShutdownThreadParams,
    ThreadManager,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadRelationFilter,
    ThreadStore,
    new_thread_id,
)
from livethread.position import position_key
from livethread_config import names

#: Every operation on a thread that need not be open.
OPERATIONS: dict[str, Callable[[ThreadStore, str], Awaitable[Any]]] = {
    "read_thread": read,
    "load_history": lambda store, id_: store.load_history(LoadThreadHistoryParams(thread_id=id_)),
    "list_turns": lambda store, id_: store.list_turns(ListTurnsParams(thread_id=id_)),
    "list_items": lambda store, id_: store.list_items(ListItemsParams(thread_id=id_)),
    "resume_thread": lambda store, id_: store.resume_thread(ResumeThreadParams(thread_id=id_)),
    "update_thread_metadata": lambda store, id_: update(store, id_, ThreadMetadataPatch(name="late")),
    "archive_thread": archive,
    "unarchive_thread": unarchive,
    "delete_thread": delete,
}


def rows_of(home: Path, thread_id: str) -> dict[str, int]:
    """Return how many rows of the thread each table of the index has, without empty tables."""
    with closing(sqlite3.connect(home / "livethread" / "index.sqlite")) as index:
        tables = [
            table
            for (table,) in index.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if "thread_id" in {column[1] for column in index.execute(f"PRAGMA table_info('{table}')")}
        ]
        counts = {
            table: index.execute(f"SELECT count(*) FROM '{table}' WHERE thread_id = ?", [thread_id]).fetchone()[0]
            for table in tables
        }
    return {table: count for table, count in counts.items() if count}


def files_of(home: Path, thread_id: str) -> list[str]:
    """Return the files with the thread's id in their names, and the name index if it contains the id."""
    bearing = [str(path.relative_to(home)) for path in home.rglob(f"*{thread_id}*")]
    index = home / "session_index.jsonl"
    return bearing + [index.name] * (index.exists() and thread_id in index.read_text())


@EVERY_READER
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "not open"])
async def test_a_deleted_thread_is_not_found_by_any_operation(
    store: ThreadStore, operation: str, *, is_open: bool
) -> None:
    thread_id = await stored(store, said("one"), name="A name")
    if not is_open:
        await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    receipt = await delete(store, thread_id)

    assert receipt.thread_id == thread_id
    with pytest.raises(ThreadNotFound) as failure:
        await OPERATIONS[operation](store, thread_id)
    assert failure.value.thread_id == thread_id


@EVERY_READER
async def test_a_deleted_thread_is_neither_listed_nor_found(store: ThreadStore) -> None:
    cwd, word, name = f"/{new_thread_id()}", a_word(), a_word()
    thread_id = await stored(store, said(word), name=name, cwd=cwd)

    async def found() -> list[str]:
        pages = [await store.search_threads(SearchThreadsParams(search_term=term)) for term in (word, name)]
        listed = (await store.list_threads(ListThreadsParams(include_without_preview=True, cwd_filters=(cwd,)))).items
        return [each.thread.thread_id for page in pages for each in page.items] + [t.thread_id for t in listed]

    before = await found()
    await delete(store, thread_id)
    with pytest.raises(ThreadNotFound):  # the read waits until the deletion is applied
        await read(store, thread_id)

    assert before == [thread_id] * 3
    assert await found() == []


@pytest.mark.parametrize("kind", [kinds.LOCAL, kinds.QUEUED])
@pytest.mark.parametrize("is_archived", [False, True], ids=["active", "archived"])
async def test_a_deletion_leaves_no_file_no_name_and_no_row(store: ThreadStore, *, is_archived: bool) -> None:
    turn = {"type": "event_msg", "payload": {"type": "task_started", "turn_id": "t"}}
    thread_id = await stored(store, turn, said("one"), name="A name")
    other = await stored(store, said("other"), name="Another name")
    home = home_of(await read(store, thread_id))
    if is_archived:
        await archive(store, thread_id)
    path = path_of(await read(store, thread_id))
    before = rows_of(home, thread_id), files_of(home, thread_id)

    await delete(store, thread_id)
    await eventually(lambda: not path.exists(), "the deletion")
    await eventually(lambda: not rows_of(home, thread_id), "the deletion of the rows")

    assert set(before[0]) == {"threads", "rollouts", "writers", "turns", "messages"}
    assert {path.name, "session_index.jsonl"} <= {name.rpartition("/")[2] for name in before[1]}
    assert files_of(home, thread_id) == []
    assert (await read(store, other)).name == "Another name"
    assert texts(await history(store, other)) == ["other"]


@pytest.mark.parametrize("kind", [kinds.QUEUED])
async def test_redis_keeps_only_the_record_of_the_deletion(
    store: ThreadStore, served: Settings, redis_server: RedisServer
) -> None:
    thread_id = await stored(store, said("one"), name="A name")
    keys, redis = names.ShardKeys(served.key_prefix, 0), redis_server.client

    await delete(store, thread_id)
    for _ in range(3):
        with pytest.raises(ThreadNotFound):
            await append(store, thread_id, message("late"))

    await eventually(lambda: not list(redis.scan_iter(f"*{thread_id}*")), "the removal of its Redis keys")
    assert [redis.zscore(key, thread_id) for key in (keys.ready, keys.claims)] == [None, None]
    assert [redis.hexists(key, thread_id) for key in (keys.tokens, keys.attempts, keys.parked)] == [False] * 3
    assert redis.zscore(keys.deleted, thread_id) is not None


async def test_an_open_handle_refuses_appends_and_can_be_closed(store: ThreadStore) -> None:
    thread_id = await stored(store)

    await delete(store, thread_id)

    for _ in range(3):
        with pytest.raises(ThreadNotFound):
            await append(store, thread_id, message("late"))
    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))
    with pytest.raises(ThreadNotFound):
        await append(store, thread_id, message("late"))


async def test_a_flush_after_the_deletion_waits_for_it(store: ThreadStore) -> None:
    thread_id = await stored(store)
    await delete(store, thread_id)

    await flush(store, thread_id)
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


@SHARED
async def test_the_handle_of_another_store_refuses_changes(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await stored(store)
    await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(second_store, thread_id, message("two"))

    await delete(store, thread_id)

    for _ in range(3):
        with pytest.raises(ThreadNotFound):
            await append(second_store, thread_id, message("late"))
    with pytest.raises(ThreadNotFound):
        await update(second_store, thread_id, ThreadMetadataPatch(name="late"))


@SHARED
async def test_a_thread_can_be_deleted_while_another_store_appends_to_it(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await stored(store)
    await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    results = await asyncio.gather(
        *(append(second_store, thread_id, message(f"{n}")) for n in range(20)),
        delete(store, thread_id),
        *(append(second_store, thread_id, message(f"{n}")) for n in range(20)),
        return_exceptions=True,
    )

    *appends, deletion = [*results[:20], *results[21:], results[20]]
    assert isinstance(deletion, Receipt)
    accepted = [isinstance(result, Receipt) for result in appends]
    assert accepted == sorted(accepted, reverse=True)
    assert all(isinstance(result, Receipt | ThreadNotFound) for result in appends)
    with pytest.raises(ThreadNotFound):
        await append(second_store, thread_id, message("late"))
    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


async def test_the_deletion_takes_effect_in_order_with_the_appends(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    *before, after = await asyncio.gather(
        append(store, thread_id, message("one")),
        update(store, thread_id, ThreadMetadataPatch(name="A name")),
        append(store, thread_id, message("two")),
        delete(store, thread_id),
        append(store, thread_id, message("three")),
        return_exceptions=True,
    )

    receipts = [result for result in before if isinstance(result, Receipt)]
    assert receipts == before
    positions = [position_key(receipt.position) for receipt in receipts]
    assert positions == sorted(set(positions))
    assert isinstance(after, ThreadNotFound)
    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


async def test_a_thread_that_is_open_but_not_stored_yet_can_be_deleted(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    await delete(store, thread_id)

    with pytest.raises(ThreadNotFound):
        await append(store, thread_id, message("late"))
    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


async def test_an_archived_thread_can_be_deleted(store: ThreadStore) -> None:
    thread_id = await stored(store)
    await archive(store, thread_id)

    await delete(store, thread_id)

    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


@EVERY_READER
async def test_the_children_of_a_deleted_thread_stay(store: ThreadStore) -> None:
    parent = await stored(store)
    child = await stored(store, message("the child's"), parent_thread_id=parent)
    before = await read(store, child)

    await delete(store, parent)
    with pytest.raises(ThreadNotFound):
        await read(store, parent)

    assert await read(store, child) == before
    assert texts(await history(store, child)) == ["the child's"]
    relation = ThreadRelationFilter(kind=RelationKind.DIRECT_CHILDREN, thread_id=parent)
    page = await store.list_threads(ListThreadsParams(include_without_preview=True, relation_filter=relation))
    assert page.items == (before,)


@pytest.mark.parametrize("kind", [kinds.QUEUED])
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "not open"])
async def test_a_queued_store_refuses_to_use_a_deleted_id_again(store: ThreadStore, *, is_open: bool) -> None:
    """Tasks of the deleted thread may still be on their way, and must not reach a new one."""
    thread_id = await stored(store)
    if not is_open:
        await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))
    await delete(store, thread_id)

    async def create_again() -> None:
        await store.create_thread(CreateThreadParams(thread_id=thread_id))
        await append(store, thread_id, message("again"))

    with pytest.raises((Conflict, ThreadNotFound)):
        await create_again()

    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


@pytest.mark.parametrize("kind", [kinds.MEMORY, kinds.LOCAL])
async def test_a_store_without_a_queue_can_use_a_deleted_id_for_a_new_thread(store: ThreadStore) -> None:
    thread_id = await stored(store, said("old"), name="Old name", cwd="/old")
    await archive(store, thread_id)
    await delete(store, thread_id)
    await store.discard_thread(DiscardThreadParams(thread_id=thread_id))

    await store.create_thread(CreateThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("new"))

    thread = await read(store, thread_id)
    assert (thread.name, thread.cwd, thread.title, thread.archived_at) == (None, "", None, None)
    assert texts(await history(store, thread_id)) == ["new"]


async def test_a_live_thread_and_its_manager_notice_the_deletion(store: ThreadStore) -> None:
    manager = ThreadManager(store)
    thread = await manager.create_thread(CreateThreadParams())
    await thread.append_items([said("one")])

    await delete(store, thread.thread_id)

    with pytest.raises(ThreadNotFound):
        await thread.append_items([said("late")])
    with pytest.raises(ThreadNotFound):
        await manager.update_thread_metadata(thread.thread_id, ThreadMetadataPatch(name="late"))
    with pytest.raises(ThreadNotFound):
        await thread.read_thread()
    await thread.discard()
    assert manager.loaded() == ()


async def test_an_unknown_thread_cannot_be_deleted(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await delete(store, new_thread_id())


@EVERY_READER
@pytest.mark.parametrize("is_open", [True, False])
async def test_a_thread_is_not_deleted_before_the_forks_attached_to_it(store: ThreadStore, *, is_open: bool) -> None:
    root = await stored(store)
    attached = await stored(store, forked_from_id=root, attached_thread=True)
    if not is_open:
        await store.shutdown_thread(ShutdownThreadParams(thread_id=root))

    with pytest.raises(Conflict, match=f"while attached thread {attached} exists"):
        await delete(store, root)

    await update(store, root, ThreadMetadataPatch(name="still there"))  # nothing is parked
    assert (await read(store, root)).name == "still there"
    await delete(store, attached)
    with pytest.raises(ThreadNotFound):  # the deletion is applied
        await read(store, attached)
    await delete(store, root)
    with pytest.raises(ThreadNotFound):
        await read(store, root)
