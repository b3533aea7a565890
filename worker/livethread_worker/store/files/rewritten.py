"""Finds what ``codex migrate-rollouts`` copied when it rewrote a rollout as paginated, and carries over what it dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final, NamedTuple

from pydantic import ValidationError

from livethread.metadata import PAGINATED, StoredThread
from livethread_worker.store.files.scan import scan_records
from livethread_worker.store.thread_state import ThreadState, WriterMark

#: Field of a ``thread_metadata`` line that holds what codex dropped: the thread as it was then, counters, idempotency keys.
CARRIED_OVER: Final = "carried_over"


class Before(NamedTuple):
    """What a rollout held before codex rewrote it."""

    state: ThreadState
    #: End of the lines that codex copied into the new file.
    end: int


#: A line's time, as spelled, and its type.
_Stamp = tuple[str, str]


def is_paginated(file: BinaryIO) -> bool:
    """Whether the first line of *file* is the ``session_meta`` of a paginated rollout."""
    first = next(scan_records(file), None)
    payload = first.value.get("payload") if first is not None and first.value is not None else None
    return isinstance(payload, dict) and payload.get("history_mode") == PAGINATED


def end_of_copy(file: BinaryIO, original: BinaryIO) -> int:
    """Return the end of the lines in *file* that codex copied from *original*.

    codex keeps the order and the time of each line that it copies, and may turn one into several events.
    """
    stamps = _stamps(original)
    last: _Stamp | None = None
    for record in scan_records(file):
        stamp = _stamp(record.value)
        if stamp is not None and not (stamp == last and stamp[1] == "event_msg"):
            if stamp not in stamps:  # `in` reads on in the original, up to an equal stamp
                return record.offset
            last = stamp
    return file.tell()


def _stamps(file: BinaryIO) -> Iterator[_Stamp]:
    return (stamp for record in scan_records(file) if (stamp := _stamp(record.value)) is not None)


def _stamp(value: dict[str, Any] | None) -> _Stamp | None:
    at, kind = (value or {}).get("timestamp"), (value or {}).get("type")
    return (at, kind) if isinstance(at, str) and isinstance(kind, str) else None


def to_carry_over(state: ThreadState) -> dict[str, Any]:
    """Return the payload of the line that carries *state* over."""
    assert state.thread is not None
    return {
        CARRIED_OVER: {
            "thread": state.thread.model_dump(mode="json", exclude={"rollout_path", "position", "history"}),
            "explicit_fields": sorted(state.explicit_fields),
            "writers": {writer: list(mark) for writer, mark in sorted(state.writers.items())},
            "idempotency_keys": sorted(state.idempotency_keys),
        }
    }


def carried_over(thread_id: str, payload: Any) -> ThreadState | None:
    """Return the state that a line with *payload* carries over; None if it carries nothing over."""
    carried = payload.get(CARRIED_OVER) if isinstance(payload, dict) else None
    if not isinstance(carried, dict):
        return None
    state = ThreadState(thread_id)
    with suppress(ValidationError, KeyError, TypeError, ValueError, AttributeError):  # not a line of ours
        state.writers = {writer: WriterMark(int(n), int(lines)) for writer, (n, lines) in carried["writers"].items()}
        state.idempotency_keys = set(carried["idempotency_keys"])
        state.explicit_fields = set(carried["explicit_fields"])
        state.thread = StoredThread.model_validate(carried["thread"])
    return state
