"""The threads that are open in one store: any number of handles share what the store keeps of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from livethread.errors import Conflict, ThreadNotFound

T = TypeVar("T")


def taken_over(thread_id: str) -> Conflict:
    """Return what a writer is told that was fenced."""
    return Conflict(
        f"a newer exclusive writer has taken thread {thread_id} over: this change was refused, and what was accepted "
        "before is kept. Resume the thread, and read what has become of it, to write on"
    )


class OpenThreads(Generic[T]):
    """Counts the handles of each open thread."""

    def __init__(self) -> None:
        self._open: dict[str, T] = {}
        self._handles: dict[str, int] = {}

    def __contains__(self, thread_id: str) -> bool:
        return thread_id in self._open

    def get(self, thread_id: str) -> T | None:
        """Return what is kept of the thread; None where it is not open."""
        return self._open.get(thread_id)

    def values(self) -> list[T]:
        """Return what is kept of each thread."""
        return list(self._open.values())

    def require(self, thread_id: str) -> T:
        """Return what is kept of the thread.

        Raises:
            ThreadNotFound: it is not open.
        """
        opened = self._open.get(thread_id)
        if opened is None:
            raise ThreadNotFound(thread_id, "it is not open in this store; create or resume it first")
        return opened

    def open(self, thread_id: str, make: Callable[[], T]) -> T:
        """Open the thread once more; what is kept of it is made for its first handle."""
        if thread_id not in self._open:
            self._open[thread_id] = make()
        self._handles[thread_id] = self._handles.get(thread_id, 0) + 1
        return self._open[thread_id]

    def is_last(self, thread_id: str) -> bool:
        """Whether the thread has one handle left."""
        return self._handles.get(thread_id) == 1

    def close(self, thread_id: str) -> bool:
        """Close one handle; return whether it was the last."""
        if thread_id not in self._open:
            return False
        self._handles[thread_id] -= 1
        if self._handles[thread_id]:
            return False
        del self._open[thread_id], self._handles[thread_id]
        return True
