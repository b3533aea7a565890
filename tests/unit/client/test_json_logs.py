from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from livethread.json_logs import JsonFormatter


def formatted(**attributes: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({
        "name": "livethread.x",
        "levelno": logging.WARNING,
        "levelname": "WARNING",
        "msg": "thread %s",
        "args": ("t1",),
        "created": 1_795_953_600.25,
        "process": 7,
        **attributes,
    })
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_record_becomes_one_line_with_its_extra_in_fields() -> None:
    assert formatted(thread_id="t1", shard=2, position="1-0", shards=[1]) == {
        "at": "2026-11-29T12:00:00.250Z",
        "level": "WARNING",
        "logger": "livethread.x",
        "process": 7,
        "message": "thread t1",
        "thread_id": "t1",
        "shard": 2,
        "position": "1-0",
        "shards": [1],
    }


def test_an_exception_is_a_field_of_the_line() -> None:
    error = ValueError("bad\nvalue")

    assert formatted(exc_info=(type(error), error, None))["exception"] == "ValueError: bad\nvalue"


def test_a_stack_that_was_asked_for_is_a_field_of_the_line() -> None:
    assert formatted(stack_info="Stack (most recent call last):\n  f()")["stack"].endswith("f()")


@pytest.mark.parametrize(
    ("value", "written"),
    [(2**70, 2**70), ("\udcff", "\udcff"), ({1: "x"}, {"1": "x"}), (ValueError("x"), "x"), ({1}, "{1}")],
    ids=str,
)
def test_any_value_is_written(value: object, written: object) -> None:
    assert formatted(value=value)["value"] == written


def test_what_a_record_carries_never_replaces_what_every_line_has() -> None:
    assert formatted(level="mine", at="mine")["level"] == "WARNING"
