from __future__ import annotations

from pathlib import Path

import pytest
from tests.nodes.items import flush, read, update
from tests.store_spec import kinds
from tests.store_spec.kinds import EVERY_READER
from tests.store_spec.operations import a_word, archive, delete, home_of, stored

from livethread import (
    FindThreadByNameParams,
    InvalidRequest,
    StoredThread,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadReader,
    ThreadStore,
)


async def by_name(store: ThreadReader, name: str, **params: object) -> StoredThread:
    return await store.find_thread_by_name(FindThreadByNameParams.model_validate({"name": name} | params))


async def rename(store: ThreadStore, thread_id: str, name: str | None) -> None:
    await update(store, thread_id, ThreadMetadataPatch(name=name))
    await read(store, thread_id)  # by now it is applied


@EVERY_READER
async def test_a_thread_is_found_by_its_whole_name(store: ThreadStore) -> None:
    name = f"Ein Name 名前 {a_word()}"
    thread_id = await stored(store, name=name)

    found, thread = await by_name(store, name), await read(store, thread_id)

    assert found == thread.model_copy(update={"named_at": found.named_at})
    assert found.named_at is not None
    assert found.named_at >= thread.created_at
    for other in (name.lower(), name[:-1], f" {name}"):
        with pytest.raises(ThreadNotFound):
            await by_name(store, other)


async def test_of_several_threads_the_one_that_got_the_name_last_is_found(store: ThreadStore) -> None:
    name = a_word()
    first, second = await stored(store, name=name), await stored(store, name=name)

    assert (await by_name(store, name)).thread_id == second
    assert (await by_name(store, name, except_thread_ids=(second,))).thread_id == first
    await rename(store, first, "another")
    await rename(store, first, name)
    assert (await by_name(store, name)).thread_id == first


async def test_only_the_present_name_counts(store: ThreadStore) -> None:
    name = a_word()
    thread_id = await stored(store, name=name)
    await rename(store, thread_id, None)

    with pytest.raises(ThreadNotFound, match=name):
        await by_name(store, name)


async def test_archived_threads_are_found_on_request_and_deleted_ones_never(store: ThreadStore) -> None:
    name = a_word()
    active, archived = await stored(store, name=name), await stored(store, name=name)
    await archive(store, archived)
    await read(store, archived)

    assert (await by_name(store, name)).thread_id == active
    assert (await by_name(store, name, include_archived=True)).thread_id == archived
    await delete(store, active)
    with pytest.raises(ThreadNotFound):
        await read(store, active)
    with pytest.raises(ThreadNotFound):
        await by_name(store, name)


@pytest.mark.parametrize("kind", [kinds.LOCAL, kinds.FILES])
async def test_a_name_that_only_the_rollout_has_is_found(store: ThreadStore) -> None:
    name = a_word()
    thread_id = await stored(store, name=name)
    await flush(store, thread_id)
    thread = await read(store, thread_id)
    Path(home_of(thread) / "session_index.jsonl").unlink()

    assert (await by_name(store, name)).thread_id == thread_id


async def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        FindThreadByNameParams(name="")
