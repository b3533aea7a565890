from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.nodes.items import append, flush, history, message, metadata, new_thread, read, texts, update
from tests.store_spec.kinds import SHARED

from livethread import (
    GitInfo,
    GitInfoPatch,
    InvalidRequest,
    MemoryMode,
    ResumeThreadParams,
    ShutdownThreadParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)
from livethread.position import position_key

AT = datetime(2030, 1, 2, 3, 4, 5, 678000, UTC)

EVERY_FIELD: dict[str, Any] = {
    "name": "A name",
    "preview": "A preview",
    "title": "A title",
    "first_user_message": "Hello 🎉",
    "model_provider": "another-provider",
    "model": "a-model",
    "reasoning_effort": "high",
    "created_at": AT,
    "updated_at": AT + timedelta(hours=1),
    "source": {"custom": "a-source"},
    "thread_source": "automation",
    "agent_nickname": "Ada",
    "agent_role": "reviewer",
    "agent_path": "root/review",
    "cwd": "/elsewhere",
    "cli_version": "9.9.9",
    "approval_mode": "never",
    "permission_profile": {"network": False},
    "token_usage": {"total_tokens": 2**70},
    "memory_mode": MemoryMode.DISABLED,
    "history_mode": "paginated",
}


async def a_stored_thread(store: ThreadStore, **params: Any) -> str:
    thread_id = await new_thread(store, **params)
    await append(store, thread_id, message("one"))
    return thread_id


@pytest.mark.parametrize("field", EVERY_FIELD)
async def test_a_field_is_set_literally_and_the_others_stay(store: ThreadStore, field: str) -> None:
    thread_id = await a_stored_thread(store, cwd="/repo", git=GitInfo(branch="main"))
    before = await metadata(store, thread_id)

    await update(store, thread_id, ThreadMetadataPatch.model_validate({field: EVERY_FIELD[field]}))

    assert await metadata(store, thread_id) == before.model_copy(update={field: EVERY_FIELD[field]})


async def test_all_fields_are_set_at_once(store: ThreadStore) -> None:
    thread_id = await a_stored_thread(store)
    before = await metadata(store, thread_id)

    await update(store, thread_id, ThreadMetadataPatch.model_validate(EVERY_FIELD))

    assert await metadata(store, thread_id) == before.model_copy(update=EVERY_FIELD)


@pytest.mark.parametrize("field", ["name", "thread_source", "agent_nickname", "agent_role", "agent_path"])
async def test_null_clears_a_field_that_may_be_cleared(store: ThreadStore, field: str) -> None:
    thread_id = await a_stored_thread(store)
    await update(store, thread_id, ThreadMetadataPatch.model_validate(EVERY_FIELD))
    before = await metadata(store, thread_id)

    await update(store, thread_id, ThreadMetadataPatch.model_validate({field: None}))

    assert await metadata(store, thread_id) == before.model_copy(update={field: None})


async def test_null_leaves_a_field_that_cannot_be_cleared(store: ThreadStore) -> None:
    thread_id = await a_stored_thread(store)
    await update(store, thread_id, ThreadMetadataPatch.model_validate(EVERY_FIELD))
    before = await metadata(store, thread_id)

    await update(store, thread_id, ThreadMetadataPatch(title=None, model=None, cwd=None, memory_mode=None))

    assert await metadata(store, thread_id) == before


async def test_git_is_patched_field_by_field(store: ThreadStore) -> None:
    thread_id = await a_stored_thread(store, git=GitInfo(commit_hash="c0ffee", branch="main"))

    await update(store, thread_id, ThreadMetadataPatch(git_info=GitInfoPatch(branch="dev", origin_url="git@host:r")))
    patched = (await read(store, thread_id)).git_info
    await update(store, thread_id, ThreadMetadataPatch(git_info=GitInfoPatch(sha=None, origin_url=None)))
    cleared = (await read(store, thread_id)).git_info
    await update(store, thread_id, ThreadMetadataPatch(git_info=GitInfoPatch(branch=None)))
    nothing_left = (await read(store, thread_id)).git_info

    assert patched == GitInfo(commit_hash="c0ffee", branch="dev", repository_url="git@host:r")
    assert cleared == GitInfo(branch="dev")
    assert nothing_left is None


async def test_recency_advances_and_never_goes_back(store: ThreadStore) -> None:
    thread_id = await a_stored_thread(store)

    await update(store, thread_id, ThreadMetadataPatch(advance_recency_at=AT))
    await update(store, thread_id, ThreadMetadataPatch(advance_recency_at=AT - timedelta(days=1)))

    assert (await read(store, thread_id)).recency_at == AT


async def test_an_empty_patch_changes_nothing(store: ThreadStore) -> None:
    thread_id = await a_stored_thread(store)
    before = await metadata(store, thread_id)

    await update(store, thread_id, ThreadMetadataPatch())

    assert await metadata(store, thread_id) == before


async def test_patches_take_effect_in_order_with_the_appends(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    receipts = await asyncio.gather(
        append(store, thread_id, message("one")),
        *(update(store, thread_id, ThreadMetadataPatch(name=f"{n}")) for n in range(10)),
        append(store, thread_id, message("two")),
    )

    positions = [position_key(receipt.position) for receipt in receipts]
    assert positions == sorted(set(positions))
    assert (await read(store, thread_id)).name == "9"
    assert texts(await history(store, thread_id)) == ["one", "two"]


async def test_a_patch_stores_an_open_thread_that_is_not_stored_yet(store: ThreadStore) -> None:
    thread_id = await new_thread(store, cwd="/repo")

    await update(store, thread_id, ThreadMetadataPatch(name="A name"))

    thread = await read(store, thread_id)
    assert (thread.name, thread.cwd) == ("A name", "/repo")


async def test_a_thread_that_is_not_open_is_patched_and_the_next_read_sees_it(store: ThreadStore) -> None:
    thread_id = await a_stored_thread(store)
    await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))

    for n in range(10):
        await update(store, thread_id, ThreadMetadataPatch(name=f"{n}"))
        assert (await read(store, thread_id)).name == f"{n}"


async def test_an_unknown_thread_cannot_be_patched(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await update(store, new_thread_id(), ThreadMetadataPatch(name="A name"))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"name": "\ud800"}, id="a lone surrogate in the name"),
        pytest.param({"token_usage": {"total": math.nan}}, id="NaN"),
        pytest.param({"token_usage": {1: 2}}, id="a key that is not a string"),
        pytest.param({"permission_profile": object()}, id="an object"),
        pytest.param({"approval_mode": "\udfff"}, id="a lone surrogate in an untyped field"),
        pytest.param({"source": {"custom": ["\ud800"]}}, id="a lone surrogate in the source"),
    ],
)
async def test_a_patch_that_is_not_json_is_refused_and_the_store_goes_on(
    store: ThreadStore, bad: dict[str, Any]
) -> None:
    thread_id = await a_stored_thread(store)
    await flush(store, thread_id)
    before = await metadata(store, thread_id)

    async with asyncio.timeout(5):
        with pytest.raises(InvalidRequest):
            await update(store, thread_id, ThreadMetadataPatch.model_validate(bad))

        assert await metadata(store, thread_id) == before
        await append(store, thread_id, message("two"))
        assert texts(await history(store, thread_id)) == ["one", "two"]


@pytest.mark.parametrize(
    "bad",
    [
        {"name": 1},
        {"thread_source": {"kind": "user"}},
        {"thread_source": 5},
        {"source": {}},
        {"updated_at": "soon"},
        {"updated_at": "2026-01-01T00:00:00"},
        {"memory_mode": "maybe"},
        {"unknown": 1},
        {"git_info": {"unknown": 1}},
    ],
    ids=str,
)
def test_an_invalid_patch_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        ThreadMetadataPatch.model_validate(bad)


@SHARED
async def test_patches_of_two_writers_do_not_undo_each_other(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await a_stored_thread(store)
    await flush(store, thread_id)

    for n in range(10):
        await asyncio.gather(
            update(store, thread_id, ThreadMetadataPatch(name=f"name {n}")),
            update(second_store, thread_id, ThreadMetadataPatch(title=f"title {n}")),
        )
        await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))
        thread = await store.resume_thread(ResumeThreadParams(thread_id=thread_id))
        assert (thread.name, thread.title) == (f"name {n}", f"title {n}")
