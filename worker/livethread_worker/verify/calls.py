"""Journals, read back as calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from livethread.errors import InvalidRequest
from livethread.types import START, position_key

#: When a call ended that nobody saw end.
NEVER: Final = 2**63


@dataclass(slots=True)
class Call:
    """One call of one process, and what it was told."""

    process: str
    number: int
    f: str
    thread_id: str
    #: The items' digests of an append, the patch of a metadata update.
    value: Any
    #: Nanoseconds of the machine's monotonic clock.
    invoked_at: int
    #: Idempotency key of an append.
    key: str | None = None
    #: Whether an append states facts, and was made without the metadata that follows from them.
    raw: bool = False
    #: ``ok``, ``fail`` (certainly not carried out) or ``info`` (nobody knows).
    outcome: str = "info"
    answered_at: int = NEVER
    position: str | None = None
    #: Of a history that was read: how many items, and their digest.
    count: int = 0
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.process}'s call {self.number}, {self.f}"

    @property
    def order(self) -> tuple[int, int]:
        """The place that its answer gave it."""
        return position_key(self.position or START)


@dataclass(slots=True)
class History:
    """The calls of one thread, each process's in the order in which it made them."""

    thread_id: str
    calls: list[Call] = field(default_factory=list)

    def of(self, *names: str) -> list[Call]:
        """Return the calls of these operations."""
        return [call for call in self.calls if call.f in names]


def read_journals(paths: Iterable[Path]) -> dict[str, History]:
    """Return what the journals at *paths* say of each thread. A last line without its end was being written: it is no event.

    Raises:
        InvalidRequest: a file is no journal; says which line.
    """
    calls: dict[tuple[str, int], Call] = {}
    for path in paths:
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                _take(calls, orjson.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRequest(f"{path}:{number} is no event of a journal: {type(error).__name__}") from None
    histories: dict[str, History] = {}
    for call in sorted(calls.values(), key=lambda each: each.invoked_at):
        histories.setdefault(call.thread_id, History(call.thread_id)).calls.append(call)
    return histories


def by_process(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """Return *calls* by process, in their order."""
    found: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        found[call.process].append(call)
    return found


def _take(calls: dict[tuple[str, int], Call], event: dict[str, Any]) -> None:
    key = event["process"], event["call"]
    if event["type"] == "invoke":
        if key in calls:
            raise ValueError
        told = event["f"], event["thread_id"], event["value"], event["at"]
        calls[key] = Call(*key, *told, event.get("key"), event.get("raw", False))
        return
    call = calls[key]
    call.outcome, call.answered_at = event["type"], event["at"]
    call.position = event.get("position")
    call.count, call.digest = event.get("count", 0), event.get("digest", "")
