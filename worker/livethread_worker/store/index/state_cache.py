"""A cache of the states that were stored last: a thread that was written is often written again soon."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import Final

from livethread.rollout.lines import encode_json
from livethread_worker.store.thread_state import ThreadState

#: Maximum states in the cache, characters in all of them, and characters in one. The state of a short thread takes 7 kB,
#: so this is 15 MB, and more for long texts.
MAX_STATES: Final = 2048
MAX_CHARACTERS: Final = 8_000_000
MAX_STATE_CHARACTERS: Final = 64_000
#: Maximum counters of a state, and counters beyond those that a batch needs: the batch stores these again, too.
MAX_WRITERS: Final = 64
MAX_EXTRA_WRITERS: Final = 8


class StateCache:
    """States as this connection stored them, as long as no other connection writes to the database.

    ``PRAGMA data_version`` changes with each commit of another connection, but not with our own (sqlite.org/pragma.html).
    So code that changes states through this connection in another way has to `clear` the cache.

    Loading a state takes a sixth of the CPU time of a batch of one-line appends (62 of 351 us a thread); from here, 6 us.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version = 0
        #: Each with its number of characters, the oldest first.
        self._states: dict[str, tuple[ThreadState, int]] = {}
        self._characters = 0

    def check_version(self) -> None:
        """Clear the cache if another connection wrote since. States from `take` are as of this call."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.clear()
            self._version = version

    def take(self, thread_id: str, writers: Collection[str]) -> ThreadState | None:
        """Remove and return the state of a thread; None if the cache lacks it, or the counter of one of *writers*."""
        state = self._pop(thread_id)
        if state is None or any(writer not in state.writers for writer in writers):
            return None
        return state if len(state.writers) <= len(writers) + MAX_EXTRA_WRITERS else None

    def keep(self, states: Iterable[ThreadState]) -> None:
        """Add *states*, which were stored just now, and drop the oldest if there are too many."""
        for state in states:
            if state.thread is None or len(state.writers) > MAX_WRITERS:
                continue
            if (characters := _characters(state)) <= MAX_STATE_CHARACTERS:
                state.begin_batch()
                self._pop(state.thread_id)
                self._states[state.thread_id] = state, characters
                self._characters += characters
        while len(self._states) > MAX_STATES or self._characters > MAX_CHARACTERS:
            self._pop(next(iter(self._states)))

    def forget(self, thread_ids: Iterable[str]) -> None:
        """Drop threads that were deleted, or stored by another process."""
        for thread_id in thread_ids:
            self._pop(thread_id)

    def _pop(self, thread_id: str) -> ThreadState | None:
        state, characters = self._states.pop(thread_id, (None, 0))
        self._characters -= characters
        return state

    def clear(self) -> None:
        """Drop all states."""
        self._states.clear()
        self._characters = 0


def _characters(state: ThreadState) -> int:
    """Return how many characters *state* holds in fields that have no bound of their own."""
    assert state.thread is not None
    count = len(state.turn.turn_id or "")
    git = state.thread.git_info
    for value in (*vars(state.thread).values(), *(vars(git).values() if git else ())):
        if type(value) is str:
            count += len(value)
        elif type(value) is dict or type(value) is list:
            count += len(encode_json(value))
    return count
