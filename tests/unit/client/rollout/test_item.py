from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter

from livethread.errors import InvalidRequest
from livethread.metadata import StoredThreadHistory
from livethread.rollout.item import RolloutItem, parse_items
from livethread.rollout.lines import decode_line, encode_line, item_of
from livethread.thread_id import new_thread_id
from livethread.types import AppendThreadItemsParams, ItemPage

AT = datetime(2026, 11, 22, 17, 39, 40, 601_999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"payload": {}}, "type: Field required"),
        ({"type": "x"}, "payload: Field required"),
        ({"type": "", "payload": {}}, "type: "),
        ({"type": 7, "payload": {}}, "type: "),
        ({"type": "x" * 201, "payload": {}}, "type: "),
        ({"type": "x", "payload": {}, "timestamp": 7}, "timestamp: "),
        ({"type": "x", "payload": {}, "timestamp": ""}, "timestamp: "),
        ({"type": "x", "payload": {}, "ordinal": "first"}, "ordinal: "),
        ({"type": "event_msg", "payload": {}}, "the payload of event_msg must be an object with a string 'type'"),
        ({"type": "event_msg", "payload": "text"}, "the payload of event_msg must be an object with a string 'type'"),
        ({"type": "event_msg"}, "payload: Field required"),
        (
            {"type": "response_item", "payload": {"type": 7}},
            "the payload of response_item must be an object with a string 'type'",
        ),
        (
            {"type": "session_meta", "payload": {"cwd": "/"}},
            "the payload of session_meta must be an object with a string 'id'",
        ),
        (
            {"type": "session_meta", "payload": {"id": 7}},
            "the payload of session_meta must be an object with a string 'id'",
        ),
        ([], "Input should be a dictionary or an instance of RolloutItem"),
        ("text", "Input should be a dictionary or an instance of RolloutItem"),
        (None, "Input should be a dictionary or an instance of RolloutItem"),
    ],
)
def test_a_bad_envelope_is_refused_with_its_reason(value: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_items([value])

    assert str(refused.value).startswith("items[0]: ")
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (RolloutItem("event_msg", {}), "the payload of event_msg must be an object with a string 'type'"),
        (RolloutItem("", 1), "type: "),
        (RolloutItem(7, 1), "type: "),  # type: ignore[arg-type]  # that is the test
        (RolloutItem("x", 1, timestamp=7), "timestamp: "),  # type: ignore[arg-type]  # that is the test
    ],
)
def test_an_item_made_in_python_is_validated_on_append(item: RolloutItem, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(f"items[0]: {problem}")):
        parse_items([item])
    with pytest.raises(InvalidRequest, match=re.escape(problem)):
        AppendThreadItemsParams(thread_id=new_thread_id(), items=(item,))


def test_a_valid_item_is_not_copied() -> None:
    item = RolloutItem(type="x", payload={"a": 1})

    [taken] = parse_items([item])
    assert taken is item


@pytest.mark.parametrize("type_", [["x"], None, 7, "", "\ud800"])
def test_a_type_that_is_not_a_valid_string_is_refused(type_: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"items\[0\]: "):
        parse_items([RolloutItem(type_, 1)])


def test_an_item_is_frozen() -> None:
    item = RolloutItem(type="x", payload=1)

    with pytest.raises(FrozenInstanceError):
        item.payload = 2  # type: ignore[misc]  # that is the test


def test_unknown_types_and_fields_are_written_and_read_back() -> None:
    value = {"type": "from_the_future", "payload": {"type": "new", "n": 1}, "trace": {"id": "t"}, "flag": None}

    line = encode_line(parse_items([value])[0], AT, max_bytes=1_000)

    record = decode_line(line)
    assert record == {"timestamp": "2026-11-22T17:39:40.601Z", **value}
    item = item_of(record)
    assert item is not None
    assert (item.type, item.payload, item.extra) == (
        "from_the_future",
        value["payload"],
        {"trace": {"id": "t"}, "flag": None},
    )


@pytest.mark.parametrize(
    ("payload", "kind"),
    [({"type": "message"}, "message"), ({"type": 7}, None), ({}, None), ("message", None), (None, None)],
)
def test_the_kind_is_the_payloads_own_type(payload: Any, kind: str | None) -> None:
    assert RolloutItem(type="x", payload=payload).kind == kind


FLAT = {"type": "x", "payload": 1, "timestamp": None, "ordinal": None, "extra": 2, "trace": {"id": "t"}}


@pytest.mark.parametrize(
    "kind", [RolloutItem, list[RolloutItem], ItemPage, StoredThreadHistory, AppendThreadItemsParams]
)
def test_a_web_framework_reads_and_writes_an_item_in_the_form_of_its_line(kind: Any) -> None:
    """FastAPI uses types through pydantic's adapter."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    page = {"thread_id": new_thread_id(), "items": [FLAT]}
    history = page | {"position": "0-0"}
    value: Any = {
        RolloutItem: FLAT,
        list[RolloutItem]: [FLAT],
        StoredThreadHistory: history,
        ItemPage: page | {"end_cursor": "x"},
    }.get(kind, page)

    read = adapter.validate_json(json.dumps(value))

    items = read if isinstance(read, list) else getattr(read, "items", (read,))
    assert list(items) == [RolloutItem("x", 1, extra={"extra": 2, "trace": {"id": "t"}})]
    written = adapter.dump_python(read, mode="json")
    assert (
        written if kind is RolloutItem else written[0] if isinstance(written, list) else written["items"][0]
    ) == FLAT
    assert adapter.validate_python(read) == read
    assert adapter.json_schema(mode="validation")
    assert adapter.json_schema(mode="serialization")


def test_an_error_of_parsing_names_the_index_of_the_bad_value() -> None:
    item = RolloutItem(type="x", payload=1)

    assert parse_items([item, {"type": "x", "payload": 1}]) == (item, item)
    with pytest.raises(InvalidRequest, match=r"^items\[1\]: type: Field required"):
        parse_items([item, {"payload": 1}])
