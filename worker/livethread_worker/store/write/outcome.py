"""The outcome of one thread's tasks in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from livethread.errors import ThreadStoreError
from livethread.position import Position


class OutcomeKind(StrEnum):
    """How a thread's tasks fared in a batch."""

    #: All are applied.
    DONE = "done"
    #: Another program writes the thread. The tasks are not at fault, and nothing was written.
    LOCKED = "locked"
    #: The index cannot be used now. The tasks are not at fault; none is applied, but their lines may be in the file.
    BUSY = "busy"
    #: Something failed that may pass, such as a full disk; no task is applied.
    FAILED = "failed"
    #: The task after the position can never be applied.
    POISONED = "poisoned"
    #: The thread is removed, with everything stored for it.
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one thread's tasks, and up to where they are durable."""

    kind: OutcomeKind
    #: Up to here they are applied: fsynced and committed. None if no task is.
    position: Position | None = None
    reason: str = ""
    #: Why the task after the position can never be applied.
    error: ThreadStoreError | None = None

    @classmethod
    def poisoned(cls, position: Position | None, error: ThreadStoreError) -> Self:
        """Return the outcome of tasks that are applied up to *position*; the next can never be applied."""
        return cls(OutcomeKind.POISONED, position, f"{type(error).__name__}: {error}", error)

    @classmethod
    def failed(cls, error: BaseException) -> Self:
        """Return the outcome of tasks that failed, and may succeed later."""
        return cls(OutcomeKind.FAILED, reason=f"{type(error).__name__}: {error}")
