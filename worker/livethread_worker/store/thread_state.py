"""`ThreadState`: what a store must know of a thread to append to it, read from the index or the rollout."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from livethread.metadata import StoredThread
from livethread.position import START, Position
from livethread.rollout.search_text import SearchText, search_text
from livethread.rollout.turns import TurnChange, TurnPlace, TurnStart, kept_turns, next_place

#: Length of inherited lines that cannot be read, because a rollout is missing.
BROKEN: Final = -1

#: Field of a ``thread_metadata`` line: when the thread was archived; null if it is active again.
ARCHIVED_AT: Final = "archived_at"


class WriterMark(NamedTuple):
    """How far one writer's tasks are applied."""

    #: Counter of its last task that the rollout or the index records.
    n: int
    #: Number of that task's lines in the rollout: a crash can leave a task half written.
    lines: int


_UNKNOWN_WRITER: Final = WriterMark(0, 0)


class TextLine(NamedTuple):
    """A searchable line."""

    ordinal: int
    text: SearchText


@dataclass(slots=True)
class ThreadState:
    """A thread with the tasks applied so far."""

    thread_id: str
    #: None until its first line is known.
    thread: StoredThread | None = None
    #: Path of the rollout, relative to the home.
    path: str = ""
    #: Committed length in the index when the state was loaded; None if the index did not know the thread.
    loaded_bytes: int | None = field(default=None, compare=False)
    #: Committed length of the rollout. Lines after it are uncommitted, or another program's.
    rollout_bytes: int = 0
    #: Number of the next line.
    next_ordinal: int = 0
    #: Id of the rollout that the live one continues, and length of all lines that it inherits; `BROKEN` if some are missing.
    base_id: str | None = None
    inherited_bytes: int = 0
    #: Offset and size of the last ``session_meta`` line of the thread itself.
    meta_offset: int = 0
    meta_bytes: int = 0
    applied: Position = START
    #: Writers with an older epoch are fenced; only `LocalThreadStore` checks this.
    epoch: int = 0
    writers: dict[str, WriterMark] = field(default_factory=dict)
    #: When the newest of the writers that the index has forgotten was opened, in ms.
    forgotten_to: int = -1
    #: Idempotency keys known to be taken: looked up in the index, or found in lines that were read.
    idempotency_keys: set[str] = field(default_factory=set)
    #: First-wins metadata fields that a caller set explicitly.
    explicit_fields: set[str] = field(default_factory=set)
    #: Turn phase after the last line.
    turn: TurnPlace = field(default_factory=TurnPlace)
    #: What lines since the state was loaded add to the index, in order; for turns, with the offsets of the lines.
    turns: list[tuple[int, TurnChange]] = field(default_factory=list)
    texts: list[TextLine] = field(default_factory=list)
    #: Whether the whole rollout was read again: the index must replace what it derived from the lines.
    is_reread: bool = False
    #: Whether a line was read that carries over what codex dropped when it rewrote the rollout.
    is_carried_over: bool = False
    #: Returns the ids of the thread's turns in the index, in order.
    stored_turns: Callable[[], Collection[str]] = field(default=tuple, compare=False, repr=False)
    _earlier_marks: dict[str, WriterMark] = field(default_factory=dict)
    _earlier_idempotency_keys: frozenset[str] = frozenset()

    def mark(self, writer: str) -> WriterMark:
        """Return how far *writer*'s tasks are applied."""
        return self.writers.get(writer, _UNKNOWN_WRITER)

    def begin_batch(self) -> None:
        """Count everything so far as stored, and collect additions from here on."""
        self.loaded_bytes = self.rollout_bytes
        self.turns, self.texts, self.is_reread = [], [], False
        self.idempotency_keys, self._earlier_idempotency_keys, self._earlier_marks = set(), frozenset(), {}

    def begin_again(self) -> None:
        """Forget what came from lines, so that the whole rollout can be read again; `applied` stays."""
        self._earlier_marks, self.writers = self.writers, {}
        self._earlier_idempotency_keys, self.idempotency_keys = frozenset(self.idempotency_keys), set()
        self.thread, self.turn = None, TurnPlace()
        self.rollout_bytes = self.next_ordinal = self.inherited_bytes = 0
        self.base_id = None
        self.explicit_fields = set()
        self.is_reread = True

    def keep_counters(self) -> None:
        """Restore counters and idempotency keys from before `begin_again` that the lines do not have."""
        self.idempotency_keys |= self._earlier_idempotency_keys
        for writer, mark in self._earlier_marks.items():
            if mark.n >= self.mark(writer).n:
                self.writers[writer] = mark

    def messages_and_turns(self) -> tuple[set[int], set[int]]:
        """Return the digests of the messages and the offsets of the turns that lines have added."""
        turns = {offset for offset, change in self.turns if isinstance(change, TurnStart)}
        return {line.text.digest for line in self.texts}, turns

    def offset_in_history(self, offset: int) -> int:
        """Return where the line at *offset* of the rollout stands in the thread's history; see `lineage`."""
        return offset + max(self.inherited_bytes, 0) if offset else 0

    def note_item(self, kind: str, payload: Any, offset: int, ordinal: int) -> None:
        """Collect what an item's line at *offset* of the history adds to turns and search."""
        self.turn, change = next_place(self.turn, kind, payload, ordinal, self._is_turn)
        if change is not None:
            self.turns.append((offset, change))
        if text := search_text(kind, payload):
            self.texts.append(TextLine(ordinal, text))

    def _is_turn(self, turn_id: str) -> bool:
        """Return whether an id names a turn that was not rolled back; few lines need this."""
        stored = () if self.is_reread else self.stored_turns()
        return turn_id in kept_turns(stored, (change for _, change in self.turns))
