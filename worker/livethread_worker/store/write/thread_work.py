"""One thread's part of a batch: the lines that its tasks add, and its new state.

Nothing is written here: `Batch` does, once all of the thread's tasks are planned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from livethread.errors import ThreadNotFound, ThreadStoreError
from livethread.metadata import StoredThread
from livethread.metadata_state import MetadataState
from livethread.model import format_time
from livethread.ordered_tasks import MailboxEntry
from livethread.position import START, Position, position_key
from livethread.rollout.lines import KEY_FIELD, encode_json
from livethread_worker.store.thread_state import ThreadState


class Line(NamedTuple):
    """A line to write, not yet numbered."""

    body: bytes
    #: The item that the line holds; None for a line of the store's own.
    item: dict[str, Any] | None = None
    #: Whether it is the thread's own ``session_meta``.
    is_meta: bool = False
    #: The idempotency key of its append.
    idempotency_key: str | None = None


@dataclass(slots=True)
class ThreadWork:
    """What a batch does to one thread."""

    state: ThreadState
    #: The thread as the index has it; None if the index lacks it.
    loaded: StoredThread | None
    #: Length of the rollout, with the lines planned so far.
    size: int
    #: Reads the payload of the last own ``session_meta`` line from the rollout.
    read_meta: Callable[[], dict[str, Any]]
    #: Raises `Conflict` if other threads need this one.
    require_deletable: Callable[[], None] = lambda: None
    #: Numbered lines to write, each with its end.
    lines: list[bytes] = field(default_factory=list)
    #: The name to write to the name index, with the time of the change.
    renamed: tuple[str | None, datetime] | None = None
    #: Position up to which the batch applies the thread's tasks.
    position: Position | None = None
    #: Why the task after *position* can never be applied.
    poison: ThreadStoreError | None = None
    #: Whether everything stored for the thread is to be removed.
    is_deleted: bool = False
    #: Position up to which the index has applied the thread's tasks, each as a whole, and the counters that it has.
    #: Counters beyond it were read from lines: their tasks may be half written, and a task before them may have left none.
    committed_up_to: Position = START
    committed: dict[str, int] = field(default_factory=dict)
    #: Writer and counter of the append that was planned last, if all of its lines are written by this batch.
    appended: tuple[str, int] | None = None
    #: Payload of the last own ``session_meta``, if this batch writes it.
    meta: dict[str, Any] | None = None
    #: The metadata at this place in the batch; the state's thread changes only once the whole batch is planned.
    _metadata: MetadataState | None = None

    def take_deletion(self, entries: Sequence[MailboxEntry]) -> None:
        """Plan the deletion among *entries* without reading the rollout; tasks before it are dropped with it.

        Raises:
            Conflict: other threads need the thread.
        """
        self.require_deletable()
        self.is_deleted = True
        self.position = entries[-1].position

    def metadata(self) -> MetadataState:
        """Return the thread's metadata at this place in the batch, to change.

        Raises:
            ThreadNotFound: there is no thread.
        """
        if self._metadata is None:
            if self.state.thread is None:
                raise ThreadNotFound(self.state.thread_id, "its rollout is gone, or was never created")
            self._metadata = MetadataState(self.state.thread, self.state.explicit_fields)
        return self._metadata

    def current_meta(self) -> dict[str, Any]:
        """Return the payload of the last own ``session_meta``."""
        return self.meta or self.read_meta()

    def is_committed(self, entry: MailboxEntry) -> bool:
        """Whether the index has applied *entry*, as a whole."""
        is_known = entry.n <= self.committed.get(entry.writer, 0)
        return is_known and position_key(entry.position) <= position_key(self.committed_up_to)

    def finish(self) -> None:
        """Take the planned metadata and position over into the state."""
        if self._metadata is not None:
            self.state.thread = self._metadata.thread
        self.state.applied = max(self.state.applied, self.position or START, key=position_key)

    def write(self, line: Line, entry: MailboxEntry | None) -> None:
        """Plan to write *line* of the task *entry*; None if it belongs to no task."""
        state, offset = self.state, self.size
        numbered = number_line(line.body, state.next_ordinal, entry, line.idempotency_key)
        if line.is_meta:
            state.meta_offset, state.meta_bytes = offset, len(numbered)
            if line.item is not None:
                self.meta = line.item["payload"]
        if line.item is not None:
            at = state.offset_in_history(offset)
            state.note_item(line.item["type"], line.item["payload"], at, state.next_ordinal)
        self.lines.append(numbered)
        state.next_ordinal += 1
        self.size = offset + len(numbered)


def number_line(line: bytes, ordinal: int, task: MailboxEntry | None, idempotency_key: str | None = None) -> bytes:
    """Return *line* with the fields that the store adds after its timestamp, and with its end.

    ``ordinal`` is the record's number in its file, as in codex's paginated rollouts; ``seq`` and ``position`` name the
    *task*, if there is one. codex skips fields that it does not know, and ignores an integer ordinal in a legacy file.
    """
    ours = b'"ordinal":%d,' % ordinal
    if task is not None:
        ours += b'"seq":"%b:%d","position":"%b",' % (task.writer.encode(), task.n, task.position.encode())
    if idempotency_key is not None:
        ours += b'"%b":%b,' % (KEY_FIELD.encode(), encode_json(idempotency_key))
    if timestamp := _TIMESTAMP_FIRST.match(line):
        end = timestamp.end()
        return b"%b%b%b\n" % (line[:end], ours, line[end:])
    # Written by a client that puts its keys in a different order.
    return b"{%b%b\n" % (ours, line.strip()[1:])


#: How a line of our own clients begins.
_TIMESTAMP_FIRST: Final = re.compile(rb'\{"timestamp":"[^"\\]*",')


def encode_record(kind: str, payload: dict[str, Any], at: datetime) -> bytes:
    """Return a line of the store's own."""
    return encode_json({"timestamp": format_time(at), "type": kind, "payload": payload})
