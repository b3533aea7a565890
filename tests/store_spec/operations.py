"""Short forms of operations that only these specifications use."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from tests.nodes.items import append, flush, message, new_thread, update

from livethread import (
    ArchiveThreadParams,
    DeleteThreadParams,
    LoadThreadHistoryParams,
    Receipt,
    ShutdownThreadParams,
    StoredThread,
    ThreadMetadataPatch,
    ThreadReader,
    ThreadStore,
)


async def archive(store: ThreadStore, thread_id: str) -> Receipt:
    return await store.archive_thread(ArchiveThreadParams(thread_id=thread_id))


async def unarchive(store: ThreadStore, thread_id: str) -> Receipt:
    return await store.unarchive_thread(ArchiveThreadParams(thread_id=thread_id))


async def delete(store: ThreadStore, thread_id: str) -> Receipt:
    return await store.delete_thread(DeleteThreadParams(thread_id=thread_id))


async def close(store: ThreadStore, *thread_ids: str) -> None:
    for thread_id in thread_ids:
        await store.shutdown_thread(ShutdownThreadParams(thread_id=thread_id))


async def stored(store: ThreadStore, *items: dict[str, Any], name: str | None = None, **params: Any) -> str:
    """Return the id of a new thread with *items*, open and flushed."""
    thread_id = await new_thread(store, **params)
    await append(store, thread_id, *(items or (message("one"),)))
    if name is not None:
        await update(store, thread_id, ThreadMetadataPatch(name=name))
    await flush(store, thread_id)
    return thread_id


async def ordinals(store: ThreadReader, thread_id: str) -> list[int | None]:
    loaded = await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))
    return [item.ordinal for item in loaded.items]


def path_of(thread: StoredThread) -> Path:
    assert thread.rollout_path is not None
    return thread.rollout_path


def home_of(thread: StoredThread) -> Path:
    """Return the home of an active thread."""
    return path_of(thread).parents[4]


def a_word() -> str:
    """Return a word that no other thread contains: tests that use a worker share its home."""
    return f"w{uuid.uuid4().hex}"
