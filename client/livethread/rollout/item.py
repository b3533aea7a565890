"""Conversation items and their one encoding: the bytes that stand in the rollout line.

The envelope is checked; the payload passes through untouched, and so do fields and types this release
does not know.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import math
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, from_json

from livethread.errors import InvalidRequest, ResourceExhausted
from livethread.model import ANY_TIME_SCHEMA, Model, format_time, parse_time
from livethread.rollout.old_forms import modern_record

T = TypeVar("T")

#: Line type -> key whose text codex cannot do without: a payload that lacks it is no object codex can read.
_NEEDED_KEYS: Final = {"response_item": "type", "event_msg": "type", "session_meta": "id"}

#: Line type of the store's own metadata records. codex skips types it does not know.
THREAD_METADATA_TYPE: Final = "thread_metadata"

#: Most bytes of one append: it travels, and is written, as a whole.
MAX_TASK_BYTES: Final = 64 * 1024 * 1024

#: Nesting beyond this is refused. serde_json, which codex reads rollouts with, stops at 128.
MAX_DEPTH: Final = 120

#: A number that may exceed 64 bits, which orjson would read as a float. Where no 19 digits follow one another, which is
#: told six times as fast, there is none.
_LONG_NUMBER = re.compile(rb"[:,\[]\s*-?\d{19}")
_DIGITS_AS_ZEROS: Final = bytes(ord("0") if chr(byte).isdecimal() else ord(" ") for byte in range(256))
_ZEROS: Final = b"0" * 19

#: What is put between lines to parse them as one array.
_MARK: Final = secrets.token_hex(8)
_BETWEEN_LINES: Final = b',"%b",' % _MARK.encode()

#: Field of a line that names its append; only lines of ours say it, and only those of such an append.
KEY_FIELD: Final = "idempotency_key"

_STORE_FIELDS: Final = frozenset({"seq", "ordinal", KEY_FIELD})


def _needs_key(kind: str, key: str) -> JsonSchemaValue:
    """Return the JSON schema that says of items of type *kind* that their payload needs a text under *key*."""
    payload = {"type": "object", "required": [key], "properties": {key: {"type": "string"}}}
    return {
        "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
        "then": {"properties": {"payload": payload}},
    }


class RolloutItem(Model):
    """One conversation item: what becomes one line of a rollout.

    Fields that this model does not know are kept, in the line and in what is read back.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    #: Line type: ``response_item``, ``event_msg``, ``turn_context``, ``compacted``, or one unknown to us.
    type: Annotated[
        str,
        Field(min_length=1, max_length=200, strict=True),
        WithJsonSchema(
            {"type": "string", "minLength": 1, "maxLength": 200, "not": {"const": THREAD_METADATA_TYPE}},
            mode="validation",
        ),
        WithJsonSchema({"type": "string"}, mode="serialization"),
    ]
    #: The item's content; any JSON value, and an object for every type codex knows.
    payload: Any
    #: RFC 3339 time of the line. An item without one gets the time of its append.
    timestamp: (
        Annotated[
            str,
            Field(min_length=1, max_length=64, strict=True),
            WithJsonSchema({**ANY_TIME_SCHEMA, "maxLength": 64}, mode="validation"),
            WithJsonSchema({"type": "string"}, mode="serialization"),
        ]
        | None
    ) = None
    #: The record's number in its rollout, from 0. The store's to give: ignored on append.
    ordinal: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_envelope(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("an item is a JSON object with the keys 'type' and 'payload'")
        kind, payload = data.get("type"), data.get("payload")
        needed = _NEEDED_KEYS.get(kind) if isinstance(kind, str) else None
        if needed and not (isinstance(payload, dict) and isinstance(payload.get(needed), str)):
            raise ValueError(f"the payload of {kind} must be an object with a string {needed!r}")
        return data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Say what an appended item's payload must hold; what is read back may be a foreign line's."""
        reference = handler(core_schema)
        if handler.mode == "validation":
            handler.resolve_ref_schema(reference)["allOf"] = [_needs_key(*needed) for needed in _NEEDED_KEYS.items()]
        return reference

    @property
    def kind(self) -> str | None:
        """The payload's own ``type`` (``user_message``, ``function_call``, …), where it has one."""
        kind = self.payload.get("type") if isinstance(self.payload, dict) else None
        return kind if isinstance(kind, str) else None

    @classmethod
    def parse(cls, value: RolloutItem | Mapping[str, Any]) -> RolloutItem:
        """Return *value* as an item.

        Raises:
            InvalidRequest: it is no object, or lacks ``type`` or ``payload``.
        """
        if isinstance(value, RolloutItem):
            return value
        return _usual_item(value) or cls.model_validate(value)


def _usual_item(value: Mapping[str, Any]) -> RolloutItem | None:
    """Return the item of a *value* that is as nearly all are, and certainly valid: the model takes ten times as long.

    None of any other, which may be valid, too: of a known type, with a payload that has the key it needs, and no more.
    """
    if type(value) is not dict or len(value) != 2 or "payload" not in value:  # noqa: PLR2004 - it and the type
        return None
    kind, payload = value.get("type"), value["payload"]
    needed = _NEEDED_KEYS.get(kind) if type(kind) is str else None
    if needed is None or type(payload) is not dict or type(payload.get(needed)) is not str:
        return None
    return RolloutItem.of_valid(type=kind, payload=payload, timestamp=None, ordinal=None)


def encode_line(item: RolloutItem, appended_at: datetime, *, max_bytes: int) -> bytes:
    r"""Return *item* as the rollout line it will be, without what the store adds and the final ``\n``.

    ``timestamp`` comes first and contains no comma, so that the writer can put its fields behind it. Text is raw
    UTF-8: codex's search does not find ``\u`` escapes. Integers of any size are kept exactly.

    Raises:
        InvalidRequest: the item holds NaN, Infinity, a lone surrogate, a key that is no string, or something
            that is not JSON; or its timestamp is no time.
        ResourceExhausted: the line is longer than *max_bytes*.
    """
    return _encode_line(item, format_time(appended_at), max_bytes)


def _encode_line(item: RolloutItem, appended_at: str, max_bytes: int) -> bytes:
    record: dict[str, Any] = {"timestamp": _own_time(item) or appended_at, "type": item.type}
    if item.model_extra:
        record |= {key: value for key, value in item.model_extra.items() if key not in _STORE_FIELDS}
    record["payload"] = item.payload
    line = encode_json(record)
    if len(line) > max_bytes:
        raise ResourceExhausted(
            f"an item of {len(line)} bytes exceeds the limit of {max_bytes}; "
            "store large data elsewhere and append a reference (or raise LIVETHREAD_MAX_ITEM_BYTES)"
        )
    return line


def _own_time(item: RolloutItem) -> str | None:
    if item.timestamp is None:
        return None
    own = parse_time(item.timestamp)
    if own is None:
        raise InvalidRequest(f"the item's timestamp {item.timestamp!r} is no RFC 3339 time")
    return format_time(own)


def encode_items(items: Sequence[RolloutItem], appended_at: datetime, *, max_bytes: int) -> tuple[bytes, ...]:
    """Return the lines of an append: at least one.

    Raises:
        InvalidRequest: there is no item, one is not JSON, or one is of the store's own type.
        ResourceExhausted: an item is longer than *max_bytes*, or all together are longer than `MAX_TASK_BYTES`.
    """
    if not items:
        raise InvalidRequest("an append needs at least one item")
    if any(item.type == THREAD_METADATA_TYPE for item in items):
        raise InvalidRequest(f"items of type {THREAD_METADATA_TYPE} are the store's to write: patch the metadata")
    encode = partial(_encode_line, appended_at=format_time(appended_at), max_bytes=max_bytes)
    lines = _each_named(encode, items)
    if sum(map(len, lines)) > MAX_TASK_BYTES:
        raise ResourceExhausted(f"an append of more than {MAX_TASK_BYTES} bytes; append the items in several calls")
    return lines


def parse_items(values: Sequence[RolloutItem | Mapping[str, Any]]) -> tuple[RolloutItem, ...]:
    """Return *values* as items.

    Raises:
        InvalidRequest: one of them is none; says which.
    """
    return _each_named(RolloutItem.parse, values)


def _each_named(make: Callable[[Any], T], values: Iterable[Any]) -> tuple[T, ...]:
    """Return what *make* makes of each item; say its number in what it complains of."""
    made: list[T] = []
    try:
        for value in values:
            made.append(make(value))  # noqa: PERF401 - how many there are is the number of the one that fails
    except (InvalidRequest, ResourceExhausted) as error:
        raise type(error)(f"items[{len(made)}]: {error.message.removeprefix('RolloutItem: ')}") from None
    return tuple(made)


def decode_line(line: bytes) -> dict[str, Any] | None:
    """Return the record that *line* holds, or None where it holds no JSON object in UTF-8."""
    try:
        if not (_may_hold_long_numbers(line) and _LONG_NUMBER.search(line)):
            record = orjson.loads(line)
        else:
            record = json.loads(line)
            encode_json(record)  # the standard library reads NaN and lone surrogates, which nobody could write again
    except (ValueError, RecursionError, InvalidRequest):
        return None
    return record if isinstance(record, dict) else None


def decode_lines(lines: list[bytes], text: bytes) -> list[dict[str, Any] | None]:
    """Return what `decode_line` returns of each of *lines*, in less time; *text* is what they were split from."""
    if not _may_hold_long_numbers(text):
        with contextlib.suppress(ValueError):
            records = list(map(orjson.loads, lines))
            return [record if isinstance(record, dict) else None for record in records]
    return list(map(decode_line, lines))


def decode_whole(text: bytes) -> list[dict[str, Any] | None]:
    """Return what `decode_line` returns of each line of *text*, in half the time; the last line needs no end.

    One difference: a number beyond a double's range reads as infinity, and does not make its line a bad one.

    The lines are parsed as one array, with a mark between them that nobody can have written into a line: so where the
    marks are every second element, the others are the lines.
    """
    marked = text.replace(b"\n", _BETWEEN_LINES)
    with contextlib.suppress(ValueError):
        # This parser keeps integers of any size, and orjson would need a look for them, which takes a third as long again.
        values = from_json(b"[%b]" % marked, allow_inf_nan=False, cache_strings="keys")
        records, marks = values[::2], values[1::2]
        ends = (len(marked) - len(text)) // (len(_BETWEEN_LINES) - 1)
        if len(marks) == marks.count(_MARK) == ends and set(map(type, records)) == {dict}:
            return records  # type: ignore[no-any-return]  # a parser's values are Any
    return list(map(decode_line, text.split(b"\n")))


def _may_hold_long_numbers(text: bytes) -> bool:
    return _ZEROS in text.translate(_DIGITS_AS_ZEROS)


def item_of(record: dict[str, Any]) -> RolloutItem | None:
    """Return the item that a line's *record* holds, without what the store added; None where it holds none.

    The line was checked when it was appended, or is not ours to check: its fields are taken as they are.
    """
    fields = _fields_of(record)
    return _made([fields[0]], [fields[1]])[0] if fields else None


def items_of(records: Iterable[dict[str, Any] | None]) -> tuple[RolloutItem, ...]:
    """Return the items that the *records* of a rollout hold, without the store's own; the records are used up."""
    known: list[dict[str, Any]] = []
    extra: list[dict[str, Any]] = []
    for record in records:
        if record is None:
            continue
        fields: tuple[dict[str, Any], dict[str, Any]] | None
        get = record.get
        if (
            len(record) == _USUAL_LENGTH
            and "seq" in record
            and "payload" in record
            and type(get("type")) is type(get("timestamp")) is str
            and type(get("ordinal")) is int
        ):
            del record["seq"]  # a line of ours as it should be: what is left is the item
            fields = record, {}
        else:
            fields = _fields_of(record)
        if fields is not None and fields[0]["type"] != THREAD_METADATA_TYPE:
            known.append(fields[0])
            extra.append(fields[1])
    return _made(known, extra)


def _fields_of(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return an item's own fields, and those that its model does not know."""
    if not isinstance(record.get("type"), str) or "payload" not in record:
        modern = modern_record(record)
        return _fields_of(modern) if modern is not None else None
    known = {name: record.get(name) for name in _FIELDS}
    if type(known["ordinal"]) is not int:
        known["ordinal"] = None
    if not isinstance(known["timestamp"], str):
        known["timestamp"] = None
    return known, {key: value for key, value in record.items() if key not in _LINE}


def _made(known: list[dict[str, Any]], extra: list[dict[str, Any]]) -> tuple[RolloutItem, ...]:
    """Return the items of these fields.

    It does what model_construct does, but by dictionaries, since a line's keys may be any text, and slot by slot for all
    items, since a history has many.
    """
    items = list(map(RolloutItem.__new__, repeat(RolloutItem, len(known))))
    for slot, values in (
        ("__dict__", known),
        ("__pydantic_fields_set__", repeat(set(_FIELDS))),  # frozen as they are, they can share it
        ("__pydantic_extra__", extra),
        ("__pydantic_private__", repeat(None)),
    ):
        deque(map(vars(BaseModel)[slot].__set__, items, values), maxlen=0)
    return tuple(items)


_FIELDS: Final = frozenset(RolloutItem.model_fields)
#: The keys of a line of ours: an item's, the store's mark, and the key that few appends have.
_LINE: Final = _FIELDS | {"seq", KEY_FIELD}
_USUAL_LENGTH: Final = len(_LINE) - 1


def encode_json(value: object) -> bytes:
    """Return *value* as compact UTF-8 JSON, with the checks of `encode_line`.

    Raises:
        InvalidRequest: *value* is not JSON.
    """
    try:
        encoded = orjson.dumps(value, option=_OPTIONS)
    except (TypeError, ValueError):  # orjson raises TypeError subclasses; deep nesting is one of them
        return _dumps_exactly(value)
    if type(value) is str:
        return encoded
    # orjson writes NaN as null, some objects as if they were JSON, and more depth than codex reads.
    if not _is_plain(value, encoded) or encoded.count(b"{") + encoded.count(b"[") > MAX_DEPTH:
        _require_json(value)
    return encoded


_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def _is_plain(value: Any, encoded: bytes) -> bool:
    """Whether *value*, which orjson took, is JSON without NaN and Infinity, and of Python's own types alone.

    These are what can be marshalled: no UUID, no enum. To marshal takes a tenth of the time of `json.dumps`, which is
    asked where there may be a NaN.
    """
    try:
        marshal.dumps(value)
        if b"null" in encoded:
            json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _dumps_exactly(value: object) -> bytes:
    """Encode what orjson refuses: an integer beyond 64 bits. Whatever else it refused is an error of the caller."""
    _require_json(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:  # an integer of more digits than Python converts
        raise InvalidRequest(f"not JSON: {error}") from None


def _require_json(value: object) -> None:
    problem = _first_problem(value, "", 0)
    if problem:
        raise InvalidRequest(f"not JSON: {problem}")


def _first_problem(value: object, path: str, depth: int) -> str | None:
    """Say where and why *value* is not JSON, or return None where it is."""
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    match value:
        case None | bool() | int():
            return None
        case float():
            return None if math.isfinite(value) else f"{path or 'value'} is {value}"
        case str():
            return _text_problem(value, path)
        case dict():
            for key, member in value.items():
                if not isinstance(key, str):
                    return f"{path or 'value'} has the key {key!r}, which is no string"
                problem = _text_problem(key, f"a key of {path or 'value'}") or _first_problem(
                    member, f"{path}.{key}" if path else key, depth + 1
                )
                if problem:
                    return problem
            return None
        case list() | tuple():
            problems = (_first_problem(member, f"{path}[{i}]", depth + 1) for i, member in enumerate(value))
            return next(filter(None, problems), None)
        case _:
            return f"{path or 'value'} is a {type(value).__name__}"


def _text_problem(text: str, path: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{path or 'value'} holds a lone surrogate, which UTF-8 cannot encode"
    return None
