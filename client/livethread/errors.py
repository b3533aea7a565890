"""The errors of a thread store, split by what the caller should do.

    ThreadStoreError
    ├── ThreadNotFound      create or resume the thread first
    ├── InvalidRequest      correct the request; a retry cannot help
    ├── Conflict            read again, then decide
    ├── Unsupported         this store does not do that
    ├── ResourceExhausted   wait, then retry: a bound is reached
    ├── Unavailable         Redis or the workers are out of reach; nothing accepted is lost
    ├── ThreadParked        a task of this thread cannot be applied; look at it, then retry or drop it
    └── Internal            a fault of the store, or a damaged file; the message says which

The first six and `Internal` are codex's (``thread-store/src/error.rs``). Each error passes its data to
``Exception.__init__`` and formats it in ``__str__``: Celery and pickle rebuild an error from ``args``.
"""

from __future__ import annotations

from typing import Final, Self

#: Note on the ``CancelledError`` of a call that was cancelled while it waited for room (``LIVETHREAD_BACKPRESSURE=wait``).
#: Without this note the cancellation ended only the wait, and the request takes effect.
NOTHING_STORED: Final = "nothing of the request was stored: it was still waiting for room"


class ThreadStoreError(Exception):
    """Base of all errors of a thread store."""


class ThreadNotFound(ThreadStoreError):
    """No thread has this id, or the store has no live writer for it."""

    def __init__(self, thread_id: str, hint: str = "") -> None:
        super().__init__(thread_id, hint)
        self.thread_id = thread_id
        self.hint = hint

    def __str__(self) -> str:
        return f"thread {self.thread_id} not found" + (f": {self.hint}" if self.hint else "")


class _MessageError(ThreadStoreError):
    """An error with a message and no other data."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(_MessageError):
    """The request is malformed; nothing of it was stored."""


class Conflict(ThreadStoreError):
    """The request contradicts the thread's present state; nothing of it was stored."""

    def __init__(self, message: str, last_position: str | None = None) -> None:
        super().__init__(message, last_position)
        self.message = message
        #: The thread's last position, if the request expected another one and the store knows it. Unless the thread is
        #: parked, a later read through the same store includes everything up to it. So read again, and append after it.
        self.last_position = last_position

    @classmethod
    def of_position(cls, last: str, expected: str | None) -> Self:
        """Return the error for a thread whose *last* position is not the *expected* one."""
        return cls(f"the thread's last position is {last}, not {expected}", last)

    def __str__(self) -> str:
        return self.message


class ResourceExhausted(_MessageError):
    """A bound is reached (mailbox, item size, client memory); nothing of the request was stored."""


class Unavailable(ThreadStoreError):
    """Redis or the workers did not answer in time. Tasks accepted before are kept and will be applied."""

    def __init__(self, message: str, is_queued: bool = False) -> None:
        super().__init__(message, is_queued)
        self.message = message
        #: Whether the request stays queued in this process and takes effect later. If so, do not repeat it.
        self.is_queued = is_queued

    def __str__(self) -> str:
        return self.message


class Internal(_MessageError):
    """A fault of the store itself, which you should report; or a damaged file, with its remedy in the message."""


class Unsupported(ThreadStoreError):
    """The store does not implement the operation."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation

    def __str__(self) -> str:
        return f"this store does not support {self.operation}"


class ThreadParked(ThreadStoreError):
    """A task of the thread cannot be applied. The thread's tasks wait, in order, until you retry or drop that one."""

    def __init__(self, thread_id: str, reason: str) -> None:
        super().__init__(thread_id, reason)
        self.thread_id = thread_id
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"thread {self.thread_id} is parked: {self.reason}; its tasks are kept, in order. "
            "Remove the cause, then run livethread parked retry"
        )
