"""An append with an idempotency key takes effect once in a thread's life."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.nodes.items import append, flush, history, message, metadata, new_thread, read, said, texts, update
from tests.store_spec.conftest import OpenStore
from tests.store_spec.kinds import FILES, LOCAL, SHARED
from tests.store_spec.operations import delete, home_of

from livethread import (
    AppendThreadItemsParams,
    Conflict,
    CreateThreadParams,
    InvalidRequest,
    LiveThread,
    ResumeThreadParams,
    Settings,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)
from livethread.position import position_key
from livethread.rollout.item import parse_items
from livethread_worker.store import LocalThreadStore


def usage(total: int, timestamp: str | None = None) -> dict[str, Any]:
    payload = {"type": "token_count", "info": {"total_token_usage": {"total_tokens": total}}}
    return {"type": "event_msg", "payload": payload} | ({"timestamp": timestamp} if timestamp else {})


async def test_appends_with_one_idempotency_key_succeed_and_store_the_first(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    first = await append(store, thread_id, message("first"), key="k")
    again = await append(store, thread_id, message("first"), key="k")
    other = await append(store, thread_id, message("other"), message("items"), key="k")
    await append(store, thread_id, message("after"))

    assert texts(await history(store, thread_id)) == ["first", "after"]
    assert [position_key(receipt.position) for receipt in (again, other)] >= [position_key(first.position)] * 2


async def test_concurrent_appends_with_one_idempotency_key_store_one(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    await asyncio.gather(*(append(store, thread_id, message(f"{n % 5}"), key=f"{n % 5}") for n in range(25)))

    assert texts(await history(store, thread_id)) == ["0", "1", "2", "3", "4"]


async def test_idempotency_keys_are_case_sensitive_and_belong_to_one_thread(store: ThreadStore) -> None:
    threads = [await new_thread(store) for _ in range(2)]

    for thread_id in threads:
        await append(store, thread_id, message("lower"), key="k")
        await append(store, thread_id, message("upper"), key="K")
        await append(store, thread_id, message("none"))

    for thread_id in threads:
        assert texts(await history(store, thread_id)) == ["lower", "upper", "none"]


async def test_items_come_back_without_their_idempotency_key(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    item = {"timestamp": "2026-01-02T03:04:05.678Z", **message("one"), "more": 1}

    await append(store, thread_id, item, key='a "key" \\ é 🎉')

    assert await history(store, thread_id) == list(parse_items([{**item, "ordinal": 1}]))


@pytest.mark.parametrize("key", ["", "k" * 201, "a\nb", "\0", "\x7f", "\u2028", "\ud800", 7])
def test_an_invalid_idempotency_key_is_refused(key: Any) -> None:
    items = parse_items([message("one")])

    with pytest.raises(InvalidRequest, match="idempotency_key"):
        AppendThreadItemsParams(thread_id=new_thread_id(), items=items, idempotency_key=key)


async def test_an_idempotency_key_may_be_long(store: ThreadStore) -> None:
    thread_id, key = await new_thread(store), "🎉" * 200

    for _ in range(2):
        await append(store, thread_id, message("one"), key=key)

    assert texts(await history(store, thread_id)) == ["one"]


# -- with compare-and-append -------------------------------------------------------------------------------


async def test_a_compare_and_append_that_succeeded_can_be_repeated(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    start = await append(store, thread_id, message("start"))
    await append(store, thread_id, message("one"), expected=start.position, key="k")

    again = await append(store, thread_id, message("one"), expected=start.position, key="k")

    await append(store, thread_id, message("two"), expected=again.position)
    assert texts(await history(store, thread_id)) == ["start", "one", "two"]


async def test_an_append_that_conflicted_leaves_its_idempotency_key_free(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("start"))
    for _ in range(2):
        with pytest.raises(Conflict):
            await append(store, thread_id, message("stale"), expected="1-1", key="k")

    await append(store, thread_id, message("one"), key="k")

    assert texts(await history(store, thread_id)) == ["start", "one"]


# -- other stores, and later -------------------------------------------------------------------------------


@SHARED
async def test_an_idempotency_key_counts_in_every_store(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"), key="k")
    await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    await append(second_store, thread_id, message("again"), key="k")
    await append(second_store, thread_id, message("two"), key="l")
    await flush(second_store, thread_id)
    await append(store, thread_id, message("again"), key="l")

    await flush(store, thread_id)
    assert texts(await history(second_store, thread_id)) == ["one", "two"]


@SHARED
async def test_a_compare_and_append_can_be_repeated_by_another_store(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await new_thread(store)
    start = await append(store, thread_id, message("start"))
    await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(store, thread_id, message("one"), expected=start.position, key="k")

    await append(second_store, thread_id, message("one"), expected=start.position, key="k")

    await flush(second_store, thread_id)
    assert texts(await history(second_store, thread_id)) == ["start", "one"]


@pytest.mark.parametrize("kind", [LOCAL, FILES])
async def test_idempotency_keys_survive_the_loss_of_the_index(store: ThreadStore, open_another: OpenStore) -> None:
    thread_id = await new_thread(store)
    start = await append(store, thread_id, message("start"))
    await append(store, thread_id, message("one"), key="k")
    home = home_of(await read(store, thread_id))
    for path in (home / "livethread").glob("index.sqlite*"):
        path.unlink()

    later = await open_another()
    await later.resume_thread(ResumeThreadParams(thread_id=thread_id))
    await append(later, thread_id, message("again"), expected=start.position, key="k")

    assert texts(await history(later, thread_id)) == ["start", "one"]


@pytest.mark.parametrize("kind", [LOCAL])
async def test_stores_with_and_without_an_index_know_each_others_idempotency_keys(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"), key="k")
    home = home_of(await read(store, thread_id))
    async with LocalThreadStore(Settings(home=home, redis_url=None), index=None) as other:
        await other.resume_thread(ResumeThreadParams(thread_id=thread_id))
        await append(other, thread_id, message("two"), key="l")

        await append(store, thread_id, message("again"), key="l")
        await append(other, thread_id, message("again"), key="k")

    assert texts(await history(store, thread_id)) == ["one", "two"]


async def test_a_deleted_thread_refuses_a_repeated_append(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"), key="k")
    await delete(store, thread_id)

    with pytest.raises(ThreadNotFound):
        await append(store, thread_id, message("one"), key="k")


# -- live threads ------------------------------------------------------------------------------------------


async def create(store: ThreadStore) -> LiveThread:
    return await LiveThread.create(store, CreateThreadParams())


async def test_a_repeated_append_changes_no_metadata(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([said("A title"), usage(1)], idempotency_key="k")
    await thread.append_items([usage(2)])
    await thread.flush()
    before = await metadata(store, thread.thread_id)

    for items in ([said("A title"), usage(1)], [said("Another"), usage(9, "2100-01-01T00:00:00Z")]):
        await thread.append_items(items, idempotency_key="k")
        await thread.flush()

    assert await metadata(store, thread.thread_id) == before
    assert (before.title, before.token_usage) == ("A title", {"total_tokens": 2})


async def test_derived_metadata_is_the_same_with_and_without_idempotency_keys(store: ThreadStore) -> None:
    items = [[said("A title"), usage(1)], [message("one")], [usage(2), said("later")]]
    params = [CreateThreadParams(created_at=datetime(2020, 1, 1, tzinfo=UTC)) for _ in range(2)]
    threads = [await LiveThread.create(store, each) for each in params]
    for number, each in enumerate(items):
        stamped = [{"timestamp": f"2026-01-0{number + 1}T00:00:00Z", **item} for item in each]
        await threads[0].append_items(stamped)
        await threads[1].append_items(stamped, idempotency_key=f"{number}")

    found = []
    for thread in threads:
        await thread.flush()
        stored = await thread.read_thread()
        found.append((stored.title, stored.preview, stored.token_usage, stored.updated_at))

    assert found[0] == found[1]


async def test_a_repeated_append_does_not_hide_a_later_title(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([message("first")], idempotency_key="k")
    await thread.append_items([said("Dropped")], idempotency_key="k")

    await thread.append_items([said("A title")])

    await thread.flush()
    assert (await thread.read_thread()).title == "A title"


async def test_a_derived_patch_is_stored_though_its_session_ends_with_the_append(
    store: ThreadStore,
) -> None:
    thread = await create(store)
    await thread.append_items([said("A title")], idempotency_key="k")
    await thread.discard()

    again = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread.thread_id))
    await again.append_items([said("Another")], idempotency_key="k")
    await again.flush()

    assert (await again.read_thread()).title == "A title"


async def test_an_explicit_title_stays_after_a_repeated_append(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([said("Said")], idempotency_key="k")
    await update(store, thread.thread_id, ThreadMetadataPatch(title="Given"))

    await thread.append_items([said("Said")], idempotency_key="k")

    await thread.flush()
    assert (await thread.read_thread()).title == "Given"


async def test_a_live_thread_can_compare_and_append(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([message("one")])
    await thread.flush()
    last = await thread.update_metadata(ThreadMetadataPatch(name="A name"))

    await thread.append_items([message("two")], expected_position=last.position)
    with pytest.raises(Conflict):
        await thread.append_items([message("stale")], expected_position=last.position)

    assert texts(await history(store, thread.thread_id)) == ["one", "two"]
