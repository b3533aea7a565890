"""Base models, text and time types for everything that crosses the store's boundary."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from livethread.errors import InvalidRequest


class Model(BaseModel):
    """A frozen pydantic model that reports bad input as `InvalidRequest`."""

    # Output includes fields with default values, so its JSON schema requires every field.
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

    @model_validator(mode="wrap")
    @classmethod
    def _report_invalid_request(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False)
            text = "; ".join(describe(problem["loc"], problem["msg"]) for problem in problems)
            raise InvalidRequest(f"{cls.__name__}: {text}") from None


class Result(BaseModel):
    """A frozen pydantic model that a store returns. It ignores fields that a later release may add."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


def describe(place: Iterable[object], message: str) -> str:
    """Return the message for a pydantic error, without the value, which may be secret."""
    prefix = ".".join(map(str, place))
    return (f"{prefix}: " if prefix else "") + message.removeprefix("Value error, ")


def _to_utc_milliseconds(value: datetime) -> datetime:
    if value.tzinfo is not UTC:
        try:
            value = value.astimezone(UTC)
        except OverflowError:
            raise ValueError("in UTC, the time is not within the years 1 to 9999") from None
    rest = value.microsecond % 1000
    return value.replace(microsecond=value.microsecond - rest) if rest else value


_DATE_AND_TIME: Final = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"

#: JSON schemas of a time: as input, as output, and in a rollout line.
ANY_TIME_SCHEMA: Final = {
    "type": "string",
    "format": "date-time",
    "pattern": rf"^{_DATE_AND_TIME}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$",
}
UTC_TIME_SCHEMA: Final = {
    "type": "string",
    "format": "date-time",
    "pattern": rf"^{_DATE_AND_TIME}(\.[0-9]{{6}})?Z$",
}
LINE_TIME_SCHEMA: Final = {
    "type": "string",
    "format": "date-time",
    "pattern": rf"^{_DATE_AND_TIME}\.[0-9]{{3}}Z$",
}

#: An aware time in UTC, truncated to the milliseconds that a rollout line holds.
UtcTime = Annotated[
    AwareDatetime,
    AfterValidator(_to_utc_milliseconds),
    WithJsonSchema(ANY_TIME_SCHEMA, mode="validation"),
    WithJsonSchema(UTC_TIME_SCHEMA, mode="serialization"),
]

#: A time of a result, which was truncated before it was stored.
StoredTime = Annotated[AwareDatetime, WithJsonSchema(UTC_TIME_SCHEMA)]


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate, which UTF-8 cannot encode") from None
    return value


#: Text that can be stored.
Text = Annotated[str, AfterValidator(_encodable)]


def utc_now() -> datetime:
    """Return the current time in UTC, truncated to milliseconds."""
    return _at(time.time_ns() // 1_000_000)


@lru_cache(maxsize=1)
def _at(milliseconds: int) -> datetime:
    """Return the time *milliseconds* after the epoch. Appends in the same one share a datetime and its cached hash."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def format_time(value: datetime) -> str:
    """Return *value* as in rollout lines: UTC, milliseconds, ``Z``."""
    return _format_utc(value if value.tzinfo is UTC else value.astimezone(UTC))


@lru_cache(maxsize=16)
def _format_utc(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_time(text: object) -> datetime | None:
    """Parse *text* from a rollout as a time; return None if it is not one.

    Accepts both of codex's forms: RFC 3339, and ``%Y-%m-%dT%H-%M-%S`` (``thread_metadata_sync.rs``). A time without a
    zone is in UTC.
    """
    if not isinstance(text, str):
        return None
    try:
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            value = datetime.strptime(text, "%Y-%m-%dT%H-%M-%S").replace(tzinfo=UTC)
        return _to_utc_milliseconds(value if value.tzinfo else value.replace(tzinfo=UTC))
    except ValueError:
        return None
