"""Appends with derived patches: what the mailbox holds, and what the caller and observers get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.nodes.items import message, new_thread
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually

from livethread import (
    AppendThreadItemsParams,
    Conflict,
    QueuedThreadStore,
    Receipt,
    ResourceExhausted,
    ThreadMetadataPatch,
    UpdateThreadMetadataParams,
)
from livethread.metadata import MetadataUpdate
from livethread.observers import ItemsAppended, MetadataUpdated
from livethread.rollout.item import parse_items
from livethread_config import Settings, names


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "local"})


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings) as store:
        yield store


class MailboxContents:
    """A thread's mailbox in Redis."""

    def __init__(self, redis_server: RedisServer, settings: Settings, thread_id: str) -> None:
        self._redis: Any = redis_server.client
        self._mailbox = names.ShardKeys(settings.key_prefix, 0).mailbox(thread_id)

    def positions(self) -> list[str]:
        return [position.decode() for position, _ in self._redis.xrange(self._mailbox)]

    def tasks(self) -> list[dict[str, Any]]:
        return [json.loads(fields[b"task"]) for _, fields in self._redis.xrange(self._mailbox)]

    def ops(self) -> list[str]:
        return [task["op"] for task in self.tasks()]


def derived(title: str) -> MetadataUpdate:
    return MetadataUpdate(patch=ThreadMetadataPatch(title=title), only_if_unset=frozenset({"title"}))


async def append(store: QueuedThreadStore, thread_id: str, text: str, **more: Any) -> Receipt:
    items = parse_items([message(text)])
    return await store.append_items(
        AppendThreadItemsParams(thread_id=thread_id, items=items, **{"metadata": derived(text), **more})
    )


async def test_appends_enqueue_the_creation_and_their_derived_patches(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id, events = await new_thread(store), list[object]()
    held = MailboxContents(redis_server, settings, thread_id)
    store.observers.subscribe(events.append)

    receipts = [await append(store, thread_id, f"{n}") for n in range(5)]

    assert held.ops() == ["create_thread", *["append_items", "update_thread_metadata"] * 5]
    appends, patches = held.positions()[1::2], held.positions()[2::2]
    assert [receipt.position for receipt in receipts] == patches
    assert [event.position for event in events if isinstance(event, ItemsAppended)] == appends
    assert [event for event in events if isinstance(event, MetadataUpdated)] == [
        MetadataUpdated(thread_id, position, ("title",)) for position in patches
    ]


async def test_a_derived_patch_is_marked_and_has_the_time_of_its_append(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id = await new_thread(store)

    await append(store, thread_id, "a title")

    _, appended, patch = MailboxContents(redis_server, settings, thread_id).tasks()
    assert patch == {
        "op": "update_thread_metadata",
        "derived": True,
        "at": appended["at"],
        "patch": {"title": "a title"},
        "only_if_unset": ["title"],
    }


async def test_a_receipt_serves_as_the_next_expected_position(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id = await new_thread(store)
    first = await append(store, thread_id, "1", expected_position="0-0")
    await append(store, thread_id, "2", expected_position=first.position)

    with pytest.raises(Conflict):
        await append(store, thread_id, "stale", expected_position=first.position)

    assert (
        MailboxContents(redis_server, settings, thread_id).ops()[1:] == ["append_items", "update_thread_metadata"] * 2
    )


async def test_an_empty_patch_is_not_sent(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id = await new_thread(store)

    receipt = await append(store, thread_id, "1", metadata=MetadataUpdate(patch=ThreadMetadataPatch()))

    held = MailboxContents(redis_server, settings, thread_id)
    assert held.ops() == ["create_thread", "append_items"]
    assert receipt.position == held.positions()[-1]


async def test_a_mailbox_with_room_for_one_task_accepts_neither(
    redis_server: RedisServer, settings: Settings
) -> None:
    async with opened(settings.model_copy(update={"mailbox_max_tasks": 4})) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, "1")

        with pytest.raises(ResourceExhausted):
            await append(store, thread_id, "2")
        await append(store, thread_id, "3", metadata=None)

    assert MailboxContents(redis_server, settings, thread_id).ops()[1:] == [
        "append_items",
        "update_thread_metadata",
        "append_items",
    ]


async def test_a_cancelled_append_is_stored_with_its_patch(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id = await new_thread(store)
    appending = asyncio.ensure_future(append(store, thread_id, "1"))
    await asyncio.sleep(0)  # it is queued

    appending.cancel()

    held = MailboxContents(redis_server, settings, thread_id)
    await eventually(lambda: len(held.ops()) == 3, "the tasks")
    assert held.ops()[1:] == ["append_items", "update_thread_metadata"]
    assert appending.cancelled()


async def test_an_explicit_patch_names_the_fields_that_it_sets_only_if_unset(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, "1", metadata=None)

    await store.update_thread_metadata(
        UpdateThreadMetadataParams(
            thread_id=thread_id, patch=ThreadMetadataPatch(title="t"), only_if_unset=frozenset({"title"})
        )
    )

    patch = MailboxContents(redis_server, settings, thread_id).tasks()[-1]
    assert (patch["only_if_unset"], "derived" in patch) == (["title"], False)
