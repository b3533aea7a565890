"""The base of everything that crosses the store's boundary."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
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

    # What is written holds all of its fields, and its JSON schema says so.
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

    @model_validator(mode="wrap")
    @classmethod
    def _report_invalid_request(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            problems = "; ".join(
                ".".join(map(str, problem["loc"]))
                + (": " if problem["loc"] else "")
                + problem["msg"].removeprefix("Value error, ")
                for problem in error.errors(include_input=False, include_url=False)
            )
            raise InvalidRequest(f"{cls.__name__}: {problems}") from None

    @classmethod
    def of_valid(cls, **fields: Any) -> Self:
        """Return the model of *fields*, which are all that it has and known to be valid: nothing is looked at.

        It does what `model_construct` does, several times as fast: for what every append makes.
        """
        made = cls.__new__(cls)
        _set_fields(made, fields)
        _set_extra(made, {} if cls.model_config.get("extra") == "allow" else None)
        _set_fields_set(made, _all_fields(cls))
        _set_private(made, None)
        return made

    def with_valid(self, fields: dict[str, Any]) -> Self:
        """Return a copy in which *fields*, known to be valid, have these values.

        It does what `model_copy` does, several times as fast; what both have in common, they share.
        """
        made = self.__new__(type(self))
        _set_fields(made, self.__dict__ | fields)
        _set_extra(made, self.__pydantic_extra__)
        known = self.__pydantic_fields_set__
        _set_fields_set(made, known if fields.keys() <= known else known | fields.keys())
        _set_private(made, None)
        return made


@cache
def _all_fields(model: type[BaseModel]) -> set[str]:
    """Return the names of a model's fields: frozen as they are, all that have them all can share the set."""
    return set(model.model_fields)


#: Sets what a frozen model refuses to.
_set_fields: Final = vars(BaseModel)["__dict__"].__set__
_set_fields_set: Final = vars(BaseModel)["__pydantic_fields_set__"].__set__
_set_extra: Final = vars(BaseModel)["__pydantic_extra__"].__set__
_set_private: Final = vars(BaseModel)["__pydantic_private__"].__set__


def _to_utc_milliseconds(value: datetime) -> datetime:
    if value.tzinfo is not UTC:
        try:
            value = value.astimezone(UTC)
        except OverflowError:
            raise ValueError("a time beyond the calendar") from None
    rest = value.microsecond % 1000
    return value.replace(microsecond=value.microsecond - rest) if rest else value


_DATE_AND_TIME: Final = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"

#: What JSON schemas say of a time: of one that is read, one that is written, and that of a rollout line.
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

#: An aware time in UTC, cut to the milliseconds that a rollout line holds.
UtcTime = Annotated[
    AwareDatetime,
    AfterValidator(_to_utc_milliseconds),
    WithJsonSchema(ANY_TIME_SCHEMA, mode="validation"),
    WithJsonSchema(UTC_TIME_SCHEMA, mode="serialization"),
]


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate, which UTF-8 cannot encode") from None
    return value


#: Text that can be stored.
Text = Annotated[str, AfterValidator(_encodable)]


def utc_now() -> datetime:
    """Return the present time in UTC, in whole milliseconds."""
    return _at(time.time_ns() // 1_000_000)


@lru_cache(maxsize=1)
def _at(milliseconds: int) -> datetime:
    """Return the time so long after the epoch: of one millisecond, all appends have the same, which knows its hash."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def format_time(value: datetime) -> str:
    """Return *value* as a rollout line spells it: UTC, milliseconds, ``Z``."""
    return _format_utc(value if value.tzinfo is UTC else value.astimezone(UTC))


@lru_cache(maxsize=16)
def _format_utc(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_time(text: object) -> datetime | None:
    """Return the time that a rollout spells as *text*, or None where it spells none.

    Both of codex's forms are read: RFC 3339, and ``%Y-%m-%dT%H-%M-%S`` (``thread_metadata_sync.rs``). A time that
    names no zone is in UTC.
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
