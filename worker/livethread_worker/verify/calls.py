"""Reads journals as calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from livethread import errors
from livethread.position import START, position_key

#: The end of a call whose end is unknown.
NEVER: Final = 2**63


@dataclass(slots=True)
class Call:
    """One call of one process, and its answer."""

    process: str
    number: int
    f: str
    thread_id: str
    #: An append's digests of items, or a metadata update's patch.
    value: Any
    #: Nanoseconds of the machine's monotonic clock.
    invoked_at: int
    #: Idempotency key of an append.
    key: str | None = None
    #: Whether an append states facts, and was made without the metadata that follows from them.
    raw: bool = False
    #: ``ok``, ``fail`` (certainly had no effect) or ``info`` (unknown).
    outcome: str = "info"
    answered_at: int = NEVER
    position: str | None = None
    #: For a history that was read: the number of its items, and their digest.
    count: int = 0
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.process}'s call {self.number}, {self.f}"

    @property
    def order(self) -> tuple[int, int]:
        """The sort key of its position."""
        return position_key(self.position or START)


@dataclass(slots=True)
class History:
    """The calls of one thread; those of each process in the order in which it made them."""

    thread_id: str
    calls: list[Call] = field(default_factory=list)

    def of(self, *names: str) -> list[Call]:
        """Return the calls of these operations."""
        return [call for call in self.calls if call.f in names]


def read_journals(paths: Iterable[Path]) -> dict[str, History]:
    """Return each thread's calls from the journals at *paths*. An unfinished last line is not an event.

    Raises:
        InvalidRequest: a file is not a journal; the message names the line.
    """
    calls: dict[tuple[str, int], Call] = {}
    for path in paths:
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                _take(calls, orjson.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise errors.InvalidRequest(
                    f"{path}:{number} is not an event of a journal: {type(error).__name__}"
                ) from None
    histories: dict[str, History] = {}
    for call in sorted(calls.values(), key=lambda each: each.invoked_at):
        histories.setdefault(call.thread_id, History(call.thread_id)).calls.append(call)
    return histories


def _take(calls: dict[tuple[str, int], Call], event: dict[str, Any]) -> None:
    key = event["process"], event["call"]
    if event["type"] == "invoke":
        if key in calls:
            raise ValueError
        fields = event["f"], event["thread_id"], event["value"], event["at"]
        calls[key] = Call(*key, *fields, event.get("key"), event.get("raw", False))
        return
    call = calls[key]
    call.outcome, call.answered_at = event["type"], event["at"]
    call.position = event.get("position")
    call.count, call.digest = event.get("count", 0), event.get("digest", "")
