"""Encodes items as lines of a rollout, and decodes lines."""

from __future__ import annotations

import json
import marshal
import math
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final

import orjson
from pydantic import GetPydanticSchema, TypeAdapter, ValidationError
from pydantic_core import from_json

from livethread.errors import InvalidRequest, ResourceExhausted
from livethread.model import format_time, parse_time
from livethread.rollout.item import THREAD_METADATA_TYPE, RolloutItem
from livethread.rollout.old_forms import modern_record

#: Size limit of a task, which is sent and written as a whole.
MAX_TASK_BYTES: Final = 64 * 1024 * 1024

#: Limit of nesting. serde_json, with which codex reads rollouts, stops at 128.
MAX_DEPTH: Final = 120

#: Field of our lines that holds the idempotency key of their append, if it has one.
KEY_FIELD: Final = "idempotency_key"

#: Fields of a line that are not in an item's ``extra``: known ones, and those that the store adds.
_NOT_EXTRA: Final = frozenset({"timestamp", "type", "payload", "ordinal", "seq", "position", KEY_FIELD})

#: Number of records validated at once.
_BATCH_RECORDS: Final = 64

#: Items that are read. The second adapter runs no Python code but refuses unknown fields, which few lines have.
_ANY_ITEMS: Final = TypeAdapter(list[RolloutItem])
_ITEMS: Final = TypeAdapter(
    list[Annotated[RolloutItem, GetPydanticSchema(lambda item, handler: handler(item)["schema"])]]
)


def encode_line(item: RolloutItem, appended_at: datetime, *, max_bytes: int) -> bytes:
    r"""Return *item* as a rollout line, without the fields that the store adds and the final ``\n``.

    ``timestamp`` comes first and contains no comma, so that the store can insert its fields after it. Text is raw UTF-8:
    codex's search does not find ``\u`` escapes. Integers of any size are exact.

    Raises:
        InvalidRequest: the item's content is not JSON, such as NaN, Infinity, a lone surrogate or a key that is not a
            string; or its timestamp is not a time.
        ResourceExhausted: the line is longer than *max_bytes*.
    """
    record: dict[str, Any] = {"timestamp": _own_time(item) or format_time(appended_at), "type": item.type}
    if item.extra:
        record |= {key: value for key, value in item.extra.items() if key not in _NOT_EXTRA}
    record["payload"] = item.payload
    line = encode_json(record)
    if len(line) > max_bytes:
        raise ResourceExhausted(
            f"an item of {len(line)} bytes exceeds the limit of {max_bytes}: nothing was stored. "
            "Store large data elsewhere and append a reference, or raise LIVETHREAD_MAX_ITEM_BYTES"
        )
    return line


def _own_time(item: RolloutItem) -> str | None:
    if item.timestamp is None:
        return None
    own = parse_time(item.timestamp)
    if own is None:
        raise InvalidRequest(f"the item's timestamp {item.timestamp!r} is not an RFC 3339 time")
    return format_time(own)


def encode_items(items: Sequence[RolloutItem], appended_at: datetime, *, max_bytes: int) -> tuple[bytes, ...]:
    """Return the lines of an append.

    Raises:
        InvalidRequest: *items* is empty, an item is not JSON, or an item has the store's own type.
        ResourceExhausted: an item is longer than *max_bytes*, or all together are longer than `MAX_TASK_BYTES`.
    """
    if not items:
        raise InvalidRequest("an append needs at least one item")
    lines: list[bytes] = []
    for n, item in enumerate(items):
        if item.type == THREAD_METADATA_TYPE:
            raise InvalidRequest(f"only the store writes items of type {item.type}; patch the metadata instead")
        try:
            lines.append(encode_line(item, appended_at, max_bytes=max_bytes))
        except (InvalidRequest, ResourceExhausted) as error:
            raise type(error)(f"items[{n}]: {error.message}") from None
    if sum(map(len, lines)) > MAX_TASK_BYTES:
        raise ResourceExhausted(
            f"the append exceeds the limit of {MAX_TASK_BYTES} bytes: nothing was stored. "
            "Append the items in several calls, or fork the thread at an earlier turn"
        )
    return tuple(lines)


def decode_line(line: bytes) -> dict[str, Any] | None:
    r"""Return the record in *line*, with or without its ``\n``, or None if the line is not a JSON object in UTF-8.

    Integers of any size are exact. As in codex, NaN, a lone surrogate, or a float beyond a double's range is not JSON.
    Unlike codex, it reads a line after a byte order mark, which other programs put at the beginning of a file.
    """
    try:
        record = orjson.loads(line)
        is_exact = orjson.dumps(record) == line.rstrip(b"\n")
    except (ValueError, TypeError):
        is_exact = False
    if not is_exact:
        # orjson reads integers beyond 64 bits as floats. pydantic's parser is exact, but reads large floats as infinity.
        try:
            record = from_json(line)
            json.dumps(record, allow_nan=False)
        except ValueError:
            return decode_line(line.removeprefix(BOM_UTF8)) if line.startswith(BOM_UTF8) else None
    return record if isinstance(record, dict) else None


def item_of(record: dict[str, Any] | None) -> RolloutItem | None:
    """Return the item in a line's *record*, if any; see `items_of`."""
    return next(iter(items_of([record])), None)


def items_of(records: Iterable[dict[str, Any] | None]) -> tuple[RolloutItem, ...]:
    """Return the items in the *records* of a rollout, without the store's own fields, which it removes.

    Payloads are not validated: ours were when they were appended, and other programs' pass through.
    """
    items: list[RolloutItem] = []
    present = filter(None, records)
    while batch := list(islice(present, _BATCH_RECORDS)):
        for record in batch:
            if "payload" in record:
                record.pop("seq", None)
                record.pop("position", None)
                record.pop(KEY_FIELD, None)
        adapter = _ANY_ITEMS if any("extra" in record for record in batch) else _ITEMS
        try:
            items += adapter.validate_python(batch)
        except ValidationError:
            items += _ANY_ITEMS.validate_python(list(filter(None, map(_foreign_item, batch))))
    return tuple([item for item in items if item.type != THREAD_METADATA_TYPE])


def _foreign_item(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the fields of the item in another program's *record*, if any, without values of the wrong type."""
    if not isinstance(record.get("type"), str) or "payload" not in record:
        return modern_record(record)
    timestamp, ordinal = record.get("timestamp"), record.get("ordinal")
    return record | {
        "timestamp": timestamp if isinstance(timestamp, str) else None,
        "ordinal": ordinal if type(ordinal) is int else None,
    }


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
    # orjson writes NaN as null, some objects as if they were JSON, and deeper nesting than codex reads.
    if not _is_plain(value, encoded) or encoded.count(b"{") + encoded.count(b"[") > MAX_DEPTH:
        _require_json(value)
    return encoded


_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def _is_plain(value: Any, encoded: bytes) -> bool:
    """Whether *value*, which orjson accepted, consists of built-in types only, without NaN and Infinity.

    `marshal` accepts only built-in types: no UUID, no enum. It takes a tenth of the time of `json.dumps`, which runs only
    if a null may be a NaN.
    """
    try:
        marshal.dumps(value)
        if b"null" in encoded:
            json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _dumps_exactly(value: object) -> bytes:
    """Encode a value that orjson refused for its integers beyond 64 bits; refuse all others."""
    _require_json(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:  # an integer with more digits than Python converts
        raise InvalidRequest(f"not JSON: {error}") from None


def _require_json(value: object) -> None:
    problem = _first_problem(value, "", 0)
    if problem:
        raise InvalidRequest(f"not JSON: {problem}")


def _first_problem(value: object, path: str, depth: int) -> str | None:
    """Return where and why *value* is not JSON, or None if it is."""
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
                    return f"{path or 'value'} has the key {key!r}, which is not a string"
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
            return f"{path or 'value'} is of type {type(value).__name__}"


def _text_problem(text: str, path: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{path or 'value'} holds a lone surrogate, which UTF-8 cannot encode"
    return None
