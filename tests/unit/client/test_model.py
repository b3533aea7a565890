from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.errors import InvalidRequest
from livethread.model import Model, UtcTime, format_time, parse_time, utc_now

TIMES = st.datetimes(
    datetime(1000, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(9998, 12, 30),  # noqa: DTZ001
    timezones=st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours))),
)


class Inner(Model):
    at: UtcTime


class Outer(Model):
    inner: Inner | None = None
    n: int = 0


@pytest.fixture(params=["UTC", "Asia/Kolkata", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Set the machine's time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


# -- models ------------------------------------------------------------------------------------------------


def test_bad_input_is_an_invalid_request_that_names_model_field_and_problem() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Outer.model_validate({"n": "many", "extra": 1})

    assert str(refused.value) == (
        "Outer: n: Input should be a valid integer, unable to parse string as an integer; "
        "extra: Extra inputs are not permitted"
    )


def test_bad_input_of_an_inner_model_names_that_model() -> None:
    with pytest.raises(InvalidRequest, match=r"^Inner: at: Field required$"):
        Outer.model_validate({"inner": {}})


def test_bad_input_is_not_quoted() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Outer.model_validate({"n": "my secret", "inner": None})

    assert "secret" not in str(refused.value)


def test_a_model_is_frozen() -> None:
    outer = Outer(n=1)

    with pytest.raises(ValueError, match="frozen"):
        outer.n = 2  # type: ignore[misc]  # that is the test


# -- times -------------------------------------------------------------------------------------------------


def test_a_time_is_converted_to_utc_and_cut_to_milliseconds() -> None:
    inner = Inner.model_validate({"at": "2026-01-02T03:04:05.678999+02:00"})

    assert inner.at == datetime(2026, 1, 2, 1, 4, 5, 678_000, tzinfo=UTC)
    assert inner.at.tzinfo is UTC


@pytest.mark.parametrize("at", [datetime(2026, 1, 1), "2026-01-01T00:00:00", "soon", None])  # noqa: DTZ001 - that is the test
def test_a_time_without_a_zone_is_refused(at: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^Inner: at: "):
        Inner.model_validate({"at": at})


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_beyond_the_calendar_is_refused(at: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Inner: at: "):
        Inner.model_validate({"at": at})


def test_now_is_in_utc_and_whole_milliseconds() -> None:
    now = utc_now()

    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0


@given(at=TIMES)
def test_a_time_survives_its_spelling_to_the_millisecond(at: datetime) -> None:
    spelled = format_time(at)

    assert len(spelled) == len("2026-11-22T17:39:40.601Z")
    assert parse_time(spelled) == at.replace(microsecond=at.microsecond // 1000 * 1000)


@given(first=TIMES, second=TIMES)
def test_spelled_times_sort_as_the_times_do(first: datetime, second: datetime) -> None:
    cut = [at.replace(microsecond=at.microsecond // 1000 * 1000) for at in (first, second)]

    assert (format_time(first) < format_time(second)) == (cut[0] < cut[1])


@pytest.mark.parametrize(
    ("text", "time_"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.1Z", datetime(2026, 1, 2, 3, 4, 5, 100_000, tzinfo=UTC)),
        ("2026-01-02T03:04:05.123456789Z", datetime(2026, 1, 2, 3, 4, 5, 123_000, tzinfo=UTC)),
        ("2026-01-02T03:04:05-07:30", datetime(2026, 1, 2, 10, 34, 5, tzinfo=UTC)),
        ("2026-01-02T03-04-05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_both_of_codexs_spellings_are_read(zone: str, text: str, time_: datetime) -> None:
    assert parse_time(text) == time_


@pytest.mark.parametrize("text", ["", "now", "2026-02-30T00:00:00Z", "2026", "1763800000", None, 7, b"2026"])
def test_a_text_that_is_not_a_time_parses_to_none(text: object) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_beyond_the_calendar_parses_to_none(text: str) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05", "2026-01-02", "2026-01-02 03:04:05.678", "20260102T030405"])
def test_a_time_without_a_zone_is_never_in_the_machines_zone(zone: str, text: str) -> None:
    """All hosts must read the same time from a file: UTC, or none."""
    assert parse_time(text) in {
        None,
        datetime(2026, 1, 2, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
    }
