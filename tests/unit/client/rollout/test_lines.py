from __future__ import annotations

import copy
import enum
import json
import math
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from livethread.errors import InvalidRequest, ResourceExhausted
from livethread.rollout import lines as rollout_lines
from livethread.rollout.item import RolloutItem, parse_items
from livethread.rollout.lines import MAX_DEPTH, decode_line, encode_items, encode_line, item_of, items_of

AT = datetime(2026, 11, 22, 17, 39, 40, 601_999, tzinfo=UTC)

texts = st.text(st.characters(codec="utf-8"))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


class Colour(enum.Enum):
    RED = "red"


def encode(payload: Any, **fields: Any) -> bytes:
    return encode_line(RolloutItem(type="x", payload=payload, **fields), AT, max_bytes=1_000_000)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# -- encoding ----------------------------------------------------------------------------------------------


def test_a_line_is_compact_utf8_with_its_timestamp_first_and_its_payload_last() -> None:
    item = parse_items([{"payload": {"text": "naïve 🦜 \u2028"}, "extra": 1, "type": "x"}])[0]

    line = encode_line(item, AT, max_bytes=1_000)

    expected = '{"timestamp":"2026-11-22T17:39:40.601Z","type":"x","extra":1,"payload":{"text":"naïve 🦜 \u2028"}}'
    assert line == expected.encode()


def test_a_line_break_in_a_text_is_escaped() -> None:
    line = encode({"text": "a\nb\r\n", "k\ney": "\x00"})

    assert b"\n" not in line
    assert b"\r" not in line


@pytest.mark.parametrize(
    ("own", "written"),
    [
        ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05.678Z"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
        ("2026-01-02T03:04:05.678999+02:00", "2026-01-02T01:04:05.678Z"),
        ("2026-01-02T03-04-05", "2026-01-02T03:04:05.000Z"),
    ],
)
def test_an_items_own_timestamp_is_normalised(own: str, written: str) -> None:
    line = encode(None, timestamp=own)

    assert line == f'{{"timestamp":"{written}","type":"x","payload":null}}'.encode()


@pytest.mark.parametrize("own", ["yesterday", "2026-13-01T00:00:00Z", "1763800000", "2026-01-02T03:04:05Z,"])
def test_a_timestamp_that_is_not_a_time_is_refused(own: str) -> None:
    with pytest.raises(InvalidRequest, match="is not an RFC 3339 time"):
        encode({}, timestamp=own)


@pytest.mark.parametrize("own", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_timestamp_beyond_the_calendar_is_refused(own: str) -> None:
    with pytest.raises(InvalidRequest, match="is not an RFC 3339 time"):
        encode({}, timestamp=own)


def test_fields_that_only_the_store_writes_are_omitted() -> None:
    item = parse_items([{"type": "x", "payload": 1, "ordinal": 7, "seq": "writer:7", "idempotency_key": "k"}])[0]

    line = encode_line(item, AT, max_bytes=1_000)

    assert decode_line(line) == {"timestamp": "2026-11-22T17:39:40.601Z", "type": "x", "payload": 1}


def test_extra_fields_never_replace_known_fields() -> None:
    item = RolloutItem("x", 1, extra={"type": "y", "payload": 2, "timestamp": "z", "trace": 3})

    assert decode_line(encode_line(item, AT, max_bytes=1_000)) == {
        "timestamp": "2026-11-22T17:39:40.601Z",
        "type": "x",
        "trace": 3,
        "payload": 1,
    }


def test_null_values_are_kept() -> None:
    line = encode({"a": None, "b": [None], "c": "null"})

    assert json.loads(line)["payload"] == {"a": None, "b": [None], "c": "null"}


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"a": [1, {"b": math.nan}]}, "not JSON: payload.a[1].b is nan"),
        ({"a": math.inf}, "not JSON: payload.a is inf"),
        (-math.inf, "not JSON: payload is -inf"),
        ((0, math.nan), "not JSON: payload[1] is nan"),
        ({"a": "\ud800"}, "not JSON: payload.a holds a lone surrogate, which UTF-8 cannot encode"),
        ({"a": {"\udfff": 1}}, "not JSON: a key of payload.a holds a lone surrogate, which UTF-8 cannot encode"),
        ({"a": {7: 1}}, "not JSON: payload.a has the key 7, which is not a string"),
        ({"a": {None: 1}}, "not JSON: payload.a has the key None, which is not a string"),
        ({"a": {1, 2}}, "not JSON: payload.a is of type set"),
        ([b"bytes"], "not JSON: payload[0] is of type bytes"),
        (datetime(2026, 1, 1, tzinfo=UTC), "not JSON: payload is of type datetime"),
        (date(2026, 1, 1), "not JSON: payload is of type date"),
        (Decimal(1), "not JSON: payload is of type Decimal"),
        (object(), "not JSON: payload is of type object"),
        ({"big": 2**70, "nan": math.nan}, "not JSON: payload.nan is nan"),
    ],
)
def test_a_value_that_is_not_json_is_refused_and_located(payload: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        encode(payload)

    assert str(refused.value) == problem


@pytest.mark.parametrize("value", [uuid.UUID(int=7), Colour.RED])
@pytest.mark.parametrize("other", [1, None])
def test_an_object_that_orjson_would_convert_is_refused(value: object, other: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"payload.a is of type {type(value).__name__}"):
        encode({"a": value, "b": other})


def test_nesting_is_accepted_up_to_the_limit_and_refused_beyond() -> None:
    # The record is the first level.
    assert decode_line(encode(nested(MAX_DEPTH - 1))) is not None

    with pytest.raises(InvalidRequest, match="nested deeper than 120 levels"):
        encode(nested(MAX_DEPTH))


@pytest.mark.parametrize("levels", [500, 5_000])
def test_absurd_nesting_is_refused_without_a_crash(levels: int) -> None:
    with pytest.raises(InvalidRequest, match="nested deeper than 120 levels"):
        encode(nested(levels))


def test_an_object_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless

    with pytest.raises(InvalidRequest, match="nested deeper than 120 levels"):
        encode(endless)


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**40, -(10**19)])
def test_integers_of_any_size_are_exact_in_both_directions(number: int) -> None:
    line = encode({"n": number, "list": [number]})

    record = decode_line(line)
    assert record is not None
    assert record["payload"] == {"n": number, "list": [number]}
    assert type(record["payload"]["n"]) is int
    assert str(number).encode() in line


def test_an_integer_that_python_cannot_print_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        encode({"n": 10**5_000})


def test_a_line_may_be_as_long_as_the_limit_and_no_longer() -> None:
    item = RolloutItem(type="x", payload="é" * 100)
    size = len(encode_line(item, AT, max_bytes=10_000))

    assert len(encode_line(item, AT, max_bytes=size)) == size
    with pytest.raises(ResourceExhausted) as refused:
        encode_line(item, AT, max_bytes=size - 1)
    assert str(refused.value) == (
        f"an item of {size} bytes exceeds the limit of {size - 1}: nothing was stored. "
        "Store large data elsewhere and append a reference, or raise LIVETHREAD_MAX_ITEM_BYTES"
    )


# -- several items -----------------------------------------------------------------------------------------


def test_an_append_needs_an_item() -> None:
    with pytest.raises(InvalidRequest, match="at least one item"):
        encode_items([], AT, max_bytes=1_000)


def test_each_item_of_an_append_becomes_a_line() -> None:
    items = [RolloutItem(type="x", payload=n) for n in range(3)]

    lines = encode_items(items, AT, max_bytes=1_000)

    assert lines == tuple(encode_line(item, AT, max_bytes=1_000) for item in items)


def test_an_item_of_the_stores_own_type_is_refused() -> None:
    forged = RolloutItem(type="thread_metadata", payload={"title": "forged"})

    with pytest.raises(InvalidRequest, match="patch the metadata"):
        encode_items([RolloutItem(type="x", payload=1), forged], AT, max_bytes=1_000)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (RolloutItem(type="x", payload={"a": math.nan}), InvalidRequest),
        (RolloutItem(type="x", payload="x" * 2_000), ResourceExhausted),
    ],
    ids=["not JSON", "too long"],
)
def test_an_error_names_the_index_of_the_bad_item(bad: RolloutItem, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^items\[1\]: "):
        encode_items([RolloutItem(type="x", payload=1), bad], AT, max_bytes=1_000)


def test_an_append_may_be_as_long_as_a_task_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [RolloutItem(type="x", payload="é" * 50)] * 3
    size = sum(map(len, encode_items(items, AT, max_bytes=1_000)))
    monkeypatch.setattr(rollout_lines, "MAX_TASK_BYTES", size)

    encode_items(items, AT, max_bytes=1_000)

    with pytest.raises(ResourceExhausted, match=f"the limit of {size} bytes: nothing was stored.*an earlier turn"):
        encode_items([*items, items[0]], AT, max_bytes=1_000)


# -- decoding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   ",
        b"\0\0\0",
        b"garbage",
        b'{"type":"x"',
        b'{"type":"x"}}',
        b'{"type":"x"}{"type":"y"}',
        b'["type","payload"]',
        b"[12345678901234567890]",
        b'"text"',
        b"7",
        b"null",
        b'{"a":"\xc3"}',
        b'{"a":"\xff\xfe","n":12345678901234567890}',
        b"\x80",
        b'{"a":NaN}',
        b'{"a": NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1E+400,"n":12345678901234567890}',
        b'{"a":null,"a":1e999}',
        b'{"a":%d.0}' % 10**400,
        b'{"a":"\\ud800"}',
        b'{"a": "\\ud800"}',
    ],
)
def test_a_bad_line_decodes_to_none(line: bytes) -> None:
    assert decode_line(line) is None


@pytest.mark.parametrize("prefix", [b'{"a":', b'{"n":12345678901234567890,"a":'])
def test_an_absurdly_nested_line_decodes_to_none(prefix: bytes) -> None:
    assert decode_line(prefix + b"[" * 100_000 + b"]" * 100_000 + b"}") is None


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b" "])
def test_the_line_end_does_not_matter(end: bytes) -> None:
    line = b'{"type":"x","payload":12345678901234567890}'

    assert decode_line(line + end) == decode_line(line) == {"type": "x", "payload": 12345678901234567890}


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**64, 2**63, 10**19 - 1])
@pytest.mark.parametrize("space", [b"", b" "])
def test_an_integer_is_exact_with_and_without_whitespace(number: int, space: bytes) -> None:
    assert decode_line(b'{"n":%b%d}' % (space, number)) == {"n": number}


@given(json_values, st.sampled_from([None, 1]))
def test_another_programs_line_is_read_as_by_the_json_module(value: Any, indent: int | None) -> None:
    line = json.dumps({"a": value}, indent=indent).encode()

    assert repr(decode_line(line)) == repr(json.loads(line))


@pytest.mark.parametrize("record", [{}, {"type": "x"}, {"payload": 1}, {"type": 7, "payload": 1}])
def test_a_record_without_type_or_payload_is_not_an_item(record: dict[str, Any]) -> None:
    assert item_of(record) is None


@pytest.mark.parametrize("named", [{}, {"idempotency_key": "k"}])
def test_an_item_is_read_with_its_ordinal_and_no_other_store_field(named: dict[str, str]) -> None:
    record = {"timestamp": "t", "ordinal": 7, "seq": "w:1", **named, "type": "x", "payload": {"a": 1}}

    item = item_of(record)

    assert item == RolloutItem(type="x", payload={"a": 1}, timestamp="t", ordinal=7)


def test_an_ordinal_or_timestamp_of_the_wrong_type_is_ignored() -> None:
    item = item_of({"type": "x", "payload": 1, "ordinal": "7", "timestamp": 7})

    assert item == RolloutItem(type="x", payload=1)


@pytest.mark.parametrize("key", ["cls", "self", "extra", "_fields_set", "payload ", "__class__", "kind"])
def test_a_field_of_any_name_is_written_and_read_back(key: str) -> None:
    item = parse_items([{"type": "x", "payload": 1, key: "kept"}])[0]

    read = item_of(decode_line(encode_line(item, AT, max_bytes=1_000)) or {})

    assert read is not None
    assert read.extra == {key: "kept"}


def test_the_stores_own_records_and_bad_lines_are_not_items() -> None:
    records = [None, {"type": "thread_metadata", "payload": {}}, {"odd": 1}, {"type": "x", "payload": 1}]

    assert items_of(records) == (RolloutItem(type="x", payload=1),)


@given(payload=json_values, extra=json_values)
@example(payload={"n": -(2**70), "f": -0.0}, extra=[1e308, 5e-324])
@example(
    payload=[[1234567890123456789], "[12345678901234567890", {"": {"\x00\x1f\x7f": "\u2028\U0010ffff"}}], extra=0.1
)
def test_any_json_value_survives_as_a_payload_and_as_a_field(payload: Any, extra: Any) -> None:
    item = parse_items([{"type": "x", "payload": payload, "extra": extra}])[0]

    line = encode_line(item, AT, max_bytes=10_000_000)
    read = item_of(decode_line(line) or {})

    assert b"\n" not in line
    assert read is not None
    assert repr(read.payload) == repr(payload)  # tells 1 from 1.0 and True, and 0.0 from -0.0
    assert read.extra == {"extra": extra}


odd_values = st.sampled_from(["x", "", "thread_metadata", 7, True, None, {"a": 1}])
records = st.dictionaries(
    st.sampled_from(["type", "payload", "timestamp", "ordinal", "seq", "idempotency_key", "extra", "more"]),
    odd_values,
)


@given(st.lists(records | st.none()))
@example([{"timestamp": "t", "ordinal": 7, "seq": "w:1", "type": "x", "payload": {"a": 1}}])
@example([{"timestamp": "t", "ordinal": 7, "seq": "w:1", "idempotency_key": "k", "type": "x", "payload": {"a": 1}}])
def test_records_are_read_in_batches_as_one_by_one(values: list[dict[str, Any] | None]) -> None:
    each = [item_of(copy.deepcopy(record)) for record in values]

    assert items_of(values) == tuple(item for item in each if item is not None)


@given(st.binary())
def test_no_bytes_make_decoding_raise(line: bytes) -> None:
    record = decode_line(line)

    assert record is None or isinstance(record, dict)
