"""States that were stored last, for the next batch: most threads that are written are written again soon."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import Final

from livethread.rollout.item import encode_json
from livethread_worker.store.thread_state import ThreadState

#: States that are kept, and the characters that all of them, and one, may hold: some megabytes.
KEPT: Final = 2048
KEPT_CHARACTERS: Final = 8_000_000
KEPT_OF_ONE: Final = 64_000
#: Counters of one, and those beyond what a batch asks for: they are stored again with it.
KEPT_WRITERS: Final = 64
STORED_AGAIN: Final = 8


class RecentStates:
    """States as this connection stored them, for as long as no other writes to the database.

    ``PRAGMA data_version`` tells: it changes with each commit of another connection, and with none of its own
    (sqlite.org/pragma.html). So whoever changes states by this connection says so, with `clear`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version = 0
        #: Each with the characters that it holds, the oldest first.
        self._states: dict[str, tuple[ThreadState, int]] = {}
        self._characters = 0

    def look(self) -> None:
        """Forget all where somebody else has written since. What `take` hands out is as of this call."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.clear()
            self._version = version

    def take(self, thread_id: str, writers: Collection[str]) -> ThreadState | None:
        """Hand over the state of a thread, to be changed; None where it, or the counter of one of *writers*, is not known."""
        state = self._pop(thread_id)
        if state is None or any(writer not in state.writers for writer in writers):
            return None
        return state if len(state.writers) <= len(writers) + STORED_AGAIN else None

    def keep(self, states: Iterable[ThreadState]) -> None:
        """Keep *states*, which are stored as they are now; the oldest have to go."""
        for state in states:
            if state.thread is None or len(state.writers) > KEPT_WRITERS:
                continue
            if (characters := _characters(state)) <= KEPT_OF_ONE:
                state.begin_batch()
                self._pop(state.thread_id)
                self._states[state.thread_id] = state, characters
                self._characters += characters
        while len(self._states) > KEPT or self._characters > KEPT_CHARACTERS:
            self._pop(next(iter(self._states)))

    def forget(self, thread_ids: Iterable[str]) -> None:
        """Forget threads: they are gone, or somebody else has stored them."""
        for thread_id in thread_ids:
            self._pop(thread_id)

    def _pop(self, thread_id: str) -> ThreadState | None:
        state, characters = self._states.pop(thread_id, (None, 0))
        self._characters -= characters
        return state

    def clear(self) -> None:
        """Forget all: something was changed that they do not say."""
        self._states.clear()
        self._characters = 0


def _characters(state: ThreadState) -> int:
    """Return how many characters *state* holds in what its lines say, which has no bound of its own."""
    assert state.thread is not None
    count = len(state.turn.turn_id or "")
    git = state.thread.git_info
    for value in (*vars(state.thread).values(), *(vars(git).values() if git else ())):
        if type(value) is str:
            count += len(value)
        elif type(value) is dict or type(value) is list:
            count += len(encode_json(value))
    return count
