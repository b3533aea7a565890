"""The base of everything that crosses the store's boundary."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, ValidationError, model_validator

from livethread.errors import InvalidRequest

if TYPE_CHECKING:
    from pydantic import ModelWrapValidatorHandler


class Model(BaseModel):
    """A frozen pydantic model that reports bad input as `InvalidRequest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


def _to_utc_milliseconds(value: datetime) -> datetime:
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time beyond the calendar") from None
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


#: An aware time in UTC, cut to the milliseconds that a rollout line holds.
UtcTime = Annotated[AwareDatetime, AfterValidator(_to_utc_milliseconds)]


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
    return _to_utc_milliseconds(datetime.now(UTC))


def format_time(value: datetime) -> str:
    """Return *value* as a rollout line spells it: UTC, milliseconds, ``Z``."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_time(text: object) -> datetime | None:
    """Return the time that a rollout spells as *text*, or None where it spells none.

    Both of codex's forms are read: RFC 3339, and ``%Y-%m-%dT%H-%M-%S`` (``thread_metadata_sync.rs``). A time that
    names no zone is in UTC.
    """
    if not isinstance(text, str):
        return None
    for parse in (datetime.fromisoformat, _parse_dashed):
        try:
            value = parse(text)
            return _to_utc_milliseconds(value if value.tzinfo else value.replace(tzinfo=UTC))
        except ValueError:
            continue
    return None


def _parse_dashed(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H-%M-%S").replace(tzinfo=UTC)
