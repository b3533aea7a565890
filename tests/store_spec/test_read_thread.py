from __future__ import annotations

import pytest
from tests.nodes.items import append, message, new_thread, read, update
from tests.store_spec.kinds import EVERY_READER, MEMORY

from livethread import (
    InvalidRequest,
    LoadThreadHistoryParams,
    ReadThreadParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)

pytestmark = EVERY_READER


async def test_the_history_is_left_out_by_default(store: ThreadStore) -> None:
    thread_id = await new_thread(store, cwd="/repo", thread_source="automation")
    await append(store, thread_id, message("one"))

    thread = await read(store, thread_id)

    assert (thread.thread_id, thread.cwd, thread.thread_source) == (thread_id, "/repo", "automation")
    assert thread.history is None


async def test_the_history_is_included_on_request(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    thread = await store.read_thread(ReadThreadParams(thread_id=thread_id, include_history=True))

    assert thread.history == await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))


async def test_a_read_sees_what_was_accepted_before_it(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    for n in range(10):
        await update(store, thread_id, ThreadMetadataPatch(name=f"{n}"))
        assert (await read(store, thread_id)).name == f"{n}"


async def test_the_rollout_path_is_set_if_the_store_keeps_files(store: ThreadStore, kind: str) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))

    path = (await read(store, thread_id)).rollout_path

    if kind == MEMORY:
        assert path is None
    else:
        assert path is not None
        assert path.is_file()
        assert path.name.endswith(f"-{thread_id}.jsonl")


async def test_an_unknown_thread_is_not_found(store: ThreadStore) -> None:
    thread_id = new_thread_id()

    with pytest.raises(ThreadNotFound) as failure:
        await read(store, thread_id)

    assert failure.value.thread_id == thread_id
    assert str(failure.value).count(thread_id) == 1 + failure.value.hint.count(thread_id)


async def test_an_id_that_is_not_a_uuid_is_refused(store: ThreadStore) -> None:
    with pytest.raises(InvalidRequest, match="a thread id is a UUID"):
        await read(store, "../index.sqlite")
