"""Lines of a rollout: the one encoding of items, and the one decoding."""

from __future__ import annotations

import json
import marshal
import math
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

#: Most bytes of one append: it travels, and is written, as a whole.
MAX_TASK_BYTES: Final = 64 * 1024 * 1024

#: Nesting beyond this is refused. serde_json, which codex reads rollouts with, stops at 128.
MAX_DEPTH: Final = 120

#: Field of a line that names its append; only lines of ours say it, and only those of such an append.
KEY_FIELD: Final = "idempotency_key"

#: Fields of a line that are not an item's extra ones: its own, and what the store gives.
_NOT_EXTRA: Final = frozenset({"timestamp", "type", "payload", "ordinal", "seq", KEY_FIELD})

#: Records that are validated at once.
_BATCH: Final = 64

#: Read items. The second runs no Python; it refuses fields that are to be gathered, which hardly any line has.
_ANY_ITEMS: Final = TypeAdapter(list[RolloutItem])
_ITEMS: Final = TypeAdapter(
    list[Annotated[RolloutItem, GetPydanticSchema(lambda item, handler: handler(item)["schema"])]]
)


def encode_line(item: RolloutItem, appended_at: datetime, *, max_bytes: int) -> bytes:
    r"""Return *item* as the rollout line it will be, without what the store adds and the final ``\n``.

    ``timestamp`` comes first and contains no comma, so that the writer can put its fields after it. Text is raw
    UTF-8: codex's search does not find ``\u`` escapes. Integers of any size are kept exactly.

    Raises:
        InvalidRequest: the item holds NaN, Infinity, a lone surrogate, a key that is no string, or something
            that is not JSON; or its timestamp is no time.
        ResourceExhausted: the line is longer than *max_bytes*.
    """
    record: dict[str, Any] = {"timestamp": _own_time(item) or format_time(appended_at), "type": item.type}
    if item.extra:
        record |= {key: value for key, value in item.extra.items() if key not in _NOT_EXTRA}
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
    lines: list[bytes] = []
    for n, item in enumerate(items):
        if item.type == THREAD_METADATA_TYPE:
            raise InvalidRequest(f"items of type {item.type} are the store's to write: patch the metadata")
        try:
            lines.append(encode_line(item, appended_at, max_bytes=max_bytes))
        except (InvalidRequest, ResourceExhausted) as error:
            raise type(error)(f"items[{n}]: {error.message}") from None
    if sum(map(len, lines)) > MAX_TASK_BYTES:
        raise ResourceExhausted(f"an append of more than {MAX_TASK_BYTES} bytes; append the items in several calls")
    return tuple(lines)


def decode_line(line: bytes) -> dict[str, Any] | None:
    r"""Return the record that *line* holds, with or without its ``\n``; None if it holds no JSON object in UTF-8.

    Integers of any size are exact. NaN, a lone surrogate or a float beyond a double's range makes a line a bad one, as
    in codex.
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
            return None
    return record if isinstance(record, dict) else None


def item_of(record: dict[str, Any] | None) -> RolloutItem | None:
    """Return the item that a line's *record* holds, if any; see `items_of`."""
    return next(iter(items_of([record])), None)


def items_of(records: Iterable[dict[str, Any] | None]) -> tuple[RolloutItem, ...]:
    """Return the items that the *records* of a rollout hold, without what the store added; the records are used up.

    The lines were checked when they were appended, or are not ours to check: their payloads are taken as they are.
    """
    items: list[RolloutItem] = []
    present = filter(None, records)
    while batch := list(islice(present, _BATCH)):
        for record in batch:
            if "payload" in record:
                record.pop("seq", None)
                record.pop(KEY_FIELD, None)
        adapter = _ANY_ITEMS if any("extra" in record for record in batch) else _ITEMS
        try:
            items += adapter.validate_python(batch)
        except ValidationError:
            items += _ANY_ITEMS.validate_python(list(filter(None, map(_foreign_item, batch))))
    return tuple([item for item in items if item.type != THREAD_METADATA_TYPE])


def _foreign_item(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the fields of the item that another program's *record* holds, if any, without values of a wrong type."""
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
