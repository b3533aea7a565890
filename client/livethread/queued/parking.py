"""What Redis holds about a parked thread: the reason, and the entries of its mailbox."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from livethread.errors import InvalidRequest
from livethread.model import parse_time

if TYPE_CHECKING:
    from livethread.ordered_tasks import OrderedTask

#: Above every counter that a task can have.
_MAX_COUNTER: Final = 2**53


class Parking(NamedTuple):
    """Why a thread is parked, and since when; a thread that is parked again has a later time."""

    reason: str
    #: None if no worker wrote it.
    parked_at: datetime | None = None

    @classmethod
    def parse(cls, detail: bytes) -> Self:
        """Return what *detail* says, which is JSON if a worker wrote it."""
        parsed = _parsed(detail)
        if not isinstance(parsed, dict):
            return cls(str(parsed))
        return cls(str(parsed.get("reason", parsed)), parse_time(parsed.get("parked_at")))


@dataclass(frozen=True, slots=True)
class ParkedThread:
    """A thread that waits until a user retries or drops its first task."""

    thread_id: str
    shard: int
    #: The reason and its circumstances as Redis holds them: JSON.
    detail: bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the thread's id and all that is known about why it is parked."""
        detail = _parsed(self.detail)
        known = {"reason": "", "applied": None, "parked_at": None}
        return {"thread_id": self.thread_id, **known, **(detail if isinstance(detail, dict) else {"reason": detail})}


@dataclass(frozen=True, slots=True)
class WaitingEntry:
    """An entry of a parked thread's mailbox: a task, or anything else that another program wrote there."""

    position: str
    fields: dict[bytes, bytes]

    @property
    def task(self) -> OrderedTask | None:
        """The task in the entry; None if it holds something else."""
        from livethread.ordered_tasks import OrderedTask  # noqa: PLC0415 - heavy, and a status needs no tasks

        try:
            return OrderedTask.from_wire(self.fields[b"task"], self.fields.get(b"lines", b""))
        except (InvalidRequest, KeyError):
            return None

    @property
    def counter(self) -> tuple[str, int] | None:
        """Writer and counter; None if the entry lacks them."""
        writer, n = self.fields.get(b"writer", b""), self.fields.get(b"n", b"")
        if re.fullmatch(rb"[A-Za-z0-9_.-]{1,64}", writer) and re.fullmatch(rb"[0-9]{1,16}", n):
            return (writer.decode(), int(n)) if 0 < int(n) < _MAX_COUNTER else None
        return None

    @property
    def size(self) -> int:
        """Bytes of its fields."""
        return sum(map(len, self.fields.values()))

    def as_dict(self) -> dict[str, Any]:
        """Describe the entry without its contents."""
        writer, n = self.counter or (None, None)
        known: dict[str, Any] = {"position": self.position, "writer": writer, "n": n, "op": None, "bytes": self.size}
        if (task := self.task) is not None:
            known |= {"op": task.header.op, "at": task.header.at.isoformat(), "items": len(task.lines)}
        return known

    def contents(self) -> dict[str, Any]:
        """Return all fields, as text or as ``{"base64": …}`` if they are not UTF-8."""
        return {name.decode(errors="replace"): _readable(value) for name, value in self.fields.items()}


def _parsed(detail: bytes) -> Any:
    try:
        return json.loads(detail)
    except (ValueError, RecursionError):
        return detail.decode(errors="replace")


def _readable(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
