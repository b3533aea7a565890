"""Conversation items. The envelope is validated; the payload passes through unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from livethread.errors import InvalidRequest
from livethread.model import ANY_TIME_SCHEMA, describe

#: Line type -> key under which codex requires a string in the payload.
_NEEDED_KEYS: Final = {"response_item": "type", "event_msg": "type", "session_meta": "id"}

#: Line type of the store's own metadata lines. codex skips types that it does not know.
THREAD_METADATA_TYPE: Final = "thread_metadata"

_MAX_TYPE_LENGTH: Final = 200
_MAX_TIMESTAMP_LENGTH: Final = 64

_FIELDS: Final = frozenset({"type", "payload", "timestamp", "ordinal"})


def _needs_key(kind: str, key: str) -> JsonSchemaValue:
    """Return the JSON schema that requires a string under *key* in the payload of items of type *kind*."""
    payload = {"type": "object", "required": [key], "properties": {key: {"type": "string"}}}
    return {
        "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
        "then": {"properties": {"payload": payload}},
    }


@dataclass(frozen=True, slots=True)  # one object for the garbage collector; a pydantic model would be four
class RolloutItem:
    """One conversation item, stored as one line of a rollout.

    Fields that this release does not know are written and read back: in ``extra`` in Python, with the others in JSON.
    """

    #: Line type: ``response_item``, ``event_msg``, ``turn_context``, ``compacted``, or any other.
    type: Annotated[
        str,
        WithJsonSchema(
            {
                "type": "string",
                "minLength": 1,
                "maxLength": _MAX_TYPE_LENGTH,
                "not": {"const": THREAD_METADATA_TYPE},
            },
            mode="validation",
        ),
        WithJsonSchema({"type": "string"}, mode="serialization"),
    ]
    #: The item's content: any JSON value; an object for every type that codex knows.
    payload: Any
    #: RFC 3339 time of the line. An item without one gets the time of its append.
    timestamp: (
        Annotated[
            str,
            WithJsonSchema({**ANY_TIME_SCHEMA, "maxLength": _MAX_TIMESTAMP_LENGTH}, mode="validation"),
            WithJsonSchema({"type": "string"}, mode="serialization"),
        ]
        | None
    ) = None
    #: The line's number in its rollout, from 0. The store assigns it; it is ignored on append.
    ordinal: Annotated[int, Field(strict=True)] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, item: Any, handler: GetCoreSchemaHandler, /
    ) -> core_schema.BeforeValidatorFunctionSchema:
        """Gather unknown fields in ``extra`` on input, and spread ``extra`` on output."""
        return core_schema.no_info_before_validator_function(
            _gather_extra,
            handler(item),
            serialization=core_schema.plain_serializer_function_ser_schema(_spread_extra),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.BeforeValidatorFunctionSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Describe an appended item's payload. An item that is read back may be another program's."""
        reference = handler(schema["schema"])
        described = handler.resolve_ref_schema(reference)
        described["properties"].pop("extra", None)
        described["required"] = [name for name in described["required"] if name != "extra"]
        described["additionalProperties"] = True
        if handler.mode == "validation":
            described["allOf"] = [_needs_key(*needed) for needed in _NEEDED_KEYS.items()]
        return reference

    @property
    def kind(self) -> str | None:
        """The payload's own ``type`` (``user_message``, ``function_call``, …), if it has one."""
        kind = self.payload.get("type") if isinstance(self.payload, dict) else None
        return kind if isinstance(kind, str) else None


def _gather_extra(value: Any) -> Any:
    if not isinstance(value, dict) or value.keys() <= _FIELDS:
        return value
    known = {name: value[name] for name in _FIELDS if name in value}
    return known | {"extra": {name: value[name] for name in value if name not in _FIELDS}}


def _spread_extra(item: RolloutItem) -> dict[str, Any]:
    known = {"type": item.type, "payload": item.payload, "timestamp": item.timestamp, "ordinal": item.ordinal}
    return known | item.extra | known


def _require_envelope(item: RolloutItem) -> RolloutItem:
    """Validate an appended item. An item that is read back may be another program's, and is not checked."""
    if not _is_text(item.type, _MAX_TYPE_LENGTH):
        raise ValueError(f"type: must be a string of 1 to {_MAX_TYPE_LENGTH} characters")
    needed = _NEEDED_KEYS.get(item.type)
    if needed and not (isinstance(item.payload, dict) and isinstance(item.payload.get(needed), str)):
        raise ValueError(f"the payload of {item.type} must be an object with a string {needed!r}")
    if item.timestamp is not None and not _is_text(item.timestamp, _MAX_TIMESTAMP_LENGTH):
        raise ValueError(f"timestamp: must be a string of 1 to {_MAX_TIMESTAMP_LENGTH} characters")
    item.type.encode()  # refuses a lone surrogate
    return item


def _is_text(value: object, max_length: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= max_length


#: Items to append.
AppendedItems = tuple[Annotated[RolloutItem, AfterValidator(_require_envelope)], ...]

_APPENDED_ITEMS: Final = TypeAdapter[tuple[RolloutItem, ...]](AppendedItems)


_ITEM: Final = TypeAdapter(RolloutItem)


def as_json(item: RolloutItem) -> bytes:
    """Return *item* as JSON on one line, with the fields of its ``extra`` among the others."""
    return _ITEM.dump_json(item)


def parse_items(values: Sequence[RolloutItem | Mapping[str, Any]]) -> tuple[RolloutItem, ...]:
    """Return *values* as items to append.

    Raises:
        InvalidRequest: a value is not an item; the message names its index.
    """
    try:
        return _APPENDED_ITEMS.validate_python(tuple(values))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        n, *place = problem["loc"]
        raise InvalidRequest(f"items[{n}]: {describe(place, problem['msg'])}") from None
