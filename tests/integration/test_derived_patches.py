"""Appends that bring the patch derived from them: what the mailbox holds, what the caller and observers learn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.nodes.items import message, new_thread, said
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import HandWorker, draining

from livethread import (
    AppendThreadItemsParams,
    Conflict,
    CreateThreadParams,
    LiveThread,
    QueuedThreadStore,
    Receipt,
    ResourceExhausted,
    ThreadMetadataPatch,
    UpdateThreadMetadataParams,
)
from livethread.metadata import MetadataUpdate
from livethread.observers import ItemsAppended, MetadataUpdated, ThreadInitialized
from livethread.rollout.item import parse_items
from livethread_config import Settings, names


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "local"})


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings) as store:
        yield store


class Held:
    """The mailbox of a thread as Redis holds it."""

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


async def test_five_appends_to_a_new_thread_bring_its_creation_and_their_patches(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id, events = await new_thread(store), list[object]()
    held = Held(redis_server, settings, thread_id)
    store.observers.subscribe(events.append)

    receipts = [await append(store, thread_id, f"{n}") for n in range(5)]

    assert held.ops() == ["create_thread", *["append_items", "update_thread_metadata"] * 5]
    appends, patches = held.positions()[1::2], held.positions()[2::2]
    assert [receipt.position for receipt in receipts] == patches
    assert [event.position for event in events if isinstance(event, ItemsAppended)] == appends
    assert [event for event in events if isinstance(event, MetadataUpdated)] == [
        MetadataUpdated(thread_id, position, ("title",)) for position in patches
    ]


async def test_the_patch_says_what_it_follows_from_and_has_the_time_of_its_append(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id = await new_thread(store)

    await append(store, thread_id, "a title")

    _, appended, patch = Held(redis_server, settings, thread_id).tasks()
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

    assert Held(redis_server, settings, thread_id).ops()[1:] == ["append_items", "update_thread_metadata"] * 2


async def test_an_empty_patch_is_not_sent(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id = await new_thread(store)

    receipt = await append(store, thread_id, "1", metadata=MetadataUpdate(patch=ThreadMetadataPatch()))

    held = Held(redis_server, settings, thread_id)
    assert held.ops() == ["create_thread", "append_items"]
    assert receipt.position == held.positions()[-1]


async def test_a_mailbox_with_one_place_left_takes_neither(redis_server: RedisServer, settings: Settings) -> None:
    async with opened(settings.model_copy(update={"mailbox_max_tasks": 4})) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, "1")

        with pytest.raises(ResourceExhausted):
            await append(store, thread_id, "2")
        await append(store, thread_id, "3", metadata=None)

    assert Held(redis_server, settings, thread_id).ops()[1:] == [
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

    held = Held(redis_server, settings, thread_id)
    await eventually(lambda: len(held.ops()) == 3, "the tasks")
    assert held.ops()[1:] == ["append_items", "update_thread_metadata"]
    assert appending.cancelled()


async def test_a_thread_whose_only_append_was_cancelled_is_started_once_it_is_flushed(
    store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    events = list[object]()
    store.observers.subscribe(events.append)
    thread = await LiveThread.create(store, CreateThreadParams())
    appending = asyncio.ensure_future(thread.append_items([said("1")]))
    await asyncio.sleep(0)  # it is queued
    appending.cancel()

    async with draining(hand_worker):
        await thread.flush()
        await thread.shutdown()

    assert [event.thread_id for event in events if isinstance(event, ThreadInitialized)] == [thread.thread_id]


async def test_an_explicit_patch_says_which_fields_it_sets_only_if_unset(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, "1", metadata=None)

    await store.update_thread_metadata(
        UpdateThreadMetadataParams(
            thread_id=thread_id, patch=ThreadMetadataPatch(title="t"), only_if_unset=frozenset({"title"})
        )
    )

    patch = Held(redis_server, settings, thread_id).tasks()[-1]
    assert (patch["only_if_unset"], "derived" in patch) == (["title"], False)
