"""What must be known of a thread to write on: read from the index, or from the rollout itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from livethread.errors import InvalidRequest
from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.model import parse_time
from livethread.observed import ObservedThread
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread.rollout.old_forms import event_of_message, modern_record
from livethread.rollout.search_text import SearchText, search_text
from livethread.rollout.session_meta import thread_from_meta
from livethread.rollout.turns import TurnEnd, TurnPlace, TurnsTakenBack, TurnStart, next_place
from livethread.types import START, Position
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.scan import Record, key_of, ordinal_of, scan_records, writer_mark

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
    #: Fields of the metadata that the first line to say them would decide, and somebody asked for.
    settled: set[str] = field(default_factory=set)
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
        self.settled = set()

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


def read_on(state: ThreadState, file: BinaryIO) -> Record | None:
    """Take in what stands in *file* beyond the state's committed length; return a torn last line, if any.

    Lines of ours count as applied, line by line; other lines are adopted. Either way the metadata that
    follows from them is taken from them: this is how a rollout is read when there is nothing but the file.
    """
    reader = _Reader(state, datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC))
    torn = None
    for record in scan_records(file, state.rollout_bytes):
        if not record.is_complete and record.value is None:
            torn = record
            break
        state.rollout_bytes = record.offset + record.size
        if record.value is not None:
            reader.take(record, record.value)
    reader.finish()
    return torn


class _Reader:
    """Takes the records of a rollout into a state, in order."""

    def __init__(self, state: ThreadState, changed_at: datetime) -> None:
        self._state = state
        #: None until the thread's first line is read.
        self._observed = ObservedThread(state.thread, state.settled) if state.thread else None
        #: The time of a line that tells none: that of the line before, or of the file.
        self._at = state.thread.updated_at if state.thread else changed_at

    def take(self, record: Record, value: dict[str, Any]) -> None:
        """Take in one line."""
        state = self._state
        number = max(state.next_ordinal, ordinal_of(value) or 0)
        state.next_ordinal = number + 1
        if mark := writer_mark(value):
            _count(state, *mark)
            if (key := key_of(value)) is not None:
                state.keys.add(key)
        is_old = "payload" not in value
        if is_old:
            value = modern_record(value) or {}
        kind, payload = value.get("type"), value.get("payload")
        if not isinstance(kind, str):
            return
        at = self._at = parse_time(value.get("timestamp")) or self._at
        if kind == THREAD_METADATA_TYPE:
            self._take_patch(payload)
        elif kind == "session_meta" and isinstance(payload, dict) and payload.get("id") == state.thread_id:
            state.meta_offset, state.meta_bytes = record.offset, record.size
            self._take_meta(payload, at)
        elif self._observed is not None:
            self._observed.observe(kind, payload, at)
            state.note_item(kind, payload, record.offset, number)
            if is_old and (event := event_of_message(payload)):
                self._observed.observe("event_msg", event, at)
                state.note_item("event_msg", event, record.offset, number)

    def finish(self) -> None:
        """Apply what the lines have said."""
        if self._observed is not None:
            self._state.thread = self._observed.finish()

    def _take_meta(self, meta: dict[str, Any], at: datetime) -> None:
        """Take the thread's own ``session_meta``; a fork's file also holds those of others."""
        if self._observed is None:
            thread = thread_from_meta(self._state.thread_id, meta, at)
            self._observed = ObservedThread(thread, self._state.settled)
        else:
            self._observed.observe("session_meta", meta, at)

    def _take_patch(self, payload: Any) -> None:
        if self._observed is None:
            return
        if isinstance(payload, dict) and ARCHIVED_AT in payload:
            self._observed.archive(parse_time(payload[ARCHIVED_AT]))
            return
        with suppress(InvalidRequest):  # not a patch of ours; whoever wrote it, it says nothing
            self._observed.patch(ThreadMetadataPatch.model_validate(payload))


def _count(state: ThreadState, writer: str, n: int) -> None:
    mark = state.writers.get(writer)
    if mark is None or n > mark.n:
        state.writers[writer] = WriterMark(n, 1)
    elif n == mark.n:
        state.writers[writer] = WriterMark(n, mark.lines + 1)


def complete_from_home(home: Home, state: ThreadState, names: Mapping[str, str | None]) -> None:
    """Add what a home says of a thread outside its rollout: its name, and by its folder that it is archived."""
    if state.thread is None:
        return
    path = home.root / state.path
    update = {"rollout_path": path, "name": names.get(state.thread_id, state.thread.name)}
    state.thread = archived_by_folder(home, state.thread.model_copy(update=update), path)


def archived_by_folder(home: Home, thread: StoredThread, path: Path) -> StoredThread:
    """Return *thread* as archived or not, as the folder of its rollout says; somebody else may have moved it."""
    is_archived = home.is_archived(path)
    if is_archived == (thread.archived_at is not None):
        return thread
    # To the millisecond, as the index and the lines say times.
    archived_at = datetime.fromtimestamp(int(path.stat().st_mtime * 1000) / 1000, UTC) if is_archived else None
    return thread.model_copy(update={"archived_at": archived_at})
