"""States that were stored last, for the next batch: most threads that are written are written again soon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from livethread.rollout_item import encode_json

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable

    from livethread.metadata import StoredThread
    from livethread_worker.store.state import ThreadState

#: States that are kept, and the most that one holds of what has no bound of its own: all of them are some megabytes.
KEPT: Final = 2048
KEPT_CHARACTERS: Final = 4_096
#: Counters beyond those that a batch asks for, which would be stored again with it.
KEPT_WRITERS: Final = 8


class RecentStates:
    """States as this connection stored them, for as long as no other writes to the database.

    ``PRAGMA data_version`` tells: it changes with each commit of another connection, and with none of its own
    (sqlite.org/pragma.html). So whoever changes states by this connection says so, with `clear`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version = 0
        self._states: dict[str, ThreadState] = {}

    def look(self) -> None:
        """Forget all where somebody else has written since. What `take` hands out is as of this call."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._states.clear()
            self._version = version

    def take(self, thread_id: str, writers: Collection[str]) -> ThreadState | None:
        """Hand over the state of a thread, to be changed; None where it, or the counter of one of *writers*, is not known."""
        state = self._states.pop(thread_id, None)
        if state is None or any(writer not in state.writers for writer in writers):
            return None
        return state if len(state.writers) <= len(writers) + KEPT_WRITERS else None

    def keep(self, states: Iterable[ThreadState]) -> None:
        """Keep *states*, which are stored as they are now; the oldest have to go."""
        for state in states:
            if state.thread is not None and _characters(state.thread) <= KEPT_CHARACTERS:
                state.begin_batch()
                self._states[state.thread_id] = state
        while len(self._states) > KEPT:
            del self._states[next(iter(self._states))]

    def clear(self) -> None:
        """Forget all: something was changed that they do not say."""
        self._states.clear()


def _characters(thread: StoredThread) -> int:
    """Return how much *thread* holds of what has no bound of its own."""
    texts = len(thread.preview) + len(thread.title or "") + len(thread.first_user_message or "")
    values = (thread.approval_mode, thread.permission_profile, thread.token_usage)
    return texts + (len(encode_json(values)) if any(values) else 0)
