from __future__ import annotations

import asyncio
import math
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.nodes.items import (
    append,
    flush,
    history,
    message,
    metadata,
    new_thread,
    payload_of,
    payloads,
    read,
    said,
    texts,
    update,
)
from tests.store_spec.kinds import MAX_ITEM_BYTES, SHARED

from livethread import (
    AppendThreadItemsParams,
    Conflict,
    DiscardThreadParams,
    InvalidRequest,
    ItemsAppended,
    MetadataUpdated,
    PersistThreadParams,
    Receipt,
    ResourceExhausted,
    ResumeThreadParams,
    RolloutItem,
    ShutdownThreadParams,
    ThreadEvent,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    new_thread_id,
)
from livethread.metadata import MetadataUpdate
from livethread.position import START, position_key
from livethread.rollout.item import parse_items

#: Later than every thread of these tests.
LATER = datetime(2126, 1, 1, tzinfo=UTC)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


NOT_JSON = [
    pytest.param(math.nan, id="NaN"),
    pytest.param(math.inf, id="Infinity"),
    pytest.param([{"deep": -math.inf}], id="-Infinity, deep inside"),
    pytest.param("\ud83c", id="a lone surrogate"),
    pytest.param({"\udf89": 1}, id="a lone surrogate in a key"),
    pytest.param({1: "one"}, id="a key that is not a string"),
    pytest.param({None: 1, "big": 2**70}, id="a key that is not a string, beside a long integer"),
    pytest.param([math.nan, 2**70], id="NaN beside a long integer"),
    pytest.param({1, 2}, id="a set"),
    pytest.param(b"bytes", id="bytes"),
    pytest.param(object(), id="an object"),
    pytest.param(datetime(2026, 1, 1, tzinfo=UTC), id="a datetime"),
    pytest.param(uuid.UUID(int=1), id="a UUID"),
    pytest.param(nested(200), id="nested deeper than codex reads"),
    pytest.param(nested(5000), id="nested deeper than Python recurses"),
]


@pytest.mark.parametrize("value", NOT_JSON)
async def test_an_item_that_is_not_json_is_refused_with_its_whole_append(store: ThreadStore, value: object) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("before"))

    with pytest.raises(InvalidRequest):
        await append(store, thread_id, message("good"), payload_of(value), message("good"))

    await append(store, thread_id, message("after"))
    assert texts(await history(store, thread_id)) == ["before", "after"]


async def test_an_error_about_an_item_does_not_repeat_its_contents(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    with pytest.raises(InvalidRequest) as failure:
        await append(store, thread_id, payload_of({"secret": "my password", "n": math.nan}))

    assert "value.n is nan" in str(failure.value)
    assert "my password" not in str(failure.value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(2**63, id="2**63"),
        pytest.param(2**64 + 1, id="2**64 + 1"),
        pytest.param(-(2**200), id="-(2**200)"),
        pytest.param({"a": [2**80, 1.5]}, id="beside a float"),
        pytest.param(9007199254740993, id="2**53 + 1"),
        pytest.param(1e308, id="a large float"),
        pytest.param(0.1 + 0.2, id="a float of 17 digits"),
        pytest.param([None, True, False, 0, -1, "", [], {}], id="every other kind"),
        pytest.param("Grüße 🎉 \u2028 \x00 \x7f \\ \" ' \n \r \t", id="line separators and control characters"),
        pytest.param("1234567890123456789012345", id="a string of digits"),
        pytest.param(nested(100), id="nested as deep as codex reads"),
    ],
)
async def test_a_value_comes_back_exactly(store: ThreadStore, value: object) -> None:
    thread_id = await new_thread(store)

    await append(store, thread_id, payload_of(value))

    [payload] = await payloads(store, thread_id)
    assert payload["value"] == value
    assert repr(payload["value"]) == repr(value)


async def test_items_come_back_in_order_with_their_ordinals(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    await append(store, thread_id, *(message(f"{n}") for n in range(10)))
    for n in range(10, 20):
        await append(store, thread_id, message(f"{n}"))

    items = await history(store, thread_id)
    assert texts(items) == [f"{n}" for n in range(20)]
    assert [item.ordinal for item in items] == list(range(1, 21))


async def test_unknown_fields_and_types_are_kept(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    at = "2026-01-02T03:04:05.678Z"
    foreign = {"timestamp": at, "type": "from_the_future", "payload": [1], "ttl": {"s": 1}}

    await append(store, thread_id, foreign)

    [item] = await history(store, thread_id)
    assert item == RolloutItem("from_the_future", [1], at, 1, {"ttl": {"s": 1}})


async def test_fields_that_the_store_sets_are_not_taken_from_the_item(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    forged = {**message("one"), "ordinal": 77, "seq": "forged:1", "idempotency_key": "k"}

    await append(store, thread_id, forged, key="l")
    await append(store, thread_id, message("two"), key="k")

    first, second = await history(store, thread_id)
    assert (first.ordinal, second.ordinal) == (1, 2)
    assert not first.extra
    assert not second.extra


async def test_an_item_without_a_timestamp_gets_the_time_of_its_append(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    before = datetime.now(UTC)

    await append(store, thread_id, message("one"), {**message("two"), "timestamp": "2020-01-01T01:00:00+01:00"})

    first, second = await history(store, thread_id)
    assert first.timestamp is not None
    at = datetime.fromisoformat(first.timestamp)
    assert before.timestamp() - 0.001 <= at.timestamp() <= datetime.now(UTC).timestamp()
    assert second.timestamp == "2020-01-01T00:00:00.000Z"


@pytest.mark.parametrize("timestamp", ["yesterday", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
async def test_an_item_with_an_invalid_timestamp_is_refused(store: ThreadStore, timestamp: str) -> None:
    thread_id = await new_thread(store)

    with pytest.raises(InvalidRequest):
        await append(store, thread_id, {**message("one"), "timestamp": timestamp})


async def test_an_item_over_the_limit_is_refused_with_its_whole_append(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    with pytest.raises(ResourceExhausted, match=f"the limit of {MAX_ITEM_BYTES}"):
        await append(store, thread_id, message("good"), message("x" * MAX_ITEM_BYTES))

    await append(store, thread_id, message("y" * (MAX_ITEM_BYTES - 1000)))
    assert [len(text) for text in texts(await history(store, thread_id))] == [MAX_ITEM_BYTES - 1000]


async def test_the_limit_counts_bytes_not_characters(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    with pytest.raises(ResourceExhausted):
        await append(store, thread_id, message("🎉" * (MAX_ITEM_BYTES // 4)))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("a string", id="a string"),
        pytest.param(["type", "payload"], id="a list"),
        pytest.param(None, id="null"),
        pytest.param({"payload": {}}, id="no type"),
        pytest.param({"type": "", "payload": {}}, id="an empty type"),
        pytest.param({"type": 5, "payload": {}}, id="a type that is a number"),
        pytest.param({"type": ["event_msg"], "payload": {}}, id="a type that is a list"),
        pytest.param({"type": {}, "payload": {}}, id="a type that is an object"),
        pytest.param({"type": "\ud800", "payload": {}}, id="a type that is a lone surrogate"),
        pytest.param({"type": "turn_context"}, id="no payload"),
        pytest.param({"type": "event_msg", "payload": "text"}, id="an event that is not an object"),
        pytest.param({"type": "event_msg", "payload": {"message": "x"}}, id="an event without a kind"),
        pytest.param({"type": "response_item", "payload": {"type": 1}}, id="a response item whose kind is a number"),
        pytest.param({"type": "x", "payload": {}, "timestamp": 5}, id="a timestamp that is a number"),
        pytest.param({"type": "x", "payload": {}, "ordinal": "one"}, id="an ordinal that is a string"),
        pytest.param({"type": "x", "payload": {}, 5: 6}, id="a key that is not a string"),
    ],
)
def test_a_malformed_item_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_items([value])


async def test_an_append_without_items_is_refused(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    with pytest.raises(InvalidRequest):
        await append(store, thread_id)


async def test_a_thread_that_is_not_open_refuses_appends(store: ThreadStore) -> None:
    shut_down, discarded = await new_thread(store), await new_thread(store)
    await append(store, shut_down, message("one"))
    await store.shutdown_thread(ShutdownThreadParams(thread_id=shut_down))
    await store.discard_thread(DiscardThreadParams(thread_id=discarded))

    for thread_id in (new_thread_id(), shut_down, discarded):
        with pytest.raises(ThreadNotFound):
            await append(store, thread_id, message("two"))

    assert texts(await history(store, shut_down)) == ["one"]


def test_an_id_that_is_not_a_uuid_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="a thread id is a UUID"):
        AppendThreadItemsParams(thread_id="my-thread", items=())


async def test_positions_of_a_thread_only_grow(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    receipts = [await append(store, thread_id, message("x")) for _ in range(20)]

    keys = [position_key(receipt.position) for receipt in receipts]
    assert keys == sorted(set(keys))
    assert {receipt.thread_id for receipt in receipts} == {thread_id}


async def test_concurrent_appends_take_effect_in_the_order_of_their_calls(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    receipts = await asyncio.gather(*(append(store, thread_id, message(f"{n}")) for n in range(50)))

    assert texts(await history(store, thread_id)) == [f"{n}" for n in range(50)]
    positions = [position_key(receipt.position) for receipt in receipts]
    assert positions == sorted(set(positions))


async def test_a_raw_append_changes_only_history_and_updated_at(store: ThreadStore) -> None:
    thread_id = await new_thread(store, cwd="/repo")
    await store.persist_thread(PersistThreadParams(thread_id=thread_id))
    await flush(store, thread_id)
    before = await metadata(store, thread_id)

    await store.append_items(
        AppendThreadItemsParams(
            thread_id=thread_id,
            items=parse_items([
                said("A title"),
                {"type": "turn_context", "payload": {"cwd": "/elsewhere", "model": "a-model"}},
                {"type": "session_meta", "payload": {"id": thread_id, "cwd": "/other", "source": "exec"}},
            ]),
            appended_at=LATER,
        )
    )

    await flush(store, thread_id)
    assert await metadata(store, thread_id) == before.model_copy(update={"updated_at": LATER})


# -- with metadata -----------------------------------------------------------------------------------------


def with_title(thread_id: str, title: str, **params: Any) -> AppendThreadItemsParams:
    """Return an append with the patch that `LiveThread` would derive from it."""
    patch = ThreadMetadataPatch(title=title, model=title)
    update = MetadataUpdate(patch=patch, only_if_unset=frozenset({"title"}))
    return AppendThreadItemsParams(thread_id=thread_id, items=parse_items([said(title)]), metadata=update, **params)


async def title_and_model(store: ThreadStore, thread_id: str) -> tuple[str | None, str | None]:
    await flush(store, thread_id)
    thread = await read(store, thread_id)
    return thread.title, thread.model


async def test_an_append_and_its_metadata_take_effect_together(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    for title in ("first", "second"):
        await store.append_items(with_title(thread_id, title))

    assert await title_and_model(store, thread_id) == ("first", "second")


async def test_the_receipt_of_an_append_with_metadata_is_the_threads_last_position(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    receipt = await store.append_items(with_title(thread_id, "first"))

    again = await store.append_items(with_title(thread_id, "second", expected_position=receipt.position))

    assert position_key(again.position) > position_key(receipt.position)


async def test_the_metadata_of_a_refused_append_has_no_effect(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await store.append_items(with_title(thread_id, "first"))

    with pytest.raises(Conflict):
        await store.append_items(with_title(thread_id, "second", expected_position=START))

    assert await title_and_model(store, thread_id) == ("first", "first")


async def test_the_metadata_of_a_repeated_append_has_no_effect(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await store.append_items(with_title(thread_id, "first", idempotency_key="k"))

    await store.append_items(with_title(thread_id, "second", idempotency_key="k"))

    assert await title_and_model(store, thread_id) == ("first", "first")


async def test_an_explicit_empty_title_stays_empty(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await update(store, thread_id, ThreadMetadataPatch(title=""))

    await store.append_items(with_title(thread_id, "derived"))

    assert await title_and_model(store, thread_id) == ("", "derived")


async def test_an_append_and_its_metadata_are_both_reported(store: ThreadStore) -> None:
    events: list[ThreadEvent] = []
    store.observers.subscribe(events.append)
    thread_id = await new_thread(store)

    receipt = await store.append_items(with_title(thread_id, "first"))

    [appended] = [event for event in events if isinstance(event, ItemsAppended)]
    [updated] = [event for event in events if isinstance(event, MetadataUpdated)]
    assert position_key(appended.position) < position_key(updated.position)
    assert (updated.position, updated.fields) == (receipt.position, ("title", "model"))


# -- compare and append ------------------------------------------------------------------------------------


async def test_an_append_at_the_expected_position_is_accepted(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    first = await append(store, thread_id, message("one"))

    second = await append(store, thread_id, message("two"), expected=first.position)

    await append(store, thread_id, message("three"), expected=second.position)
    assert texts(await history(store, thread_id)) == ["one", "two", "three"]


async def test_an_append_that_expects_another_position_conflicts_and_stores_nothing(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    first = await append(store, thread_id, message("one"))
    last = await append(store, thread_id, message("two"))

    with pytest.raises(Conflict, match=last.position) as conflict:
        await append(store, thread_id, message("stale"), expected=first.position)

    assert conflict.value.last_position == last.position
    await append(store, thread_id, message("three"), expected=last.position)
    assert texts(await history(store, thread_id)) == ["one", "two", "three"]


async def test_a_patch_moves_the_position_too(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    first = await append(store, thread_id, message("one"))
    named = await update(store, thread_id, ThreadMetadataPatch(name="A name"))

    with pytest.raises(Conflict):
        await append(store, thread_id, message("stale"), expected=first.position)

    await append(store, thread_id, message("two"), expected=named.position)


async def test_the_first_append_of_a_new_thread_may_expect_the_start(store: ThreadStore) -> None:
    thread_id = await new_thread(store)

    await append(store, thread_id, message("one"), expected=START)

    assert texts(await history(store, thread_id)) == ["one"]


async def test_a_new_thread_goes_on_after_its_first_append_conflicted(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    with pytest.raises(Conflict):
        await append(store, thread_id, message("stale"), expected="1-1")

    await append(store, thread_id, message("one"))

    assert texts(await history(store, thread_id)) == ["one"]


async def test_one_of_two_concurrent_appends_at_the_same_position_conflicts(store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    start = await append(store, thread_id, message("start"))

    outcomes = await asyncio.gather(
        append(store, thread_id, message("a"), expected=start.position),
        append(store, thread_id, message("b"), expected=start.position),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [Receipt, Conflict]
    assert texts(await history(store, thread_id)) == ["start", "a"]


@SHARED
async def test_one_of_two_writers_at_the_same_position_conflicts(
    store: ThreadStore, second_store: ThreadStore
) -> None:
    thread_id = await new_thread(store)
    position = (await append(store, thread_id, message("start"))).position
    await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    for number in range(10):
        outcomes = await asyncio.gather(
            append(store, thread_id, message(f"{number}"), expected=position),
            append(second_store, thread_id, message(f"{number}"), expected=position),
            return_exceptions=True,
        )
        [receipt] = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
        assert [type(outcome) for outcome in outcomes if outcome is not receipt] == [Conflict]
        position = receipt.position

    await flush(store, thread_id)
    await flush(second_store, thread_id)
    assert texts(await history(store, thread_id)) == ["start", *(f"{number}" for number in range(10))]


@SHARED
async def test_concurrent_writers_share_one_order(store: ThreadStore, second_store: ThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("start"))
    await second_store.resume_thread(ResumeThreadParams(thread_id=thread_id))

    receipts = await asyncio.gather(
        *(append(store, thread_id, message(f"a{n}")) for n in range(30)),
        *(append(second_store, thread_id, message(f"b{n}")) for n in range(30)),
    )

    await flush(store, thread_id)
    await flush(second_store, thread_id)
    stored = texts(await history(store, thread_id))
    assert [text for text in stored if text[0] == "a"] == [f"a{n}" for n in range(30)]
    assert [text for text in stored if text[0] == "b"] == [f"b{n}" for n in range(30)]
    names = [*(f"a{n}" for n in range(30)), *(f"b{n}" for n in range(30))]
    by_position = sorted(zip(receipts, names, strict=True), key=lambda pair: position_key(pair[0].position))
    assert stored == ["start", *(name for _, name in by_position)]
