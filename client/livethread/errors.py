"""The errors of a thread store, split by what the caller should do.

    ThreadStoreError
    ├── ThreadNotFound      create or resume the thread first
    ├── InvalidRequest      correct the request; a retry cannot help
    ├── Conflict            read again, then decide
    ├── Unsupported         use another store: this one lacks the operation
    ├── ResourceExhausted   wait, then retry: a limit is reached
    ├── Unavailable         wait: Redis or the workers are unreachable; nothing accepted is lost
    │   └── HomesUnavailable    or take a partial page: a read over all shards lacks the answers of some homes
    ├── ThreadParked        inspect the task that cannot be applied, then retry or drop it
    └── Internal            report a bug in the store, or repair a damaged file; the message says which

The first six and `Internal` are codex's (``thread-store/src/error.rs``). Each error passes its data to
``Exception.__init__`` and formats it in ``__str__``: Celery and pickle rebuild an error from ``args``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

#: Note on the ``CancelledError`` of a call that was cancelled while it waited for room (``LIVETHREAD_BACKPRESSURE=wait``).
#: Without this note, the cancellation ended only the wait: the request still takes effect.
NOTHING_STORED: Final = "the request was still waiting for room: nothing was stored"


class ThreadStoreError(Exception):
    """Base class of a thread store's errors."""


class ThreadNotFound(ThreadStoreError):
    """No thread has this id, or the store has no live writer for it."""

    def __init__(self, thread_id: str, hint: str = "") -> None:
        super().__init__(thread_id, hint)
        self.thread_id = thread_id
        self.hint = hint

    @classmethod
    def of_archived(cls, thread_id: str) -> Self:
        """Return the error for an archived thread where only active ones are wanted."""
        return cls(thread_id, "it is archived; include_archived=True finds it")

    def __str__(self) -> str:
        return f"thread {self.thread_id} not found" + (f": {self.hint}" if self.hint else "")


class _MessageError(ThreadStoreError):
    """An error with a message and no other data."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(_MessageError):
    """The request is malformed; nothing was stored."""


class Conflict(ThreadStoreError):
    """The request contradicts the thread's current state; nothing was stored."""

    def __init__(self, message: str, last_position: str | None = None) -> None:
        super().__init__(message, last_position)
        self.message = message
        #: The thread's last position, if the request expected a different one and the store knows it. Read the thread
        #: again, then append after this position: unless the thread is parked, the read includes everything up to it.
        self.last_position = last_position

    @classmethod
    def of_position(cls, thread_id: str, last: str, expected: str | None) -> Self:
        """Return the error for a thread whose *last* position is not the *expected* one."""
        return cls(
            f"the last position of thread {thread_id} is {last}, not {expected}: nothing was stored. Read the thread "
            "again, then retry",
            last,
        )

    def __str__(self) -> str:
        return self.message


class ResourceExhausted(_MessageError):
    """A limit is reached (mailbox, item size, client memory); nothing was stored."""


class Unavailable(ThreadStoreError):
    """Redis or the workers did not answer in time. Tasks accepted before are kept and will be applied."""

    def __init__(self, message: str, is_queued: bool = False) -> None:
        super().__init__(message, is_queued)
        self.message = message
        #: Whether the request stays queued in this process and takes effect later. If it does, do not repeat it.
        self.is_queued = is_queued

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class SilentHome:
    """A home that did not answer a read over all shards."""

    #: The home's id.
    home: str
    #: The host of its workers.
    host: str
    #: The shards that it serves.
    shards: tuple[int, ...]
    #: Why it did not answer.
    reason: str

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.shards))
        return f"home {self.home} on host {self.host} (shards: {numbers}): {self.reason}"


class HomesUnavailable(Unavailable):
    """Some homes did not answer a read over all shards, so the answer would lack their threads."""

    def __init__(self, unanswered: Iterable[Any]) -> None:
        homes = [_silent_home(each) for each in unanswered]
        super().__init__("no answer from " + "; ".join(map(str, homes)))
        self.args = ([[home.home, home.host, list(home.shards), home.reason] for home in homes],)
        self.unanswered = tuple(homes)


def _silent_home(value: Any) -> SilentHome:
    if isinstance(value, SilentHome):
        return value
    home, host, shards, reason = value  # as JSON has them
    return SilentHome(home, host, tuple(shards), reason)


class Internal(_MessageError):
    """The store has a bug, which you should report, or a file is damaged; the message says what to do."""


class Unsupported(ThreadStoreError):
    """The store does not implement the operation."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation

    def __str__(self) -> str:
        return f"this store does not support {self.operation}"


class ThreadParked(ThreadStoreError):
    """A task of the thread cannot be applied. The thread's tasks wait, in order, until you retry or drop it."""

    def __init__(self, thread_id: str, reason: str) -> None:
        super().__init__(thread_id, reason)
        self.thread_id = thread_id
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"thread {self.thread_id} is parked: {self.reason}; its tasks are kept, in order. "
            "Remove the cause, then run livethread parked retry"
        )
