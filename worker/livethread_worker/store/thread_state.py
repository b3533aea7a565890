"""What must be known of a thread to write on: read from the index, or from the rollout itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from livethread.metadata import StoredThread
from livethread.rollout.search_text import SearchText, search_text
from livethread.rollout.turns import TurnEnd, TurnPlace, TurnsTakenBack, TurnStart, next_place
from livethread.types import START, Position

#: Key of a ``thread_metadata`` line that says when the thread was archived; null: it is active again.
ARCHIVED_AT: Final = "archived_at"


class WriterMark(NamedTuple):
    """How far one writer's tasks are applied."""

    #: Counter of its last task that left a trace.
    n: int
    #: Lines of that task that stand in the rollout: a crash can leave a task half written.
    lines: int


_UNKNOWN_WRITER: Final = WriterMark(0, 0)


@dataclass(frozen=True, slots=True)
class TurnLine:
    """A turn begins at a line."""

    offset: int
    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnEndLine:
    """A turn ends at a line that stands behind the start of another, or may do."""

    offset: int
    turn_id: str


class TextLine(NamedTuple):
    """A line that can be found."""

    ordinal: int
    text: SearchText


@dataclass(slots=True)
class ThreadState:
    """A thread as far as it is applied."""

    thread_id: str
    #: None until its first line is known.
    thread: StoredThread | None = None
    #: Rollout, relative to the home.
    path: str = ""
    #: What the index had as committed length when the state was loaded; None where it knew nothing of the thread.
    loaded_bytes: int | None = field(default=None, compare=False)
    #: Committed length of the rollout: what lies beyond was not committed, or is somebody else's.
    rollout_bytes: int = 0
    #: Number of the next record.
    next_ordinal: int = 0
    #: Where the last own ``session_meta`` line stands.
    meta_offset: int = 0
    meta_bytes: int = 0
    applied: Position = START
    #: Writers that opened the thread in an older one are fenced; only a `LocalThreadStore` asks.
    epoch: int = 0
    writers: dict[str, WriterMark] = field(default_factory=dict)
    #: Idempotency keys that are taken, of those that were asked for or stand in the lines taken in.
    keys: set[str] = field(default_factory=set)
    #: First-wins fields of the metadata that a caller set explicitly.
    explicit_fields: set[str] = field(default_factory=set)
    #: Where the last line leaves the turns.
    turn: TurnPlace = field(default_factory=TurnPlace)
    #: What the lines taken in since the state was loaded add to the index, in order.
    turns: list[TurnLine | TurnEndLine | TurnsTakenBack] = field(default_factory=list)
    texts: list[TextLine] = field(default_factory=list)
    #: Whether the whole rollout was read anew: what the index has of its lines is to be replaced.
    is_reread: bool = False
    _counters: dict[str, WriterMark] = field(default_factory=dict)
    _known_keys: frozenset[str] = frozenset()

    def mark(self, writer: str) -> WriterMark:
        """Return how far *writer*'s tasks are applied."""
        return self.writers.get(writer, _UNKNOWN_WRITER)

    def begin_batch(self) -> None:
        """Note that all of it is stored: what comes is taken in since."""
        self.loaded_bytes = self.rollout_bytes
        self.turns, self.texts, self.is_reread = [], [], False
        self.keys, self._known_keys, self._counters = set(), frozenset(), {}

    def begin_again(self) -> None:
        """Forget what is known of the lines, all of which are to be read again; what was applied stays applied."""
        self._counters, self.writers = self.writers, {}
        self._known_keys, self.keys = frozenset(self.keys), set()
        self.thread, self.turn = None, TurnPlace()
        self.rollout_bytes = self.next_ordinal = 0
        self.explicit_fields = set()

    def keep_counters(self) -> None:
        """Keep counters and keys from before `begin_again`, where the lines that are left know less."""
        self.keys |= self._known_keys
        for writer, mark in self._counters.items():
            if mark.n >= self.mark(writer).n:
                self.writers[writer] = mark

    def messages_and_turns(self) -> tuple[set[int], set[int]]:
        """Return the digests of the messages and the offsets of the turns that the lines taken in hold."""
        turns = {change.offset for change in self.turns if isinstance(change, TurnLine)}
        return {line.text.digest for line in self.texts}, turns

    def note_item(self, kind: str, payload: Any, offset: int, ordinal: int) -> None:
        """Note what an item's line at *offset* adds to turns and search."""
        event = payload.get("type") if isinstance(payload, dict) else None
        if kind == "event_msg" and isinstance(event, str):
            self.turn, change = next_place(self.turn, event, payload, ordinal)
            match change:
                case TurnStart():
                    self.turns.append(TurnLine(offset, change.turn_id))
                case TurnEnd():
                    self.turns.append(TurnEndLine(offset, change.turn_id))
                case TurnsTakenBack():
                    self.turns.append(change)
        if text := search_text(kind, payload):
            self.texts.append(TextLine(ordinal, text))
