"""Conversation items and their one encoding: the bytes that stand in the rollout line.

The envelope is checked; the payload passes through untouched, and so do fields and types this release
does not know.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
from pydantic import ConfigDict, Field, model_validator

from livethread.errors import InvalidRequest, ResourceExhausted
from livethread.model import Model, format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

#: Line types whose payload is an object that says its kind in ``type``.
_TAGGED_TYPES: Final = frozenset({"response_item", "event_msg"})

#: Line type of the store's own metadata records. codex skips types it does not know.
THREAD_METADATA_TYPE: Final = "thread_metadata"

#: Nesting beyond this is refused. serde_json, which codex reads rollouts with, stops at 128.
MAX_DEPTH: Final = 120

#: A number that may exceed 64 bits, which orjson would read as a float.
_LONG_NUMBER = re.compile(rb"[:,\[]\s*-?\d{19}")

_STORE_FIELDS: Final = frozenset({"seq", "ordinal"})


class RolloutItem(Model):
    """One conversation item: what becomes one line of a rollout.

    Fields that this model does not know are kept, in the line and in what is read back.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    #: Line type: ``response_item``, ``event_msg``, ``turn_context``, ``compacted``, or one unknown to us.
    type: Annotated[str, Field(min_length=1, max_length=200, strict=True)]
    #: The item's content; any JSON value, and an object for every type codex knows.
    payload: Any
    #: RFC 3339 time of the line. An item without one gets the time of its append.
    timestamp: Annotated[str, Field(min_length=1, max_length=64, strict=True)] | None = None
    #: The record's number in its rollout, from 0. The store's to give: ignored on append.
    ordinal: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_envelope(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("an item is a JSON object with the keys 'type' and 'payload'")
        if data.get("type") in _TAGGED_TYPES:
            payload = data.get("payload")
            if not isinstance(payload, dict) or not isinstance(payload.get("type"), str):
                raise ValueError(f"the payload of a {data['type']} is an object with a string 'type'")
        return data

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
        return value if isinstance(value, RolloutItem) else cls.model_validate(value)


def encode_line(item: RolloutItem, appended_at: datetime, *, max_bytes: int) -> bytes:
    r"""Return *item* as the rollout line it will be, without ``ordinal``, ``seq`` and the final ``\n``.

    ``timestamp`` comes first and contains no comma, so that the writer can put its fields behind it. Text is raw
    UTF-8: codex's search does not find ``\u`` escapes. Integers of any size are kept exactly.

    Raises:
        InvalidRequest: the item holds NaN, Infinity, a lone surrogate, a key that is no string, or something
            that is not JSON; or its timestamp is no time.
        ResourceExhausted: the line is longer than *max_bytes*.
    """
    record: dict[str, Any] = {"timestamp": _line_time(item, appended_at), "type": item.type}
    if item.model_extra:
        record |= {key: value for key, value in item.model_extra.items() if key not in _STORE_FIELDS}
    record["payload"] = item.payload
    line = _dumps(record)
    if len(line) > max_bytes:
        raise ResourceExhausted(
            f"an item of {len(line)} bytes exceeds the limit of {max_bytes}; "
            "store large data elsewhere and append a reference (or raise LIVETHREAD_MAX_ITEM_BYTES)"
        )
    return line


def _line_time(item: RolloutItem, appended_at: datetime) -> str:
    if item.timestamp is None:
        return format_time(appended_at)
    own = parse_time(item.timestamp)
    if own is None:
        raise InvalidRequest(f"the item's timestamp {item.timestamp!r} is no RFC 3339 time")
    return format_time(own)


def decode_line(line: bytes) -> dict[str, Any] | None:
    """Return the record that *line* holds, or None where it holds no JSON object."""
    try:
        record = json.loads(line) if _LONG_NUMBER.search(line) else orjson.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def item_of(record: dict[str, Any]) -> RolloutItem | None:
    """Return the item that a line's *record* holds, without what the store added; None where it holds none.

    The line was checked when it was appended, or is not ours to check: its fields are taken as they are.
    """
    if not isinstance(record.get("type"), str) or "payload" not in record:
        return None
    ordinal, timestamp = record.get("ordinal"), record.get("timestamp")
    fields = {key: member for key, member in record.items() if key != "seq"}
    fields["ordinal"] = ordinal if isinstance(ordinal, int) else None
    fields["timestamp"] = timestamp if isinstance(timestamp, str) else None
    return RolloutItem.model_construct(**fields)


def items_of(records: Iterable[dict[str, Any] | None]) -> tuple[RolloutItem, ...]:
    """Return the items that the *records* of a rollout hold, without the store's own."""
    items = (item_of(record) for record in records if record is not None)
    return tuple(item for item in items if item is not None and item.type != THREAD_METADATA_TYPE)


def encode_json(value: object) -> bytes:
    """Return *value* as compact UTF-8 JSON, with the checks of `encode_line`.

    Raises:
        InvalidRequest: *value* is not JSON.
    """
    return _dumps(value)


_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def _dumps(value: object) -> bytes:
    try:
        encoded = orjson.dumps(value, option=_OPTIONS)
    except (TypeError, ValueError):  # orjson raises TypeError subclasses; deep nesting is one of them
        return _dumps_exactly(value)
    # orjson writes NaN and Infinity as null, and accepts more depth than codex reads.
    if b"null" in encoded or encoded.count(b"{") + encoded.count(b"[") > MAX_DEPTH:
        _require_json(value)
    return encoded


def _dumps_exactly(value: object) -> bytes:
    """Encode what orjson refuses: an integer beyond 64 bits. Whatever else it refused is an error of the caller."""
    _require_json(value)
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


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
