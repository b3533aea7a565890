"""Archiving and deleting several threads in one call."""

from __future__ import annotations

from itertools import permutations

import pytest
from tests.nodes.items import append, message, new_thread, read
from tests.store_spec.operations import a_word, archive, delete, stored

from livethread import (
    ArchiveThreadsParams,
    DeleteThreadsParams,
    InvalidRequest,
    Receipt,
    ThreadNotFound,
    ThreadResults,
    ThreadStore,
    new_thread_id,
)


async def archive_all(store: ThreadStore, *thread_ids: str) -> ThreadResults:
    return await store.archive_threads(ArchiveThreadsParams(thread_ids=thread_ids))


async def delete_all(store: ThreadStore, *thread_ids: str) -> ThreadResults:
    return await store.delete_threads(DeleteThreadsParams(thread_ids=thread_ids))


async def test_every_thread_is_archived_and_one_that_is_missing_is_named(store: ThreadStore) -> None:
    one, two, missing = await stored(store), await stored(store), new_thread_id()
    await archive(store, two)

    results = await archive_all(store, one, missing, two, one)

    assert [(await read(store, thread_id)).archived_at is None for thread_id in (one, two)] == [False, False]
    assert set(results.done) == {one, two}
    assert all(isinstance(receipt, Receipt) for receipt in results.done.values())
    assert results.failed.keys() == {missing}
    assert isinstance(results.failed[missing], ThreadNotFound)
    assert (await archive_all(store, one, two)).failed == {}


async def test_every_thread_is_deleted_and_the_call_can_be_repeated(store: ThreadStore) -> None:
    one, two = await stored(store), await stored(store)
    await delete(store, two)

    first, second = await delete_all(store, one, two), await delete_all(store, one, two)

    for thread_id in (one, two):
        with pytest.raises(ThreadNotFound):
            await read(store, thread_id)
    assert (first.done[two], first.failed, second.failed) == (None, {}, {})
    assert isinstance(first.done[one], Receipt)
    assert second.done == {one: None, two: None}


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
async def test_a_thread_and_the_forks_attached_to_it_are_deleted_in_any_order(
    store: ThreadStore, order: tuple[int, ...]
) -> None:
    root = await stored(store)
    fork = await stored(store, forked_from_id=root, attached_thread=True)
    threads = [root, fork, await stored(store, forked_from_id=fork, attached_thread=True)]

    results = await delete_all(store, *(threads[n] for n in order))

    assert (set(results.done), results.failed) == (set(threads), {})
    for thread_id in threads:
        with pytest.raises(ThreadNotFound):
            await read(store, thread_id)


async def test_an_open_thread_that_is_not_stored_yet_is_deleted(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    results = await delete_all(store, thread_id)

    assert results.done.keys() == {thread_id}
    with pytest.raises(ThreadNotFound):
        await append(store, thread_id, message(a_word()))


@pytest.mark.parametrize("thread_ids", [[], ["x"], [new_thread_id()] * 1001])
async def test_a_malformed_list_is_refused(thread_ids: list[str]) -> None:
    for params in (ArchiveThreadsParams, DeleteThreadsParams):
        with pytest.raises(InvalidRequest):
            params.model_validate({"thread_ids": thread_ids})
