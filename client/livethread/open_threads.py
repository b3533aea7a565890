"""The threads that are open in one store. All handles of a thread share one state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from livethread.errors import Conflict, ThreadNotFound

T = TypeVar("T")


def taken_over(thread_id: str) -> Conflict:
    """Return the `Conflict` for a fenced writer."""
    return Conflict(
        f"a newer exclusive writer took over thread {thread_id}: this change was refused, and changes accepted before "
        "are kept. Resume the thread and read it before you continue"
    )


class OpenThreads(Generic[T]):
    """The state of each open thread, and how many handles share it."""

    def __init__(self) -> None:
        self._open: dict[str, T] = {}
        self._handles: dict[str, int] = {}

    def __contains__(self, thread_id: str) -> bool:
        return thread_id in self._open

    def get(self, thread_id: str) -> T | None:
        """Return the thread's state, or None if the thread is not open."""
        return self._open.get(thread_id)

    def values(self) -> list[T]:
        """Return the state of each thread."""
        return list(self._open.values())

    def require(self, thread_id: str) -> T:
        """Return the thread's state.

        Raises:
            ThreadNotFound: the thread is not open.
        """
        opened = self._open.get(thread_id)
        if opened is None:
            raise ThreadNotFound(thread_id, "it is not open in this store; create or resume it first")
        return opened

    def open(self, thread_id: str, make: Callable[[], T]) -> T:
        """Add a handle, and return the thread's state; *make* creates it for the first handle."""
        if thread_id not in self._open:
            self._open[thread_id] = make()
        self._handles[thread_id] = self._handles.get(thread_id, 0) + 1
        return self._open[thread_id]

    def close(self, thread_id: str) -> bool:
        """Remove a handle; return whether it was the last."""
        if thread_id not in self._open:
            return False
        self._handles[thread_id] -= 1
        if self._handles[thread_id]:
            return False
        del self._open[thread_id], self._handles[thread_id]
        return True
