"""Every field of a patch is in the rollout, however the patch reached the thread."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from livethread import types
from livethread.live_thread import LiveThread
from livethread.metadata import GitInfo, MemoryMode, StoredThread, ThreadMetadataPatch
from livethread.position import START
from livethread.thread_id import new_thread_id
from livethread.thread_manager import ThreadManager
from livethread_config import Settings
from livethread_worker.store.local import LocalThreadStore

AT = datetime(2030, 1, 2, 3, 4, 5, 678000, UTC)

#: Two values of each field, so that one can replace the other.
VALUES: dict[str, tuple[Any, Any]] = {
    "name": ("A name", "Größe 🎉"),
    "preview": ("A preview", ""),
    "title": ("A title", ""),
    "first_user_message": ("Hello", ""),
    "model_provider": ("azure", ""),
    "model": ("a-model", ""),
    "reasoning_effort": ("high", "low"),
    "created_at": (AT, AT - timedelta(days=9_000)),
    "updated_at": (AT, AT - timedelta(days=9_000)),
    "advance_recency_at": (AT, AT - timedelta(days=1)),
    "source": ("exec", {"custom": "x"}),
    "thread_source": ("automation", "user"),
    "agent_nickname": ("Ada", ""),
    "agent_role": ("reviewer", ""),
    "agent_path": ("root/review", ""),
    "cwd": ("/elsewhere", ""),
    "cli_version": ("9.9.9", ""),
    "approval_mode": ("never", {"granular": [None]}),
    "permission_profile": ({"network": False}, ["p"]),
    "token_usage": ({"total": 2**70}, {}),
    "git_info": ({"sha": "s2", "branch": None}, {"origin_url": "u2"}),
    "memory_mode": (MemoryMode.DISABLED, MemoryMode.ENABLED),
    "history_mode": ("paginated", "legacy"),
}

CREATED = types.CreateThreadParams(
    cwd="/work",
    git=GitInfo(commit_hash="s", branch="b", repository_url="u"),
    thread_source="user",
    agent_nickname="Bob",
    agent_role="r",
    agent_path="/r",
    memory_mode=MemoryMode.ENABLED,
)
TURN = [
    {"type": "event_msg", "payload": {"type": "task_started", "turn_id": "t1"}},
    {"type": "turn_context", "payload": {"cwd": "/turn", "model": "m", "effort": "high", "approval_policy": "never"}},
    {"type": "event_msg", "payload": {"type": "user_message", "message": "hello"}},
    {"type": "event_msg", "payload": {"type": "token_count", "info": {"total_token_usage": {"total": 7}}}},
]


def patches_of(field: str) -> dict[str, list[dict[str, Any]]]:
    first, second = VALUES[field]
    return {
        "set": [{field: first}],
        "set again": [{field: first}, {field: second}],
        "null": [{field: first}, {field: None}],
        "set before git": [{field: first}, {"git_info": {"branch": "later"}}],
        "set before git and the memory mode": [
            {field: second, "memory_mode": "disabled"},
            {"git_info": {"sha": None}},
        ],
    }


def test_every_field_is_covered() -> None:
    assert VALUES.keys() == ThreadMetadataPatch.model_fields.keys()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", sync="none")


async def stored(store: LocalThreadStore, thread_id: str = CREATED.thread_id) -> StoredThread:
    """Return the thread without its position: no rollout holds it."""
    thread = await store.read_thread(types.ReadThreadParams(thread_id=thread_id))
    return thread.model_copy(update={"position": START})


def delete_index(settings: Settings) -> None:
    for path in settings.own_dir.glob("index.sqlite*"):
        path.unlink()


@pytest.mark.parametrize("field", VALUES)
async def test_a_rebuilt_index_has_the_same_value_of_a_patched_field(settings: Settings, field: str) -> None:
    expected: dict[tuple[str, bool], StoredThread] = {}
    before: dict[tuple[str, bool], StoredThread] = {}
    async with LocalThreadStore(settings) as store:
        manager = ThreadManager(store)
        for (how, changes), is_loaded in product(patches_of(field).items(), (True, False)):
            created = CREATED.model_copy(update={"thread_id": new_thread_id()})
            thread = await manager.create_thread(created)
            await thread.append_items(TURN)
            await thread.flush()
            if not is_loaded:
                await thread.shutdown()
            case = how, is_loaded
            expected[case] = await stored(store, created.thread_id)
            for patch in map(ThreadMetadataPatch.model_validate, changes):
                await manager.update_thread_metadata(created.thread_id, patch)
                expected[case] = expected[case].patched(patch)
            before[case] = await stored(store, created.thread_id)
        await manager.shutdown()
    delete_index(settings)

    async with LocalThreadStore(settings) as store:
        after = {case: await stored(store, thread.thread_id) for case, thread in before.items()}

    assert before == expected
    assert {case: thread.model_dump() for case, thread in after.items()} == {
        case: thread.model_dump() for case, thread in before.items()
    }


@pytest.mark.parametrize("field", VALUES)
async def test_a_rebuilt_index_orders_patches_and_items_as_the_live_thread_did(
    settings: Settings, field: str
) -> None:
    """Items set the same fields, before and after the patches and an archive."""
    first, second = (ThreadMetadataPatch.model_validate({field: value}) for value in VALUES[field])
    archive = types.ArchiveThreadParams(thread_id=CREATED.thread_id)
    async with LocalThreadStore(settings) as store:
        thread = await LiveThread.create(store, CREATED)
        await thread.update_metadata(second)
        await thread.append_items(TURN)
        await thread.update_metadata(first)
        await thread.append_items(TURN)
        await store.archive_thread(archive)
        await thread.shutdown()
        thread = await LiveThread.resume(
            store, types.ResumeThreadParams(thread_id=CREATED.thread_id, include_archived=True)
        )
        await thread.append_items(TURN)
        await thread.update_metadata(second)
        await store.unarchive_thread(archive)
        await thread.append_items(TURN)
        await store.archive_thread(archive)
        await thread.shutdown()
        before = await stored(store)
    delete_index(settings)

    async with LocalThreadStore(settings) as store:
        after = await stored(store)

    assert after.model_dump() == before.model_dump()
