"""What can go wrong, split by what the caller should do.

    ThreadStoreError
    ├── ThreadNotFound      create or resume the thread first
    ├── InvalidRequest      correct the request; a retry cannot help
    ├── Conflict            read again, then decide
    ├── Unsupported         this store does not do that
    ├── ResourceExhausted   wait, then retry: a bound is reached
    ├── Unavailable         Redis or the workers are out of reach; nothing accepted is lost
    ├── ThreadParked        a task of this thread cannot be applied; look at it, then retry or drop it
    └── Internal            a fault of the store; report it

The first six and `Internal` are codex's (``thread-store/src/error.rs``). Each error passes its data to
``Exception.__init__`` and formats it in ``__str__``: Celery and pickle rebuild an error from ``args``.
"""

from __future__ import annotations

from typing import Final, Self

#: Note on a ``CancelledError`` of a call that waited for room (``LIVETHREAD_BACKPRESSURE=wait``). Without it, what
#: was cancelled is only the wait: the request takes effect.
NOTHING_STORED: Final = "nothing was stored of the request: it still waited for room"


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
    """An error whose only datum is an explanation for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(_MessageError):
    """The request is malformed; nothing was stored of it."""


class Conflict(ThreadStoreError):
    """The request contradicts the thread's present state; nothing was stored of it."""

    def __init__(self, message: str, last_position: str | None = None) -> None:
        super().__init__(message, last_position)
        self.message = message
        #: Where another position was expected: the thread's last one, if it is known. A later read of the thread through
        #: the same store holds what stands up to it, unless the thread is parked: so whoever has read again can append
        #: behind just that.
        self.last_position = last_position

    @classmethod
    def of_position(cls, last: str, expected: str | None) -> Self:
        """Return what is said where *last* is not the *expected* position."""
        return cls(f"the thread's last position is {last}, not {expected}", last)

    def __str__(self) -> str:
        return self.message


class ResourceExhausted(_MessageError):
    """A bound is reached (mailbox, item size, client memory); nothing was stored of the request."""


class Unavailable(ThreadStoreError):
    """Redis or the workers did not answer in time. What was accepted before is kept and will be applied."""

    def __init__(self, message: str, is_queued: bool = False) -> None:
        super().__init__(message, is_queued)
        self.message = message
        #: Whether the request itself stays queued in this process and takes effect later: do not repeat it.
        self.is_queued = is_queued

    def __str__(self) -> str:
        return self.message


class Internal(_MessageError):
    """A fault of the store itself."""


class Unsupported(ThreadStoreError):
    """The store does not implement the operation."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation

    def __str__(self) -> str:
        return f"this store does not support {self.operation}"


class ThreadParked(ThreadStoreError):
    """A task of the thread cannot be applied: the thread waits, in order, until somebody decides."""

    def __init__(self, thread_id: str, reason: str) -> None:
        super().__init__(thread_id, reason)
        self.thread_id = thread_id
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"thread {self.thread_id} is parked: {self.reason}; "
            "its tasks are kept in order until the cause is mended and it is retried (livethread parked)"
        )
