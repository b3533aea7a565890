from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.nodes.items import history, message, read, said, texts

from livethread import (
    AppendThreadItemsParams,
    ArchiveThreadParams,
    Conflict,
    CreateThreadParams,
    GitInfo,
    InvalidRequest,
    LiveThread,
    MemoryMode,
    ReadThreadParams,
    Receipt,
    ResumeThreadParams,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    UpdateThreadMetadataParams,
    new_thread_id,
)
from livethread.position import START, position_key
from livethread.rollout.item import parse_items

TURN = {
    "type": "turn_context",
    "payload": {
        "cwd": "/later",
        "approval_policy": "on-request",
        "sandbox_policy": {"mode": "read-only"},
        "model": "a-model",
        "effort": "high",
        "summary": "auto",
        "permission_profile": {"network": False},
    },
}
USAGE = {"type": "event_msg", "payload": {"type": "token_count", "info": {"total_token_usage": {"total_tokens": 7}}}}
STARTED = {"timestamp": "2100-01-01T00:00:00.000Z", "type": "event_msg", "payload": {"type": "task_started"}}
DROPPED: list[dict[str, Any]] = [
    {"type": "event_msg", "payload": {"type": "error", "message": "x"}},
    {"type": "event_msg", "payload": {"type": "agent_message_delta", "delta": "x"}},
    {"type": "response_item", "payload": {"type": "compaction_trigger"}},
    {"type": "thread_metadata", "payload": {"name": "forged"}},
]


DROPPED_KINDS = [
    "event_msg/error",
    "event_msg/agent_message_delta",
    "response_item/compaction_trigger",
    "thread_metadata",
]
UNKNOWN: list[dict[str, Any]] = [
    {"type": "response_item", "payload": {"type": "from_the_future", "text": "x"}},
    {"type": "event_msg", "payload": {"type": "from_the_future", "text": "x"}},
    {"type": "from_the_future", "payload": {"text": "x"}},
]


async def create(store: ThreadStore, **params: Any) -> LiveThread:
    return await LiveThread.create(store, CreateThreadParams.model_validate(params))


async def test_a_session_from_its_start_to_its_end(store: ThreadStore) -> None:
    thread = await create(store, cwd="/repo", thread_source="automation", git=GitInfo(branch="main"))

    await thread.append_items([STARTED, TURN, said("Fix the büild 🎉")])
    await thread.append_items([message("Done."), USAGE])
    await thread.flush()

    stored = await thread.read_thread(include_history=True)
    assert stored.history is not None
    assert [item.type for item in stored.history.items[1:]] == [
        "event_msg",
        "turn_context",
        "event_msg",
        "response_item",
        "event_msg",
    ]
    derived = {
        "title": stored.title,
        "preview": stored.preview,
        "first_user_message": stored.first_user_message,
        "model": stored.model,
        "effort": stored.reasoning_effort,
        "approval": stored.approval_mode,
        "profile": stored.permission_profile,
        "usage": stored.token_usage,
        "cwd": stored.cwd,
        "source": stored.thread_source,
        "recency": stored.recency_at.year,
    }
    assert derived == {
        "title": "Fix the büild 🎉",
        "preview": "Fix the büild 🎉",
        "first_user_message": "Fix the büild 🎉",
        "model": "a-model",
        "effort": "high",
        "approval": "on-request",
        "profile": {"network": False},
        "usage": {"total_tokens": 7},
        "cwd": "/repo",
        "source": "automation",
        "recency": 2100,
    }
    await thread.shutdown()
    assert await read(store, thread.thread_id) == stored.model_copy(update={"history": None})


async def test_items_that_the_policy_drops_are_not_stored(store: ThreadStore) -> None:
    thread = await create(store)

    receipt = await thread.append_items([*DROPPED, message("kept"), *DROPPED])

    assert texts(await history(store, thread.thread_id)) == ["kept"]
    assert receipt.dropped == 2 * len(DROPPED)
    assert (await thread.append_items([message("kept")])).dropped == 0


async def test_dropped_items_are_counted_and_logged_by_kind(
    store: ThreadStore, caplog: pytest.LogCaptureFixture
) -> None:
    thread = await create(store)

    with caplog.at_level(logging.DEBUG, "livethread.live_thread"):
        await thread.append_items([*DROPPED, message("kept")])
        await thread.append_items(DROPPED[:1])

    logged = [record.__dict__["kinds"] for record in caplog.records if record.name == "livethread.live_thread"]
    assert logged == [dict.fromkeys(DROPPED_KINDS, 1), {DROPPED_KINDS[0]: 1}]
    assert thread.dropped == {**dict.fromkeys(DROPPED_KINDS, 1), DROPPED_KINDS[0]: 2}


async def test_a_refused_append_drops_nothing(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([message("one")])

    with pytest.raises(Conflict):
        await thread.append_items([*DROPPED, message("two")], expected_position=START)

    assert not thread.dropped


async def test_an_item_of_an_unknown_kind_is_stored(store: ThreadStore) -> None:
    thread = await create(store)

    receipt = await thread.append_items(UNKNOWN)

    items = await history(store, thread.thread_id)
    assert [(item.type, item.payload) for item in items] == [(each["type"], each["payload"]) for each in UNKNOWN]
    assert receipt.dropped == 0


@pytest.mark.parametrize("unknown", UNKNOWN, ids=lambda item: str(item["type"]))
async def test_a_strict_thread_refuses_an_item_of_an_unknown_kind(
    store: ThreadStore, unknown: dict[str, Any]
) -> None:
    thread = await LiveThread.create(store, CreateThreadParams(), strict=True)
    await thread.append_items([message("one"), *DROPPED])

    with pytest.raises(InvalidRequest, match=r"^items\[1\]: .*from_the_future.* nothing was appended"):
        await thread.append_items([message("refused"), unknown])

    await thread.shutdown()
    resumed = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread.thread_id), strict=True)
    with pytest.raises(InvalidRequest, match="from_the_future"):
        await resumed.append_items([unknown])
    assert texts(await history(store, thread.thread_id)) == ["one"]


@pytest.mark.parametrize("mode", ["pagnated", ""])
async def test_a_strict_thread_refuses_an_unknown_history_mode(store: ThreadStore, mode: str) -> None:
    params = CreateThreadParams(history_mode=mode)
    with pytest.raises(InvalidRequest, match=f"does not know the history_mode '{mode}'"):
        await LiveThread.create(store, params, strict=True)

    await LiveThread.create(store, params)


async def test_a_paginated_thread_keeps_completed_items(store: ThreadStore) -> None:
    thread = await create(store)
    completed = {"type": "event_msg", "payload": {"type": "item_completed", "item": {"type": "AgentMessage"}}}
    await thread.append_items([said("kept"), completed])
    await thread.update_metadata(ThreadMetadataPatch(history_mode="paginated"))
    await thread.shutdown()

    resumed = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread.thread_id))
    await resumed.append_items([completed])

    history = await resumed.load_history()
    assert [item.kind for item in history.items[1:]] == ["user_message", "item_completed"]


async def test_a_thread_can_begin_as_paginated(store: ThreadStore) -> None:
    thread = await create(store, history_mode="paginated")
    text = {"type": "text", "text": "Hello"}
    asked = {"type": "item_completed", "item": {"type": "UserMessage", "content": [text]}}

    receipt = await thread.append_items([said("dropped"), {"type": "event_msg", "payload": asked}])

    stored = await thread.read_thread(include_history=True)
    assert stored.history is not None
    assert [item.kind for item in stored.history.items[1:]] == ["item_completed"]
    assert (stored.history_mode, stored.preview, receipt.dropped) == ("paginated", "Hello", 1)


async def test_an_append_without_kept_items_returns_the_previous_receipt(store: ThreadStore) -> None:
    thread = await create(store)
    nothing = await thread.append_items(DROPPED)
    with pytest.raises(ThreadNotFound):
        await thread.read_thread()
    first = await thread.append_items([message("one")])

    assert nothing == Receipt(thread_id=thread.thread_id, position=START, dropped=len(DROPPED))
    assert await thread.append_items(DROPPED) == first.model_copy(update={"dropped": len(DROPPED)})
    assert await thread.append_items([]) == first


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        None,
        {"payload": {}},
        {"type": ["event_msg"], "payload": {}},
        {"type": "event_msg", "payload": 5},
        message("x", value=float("nan")),
        message("\ud800"),
    ],
    ids=[
        "a string",
        "null",
        "no type",
        "a type that is a list",
        "a payload that is not an object",
        "NaN",
        "a lone surrogate",
    ],
)
async def test_a_malformed_item_is_refused_and_nothing_is_appended(store: ThreadStore, bad: Any) -> None:
    thread = await create(store)

    with pytest.raises(InvalidRequest):
        await thread.append_items([message("good"), bad])

    await thread.append_items([message("one")])
    assert texts(await history(store, thread.thread_id)) == ["one"]


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_mode": []},
        {"memory_mode": "maybe"},
        {"source": 5},
        {"source": {}},
        {"thread_source": ""},
        {"thread_source": {"kind": "user"}},
        {"git": []},
        {"timestamp": 5},
        {"cwd": None},
    ],
    ids=str,
)
async def test_an_item_with_odd_metadata_is_stored_and_breaks_nothing(
    store: ThreadStore, fields: dict[str, Any]
) -> None:
    """An append either stores its items or raises, never both."""
    thread = await create(store)
    await thread.append_items([message("one")])
    odd = {"type": "session_meta", "payload": {"id": thread.thread_id, **fields}}

    await thread.append_items([odd])

    await thread.append_items([message("two")])
    await thread.flush()
    items = await history(store, thread.thread_id)
    assert [item.type for item in items] == ["response_item", "session_meta", "response_item"]


async def test_concurrent_calls_take_effect_in_the_order_of_the_calls(store: ThreadStore) -> None:
    thread = await create(store)

    receipts = await asyncio.gather(*(thread.append_items([said(f"{n}")]) for n in range(30)))

    assert texts(await history(store, thread.thread_id)) == [f"{n}" for n in range(30)]
    assert (await thread.read_thread()).title == "0"
    positions = [position_key(receipt.position) for receipt in receipts]
    assert positions == sorted(set(positions))


async def test_an_explicit_name_and_title_stay(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([said("first")])

    await thread.update_metadata(ThreadMetadataPatch(name="A name", title="Chosen"))
    await thread.append_items([said("second")])

    stored = await thread.read_thread()
    assert (stored.name, stored.title, stored.preview) == ("A name", "Chosen", "first")


async def test_update_memory_mode_sets_the_memory_mode(store: ThreadStore) -> None:
    thread = await create(store)

    await thread.update_memory_mode(MemoryMode.DISABLED)

    assert (await thread.read_thread()).memory_mode is MemoryMode.DISABLED


async def test_a_resumed_thread_goes_on_with_its_metadata(store: ThreadStore) -> None:
    first = await create(store, cwd="/repo")
    await first.append_items([said("first")])
    await first.shutdown()

    thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=first.thread_id))
    await thread.append_items([said("second"), TURN])

    stored = await thread.read_thread()
    assert (stored.title, stored.cwd, stored.model) == ("first", "/repo", "a-model")
    assert len(await history(store, thread.thread_id)) == 3


async def test_updated_at_is_the_latest_timestamp_of_the_items(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([said("a fact")])

    await thread.append_items([
        {**message("later"), "timestamp": "2100-01-01T00:00:00.000Z"},
        {**message("earlier"), "timestamp": "2099-01-01T00:00:00.000Z"},
    ])

    assert (await thread.read_thread()).updated_at.year == 2100


async def test_a_derived_patch_takes_effect_together_with_its_items(store: ThreadStore) -> None:
    """No other task comes between, and no patch remains to be sent later."""
    thread = await create(store)
    receipt = await thread.append_items([said("a fact"), TURN])

    stored = await store.append_items(
        AppendThreadItemsParams(
            thread_id=thread.thread_id,
            items=parse_items([message("next")]),
            expected_position=receipt.position,
        )
    )

    assert position_key(stored.position) > position_key(receipt.position)
    known = await store.read_thread(ReadThreadParams(thread_id=thread.thread_id))
    assert (known.title, known.model) == ("a fact", "a-model")


async def test_persisting_stores_a_thread_without_items(store: ThreadStore) -> None:
    thread = await create(store, cwd="/repo")

    await thread.persist()

    assert (await thread.read_thread()).cwd == "/repo"


async def test_a_handle_that_was_shut_down_refuses_every_call(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([message("one")])
    await thread.shutdown()
    await thread.shutdown()

    calls: list[Any] = [
        lambda: thread.append_items([message("late")]),
        lambda: thread.update_metadata(ThreadMetadataPatch(name="late")),
        thread.persist,
        thread.flush,
    ]
    for call in calls:
        with pytest.raises(ThreadNotFound, match="shut down or discarded"):
            await call()

    assert not thread.is_open
    assert texts(await history(store, thread.thread_id)) == ["one"]


async def test_concurrent_shutdowns_of_one_handle_succeed(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([message("one")])

    await asyncio.gather(thread.shutdown(), thread.shutdown())

    assert not thread.is_open


async def test_shutting_down_and_discarding_one_handle_leaves_the_other_open(store: ThreadStore) -> None:
    first = await create(store)
    await first.append_items([message("one")])
    second = await LiveThread.resume(store, ResumeThreadParams(thread_id=first.thread_id))

    await first.shutdown()
    await first.discard()  # as a session's clean-up always does

    await second.append_items([message("two")])
    assert texts(await history(store, second.thread_id)) == ["one", "two"]


async def test_two_handles_of_one_thread_write_in_the_order_of_their_calls(store: ThreadStore) -> None:
    first = await create(store)
    await first.append_items([message("0")])
    second = await LiveThread.resume(store, ResumeThreadParams(thread_id=first.thread_id))

    await asyncio.gather(*((first, second)[n % 2].append_items([message(f"{n}")]) for n in range(1, 20)))

    assert texts(await history(store, first.thread_id)) == [f"{n}" for n in range(20)]


async def test_the_store_accepts_an_item_that_a_live_thread_wrote(store: ThreadStore) -> None:
    """A handle adds nothing to items that the store would refuse from another caller."""
    thread = await create(store)
    await thread.append_items([message("one")])
    item = (await thread.load_history()).items[1]

    await thread.flush()
    await store.append_items(AppendThreadItemsParams(thread_id=thread.thread_id, items=(item,)))
    await store.update_thread_metadata(
        UpdateThreadMetadataParams(thread_id=thread.thread_id, patch=ThreadMetadataPatch(model="m"))
    )

    assert texts(await history(store, thread.thread_id)) == ["one", "one"]
    assert (await store.read_thread(ReadThreadParams(thread_id=thread.thread_id))).model == "m"


async def test_rollout_path_is_none_in_memory_and_a_file_in_other_stores(store: ThreadStore, kind: str) -> None:
    thread = await create(store)
    await thread.append_items([message("one")])

    path = await thread.rollout_path()

    assert (path is None) == (kind == "memory")
    assert path is None or path.read_bytes().count(b"\n") == 2


async def test_an_unknown_thread_cannot_be_resumed(store: ThreadStore) -> None:
    with pytest.raises(ThreadNotFound):
        await LiveThread.resume(store, ResumeThreadParams(thread_id=new_thread_id()))


async def test_reads_of_an_archived_thread_can_be_refused(store: ThreadStore) -> None:
    thread = await create(store)
    await thread.append_items([message("one")])
    whole = await thread.load_history()
    await store.archive_thread(ArchiveThreadParams(thread_id=thread.thread_id))

    assert (await thread.read_thread()).archived_at is not None
    assert (await thread.load_history()).items == whole.items
    assert (await thread.load_latest_model_context()).items == whole.items
    for read_it in (thread.read_thread, thread.load_history, thread.load_latest_model_context):
        with pytest.raises(ThreadNotFound, match="it is archived; include_archived=True finds it"):
            await read_it(include_archived=False)
