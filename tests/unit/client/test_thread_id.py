from __future__ import annotations

import time
import uuid

import pytest
from pydantic import TypeAdapter, ValidationError

from livethread.thread_id import ThreadId, new_thread_id

CANONICAL = "019a93b9-f380-7600-98ff-940e6b99603c"
THREAD_ID: TypeAdapter[str] = TypeAdapter(ThreadId)


def test_a_canonical_id_is_accepted_unchanged() -> None:
    assert THREAD_ID.validate_python(CANONICAL) == CANONICAL


def test_an_id_in_upper_case_becomes_lower_case() -> None:
    assert THREAD_ID.validate_python(CANONICAL.upper()) == CANONICAL


@pytest.mark.parametrize(
    "value",
    [
        "",
        "../..",
        "../" * 11 + "abc",
        CANONICAL.replace("-", "/"),
        f"{{{CANONICAL}}}",
        f"urn:uuid:{CANONICAL}",
        CANONICAL.replace("-", ""),
        f"{CANONICAL}\n",
        f" {CANONICAL}",
        f"{CANONICAL}0",
        CANONICAL[:-1],
        CANONICAL.replace("0", "٠"),  # noqa: RUF001 - an Arabic digit, which \d would take
        CANONICAL.replace("f", "ｆ"),  # noqa: RUF001 - a full-width letter
        CANONICAL.replace("-", "*"),
        CANONICAL.encode().hex(),
    ],
)
def test_any_other_text_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="a thread id is a UUID such as"):
        THREAD_ID.validate_python(value)


@pytest.mark.parametrize("value", [None, 7, uuid.UUID(CANONICAL), ["a"]])
def test_a_value_that_is_not_a_string_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        THREAD_ID.validate_python(value)


def test_a_long_text_is_quoted_in_part_only() -> None:
    with pytest.raises(ValidationError) as refused:
        THREAD_ID.validate_python("x" * 10_000)

    assert len(refused.value.errors()[0]["msg"]) < 250


def test_a_new_id_is_a_canonical_uuid_of_version_7() -> None:
    made = new_thread_id()

    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, made)


def test_new_ids_are_all_different() -> None:
    made = [new_thread_id() for _ in range(1_000)]

    assert len(set(made)) == len(made)


def test_ids_sort_by_the_millisecond_of_their_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = [1, 1_000, 1_763_800_000_000, 1_763_800_000_001, 2**47]
    made = []
    for moment in milliseconds:
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment * 1_000_000)
        made.append(new_thread_id())

    assert made == sorted(made)
    assert [uuid.UUID(id_).int >> 80 for id_ in made] == milliseconds
