"""What must be known of a thread to write on: read from the index, or from the rollout itself."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from livethread.errors import InvalidRequest
from livethread.item_observer import ItemObserver, patch_of
from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.model import parse_time
from livethread.observed import FIRST_OBSERVED
from livethread.old_rollout import event_of_message, modern_record
from livethread.rollout_item import THREAD_METADATA_TYPE
from livethread.search_text import SearchText, search_text
from livethread.session_meta import thread_from_meta
from livethread.turns import TurnEnd, TurnPlace, TurnsTakenBack, TurnStart, next_place
from livethread.types import START, Position
from livethread_worker.store.rollout.scan import key_of, ordinal_of, scan_records, writer_mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from livethread_worker.store.home import Home
    from livethread_worker.store.rollout.scan import Record

#: Key of a ``thread_metadata`` line that says when the thread was archived; null: it is active again.
ARCHIVED_AT: Final = "archived_at"


class WriterMark(NamedTuple):
    """How far one writer's tasks are applied."""

    #: Counter of its last task that left a trace.
    n: int
    #: Lines of that task that stand in the rollout: a crash can leave a task half written.
    lines: int


_UNKNOWN_WRITER: Final = WriterMark(0, 0)


class KeyMark(NamedTuple):
    """The append that took an idempotency key."""

    #: None where the whole rollout was read, and the metadata with it: its lines do not tell. `START` where they stood
    #: beyond the committed length, until its task comes again.
    position: Position | None
    #: Where the first of its lines stands.
    offset: int


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


class Said(NamedTuple):
    """Where a line stands that says a field of the metadata."""

    #: Writer and counter of the last task of ours at or before the line; None: no line that was read tells.
    task: tuple[str, int] | None
    #: Whether the line is that task's; else it is somebody else's behind it.
    is_ours: bool


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
    keys: dict[str, KeyMark] = field(default_factory=dict)
    #: Field of the metadata -> position from which it was last observed or set.
    observed: dict[str, Position] = field(default_factory=dict)
    #: Where the last line leaves the turns.
    turn: TurnPlace = field(default_factory=TurnPlace)
    #: What the lines taken in since the state was loaded add to the index, in order.
    turns: list[TurnLine | TurnEndLine | TurnsTakenBack] = field(default_factory=list)
    texts: list[TextLine] = field(default_factory=list)
    #: Fields of the metadata that those lines say, each with the line that decides it; and those that they set
    #: because somebody asked for it.
    said: dict[str, Said] = field(default_factory=dict)
    asked_for: set[str] = field(default_factory=set)
    #: Whether the whole rollout was read anew: what the index has of its lines is to be replaced.
    is_reread: bool = False
    _counters: dict[str, WriterMark] = field(default_factory=dict)
    _known_keys: frozenset[str] = frozenset()

    def mark(self, writer: str) -> WriterMark:
        """Return how far *writer*'s tasks are applied."""
        return self.writers.get(writer, _UNKNOWN_WRITER)

    def begin_again(self) -> None:
        """Forget what is known of the lines, all of which are to be read again; what was applied stays applied."""
        self._counters, self.writers = self.writers, {}
        self._known_keys, self.keys = frozenset(self.keys), {}
        self.thread, self.turn = None, TurnPlace()
        self.rollout_bytes = self.next_ordinal = 0
        self.observed = {}

    def keep_counters(self) -> None:
        """Keep counters and keys from before `begin_again`, where the lines that are left know less."""
        self.keys = dict.fromkeys(self._known_keys, KeyMark(None, 0)) | self.keys
        for writer, mark in self._counters.items():
            if mark.n >= self.mark(writer).n:
                self.writers[writer] = mark

    def line_counts(self) -> tuple[int, int]:
        """Return how many messages and how many turns the lines taken in hold."""
        turns = {change.offset for change in self.turns if isinstance(change, TurnLine)}
        return len({line.text.digest for line in self.texts}), len(turns)

    def settle_first_observed(self) -> None:
        """Note that the whole rollout was read: whoever observed it, its first item has said what the first says."""
        known = {name for name in FIRST_OBSERVED if getattr(self.thread, name, None)}
        self.observed |= dict.fromkeys(known | (self.asked_for & FIRST_OBSERVED), START)

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
        self._observer = ItemObserver.of(state.thread) if state.thread else ItemObserver(state.thread_id)
        self._observer.settle(name for name, known in state.observed.items() if known == START)
        #: The last task of ours at or before the line, and whether the line is its.
        self._task: tuple[str, int] | None = None
        self._is_ours = False
        #: What is known of the position of a line.
        self._position = None if state.rollout_bytes == 0 else START
        #: The time of a line that tells none: that of the line before, or of the file.
        self._at = state.thread.updated_at if state.thread else changed_at
        #: What the lines since the last patch say; applied at once, since most say the same fields again.
        self._changes: dict[str, Any] = {}

    def take(self, record: Record, value: dict[str, Any]) -> None:
        """Take in one line."""
        state = self._state
        number = max(state.next_ordinal, ordinal_of(value) or 0)
        state.next_ordinal = number + 1
        mark = writer_mark(value)
        self._is_ours = mark is not None
        if mark:
            _count(state, *mark)
            self._task = mark
            if (key := key_of(value)) is not None:
                state.keys.setdefault(key, KeyMark(self._position, record.offset))
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
        elif state.thread is not None:
            if at > self._changes.setdefault("updated_at", state.thread.updated_at):
                self._changes["updated_at"] = at
            self._observe(kind, payload, at)
            state.note_item(kind, payload, record.offset, number)
            if is_old and (event := event_of_message(payload)):
                self._observe("event_msg", event, at)
                state.note_item("event_msg", event, record.offset, number)

    def finish(self) -> None:
        """Apply what the lines have said so far."""
        changes, self._changes = self._changes, {}
        if self._state.thread is not None and changes:
            self._state.thread = self._state.thread.patched(patch_of(changes))

    def _take_meta(self, meta: dict[str, Any], at: datetime) -> None:
        """Take the thread's own ``session_meta``; a fork's file also holds those of others."""
        if self._state.thread is None:
            self._state.thread = thread_from_meta(self._state.thread_id, meta, at)
            self._observer.cwd_seen = bool(self._state.thread.cwd)
        else:
            self._observe("session_meta", meta, at)

    def _observe(self, kind: str, payload: Any, at: datetime) -> None:
        if said := self._observer.add(self._changes, kind, payload, at):
            self._note_said(said)

    def _note_said(self, names: Iterable[str]) -> None:
        self._state.said |= dict.fromkeys(names, Said(self._task, is_ours=self._is_ours))

    def _take_patch(self, payload: Any) -> None:
        self.finish()
        if self._state.thread is None:
            return
        if isinstance(payload, dict) and ARCHIVED_AT in payload:
            archived_at = parse_time(payload[ARCHIVED_AT])
            self._state.thread = self._state.thread.model_copy(update={"archived_at": archived_at})
            return
        with suppress(InvalidRequest):  # not a patch of ours; whoever wrote it, it says nothing
            patch = ThreadMetadataPatch.model_validate(payload)
            self._state.thread = self._state.thread.patched(patch)
            self._note_said(patch.changes())
            self._state.asked_for |= patch.changes().keys()
            # What somebody asked for counts over what a later line would be the first to say.
            self._observer.settle(patch.changes())


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
