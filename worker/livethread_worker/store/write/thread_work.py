"""One thread's part of a batch: which lines its tasks come to, and what becomes of its state.

Nothing is written here. A task that is applied already, in whole or in part, is recognised by its writer's
counter; a task that can never be applied stops its thread, and what stands before it is applied.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from livethread.errors import InvalidRequest, ThreadNotFound, ThreadStoreError
from livethread.metadata import PAGINATED, StoredThread, ThreadMetadataPatch
from livethread.model import format_time, parse_time
from livethread.observed import ObservedThread
from livethread.ordered_tasks import (
    AppendItems,
    ArchiveThread,
    CreateThread,
    DeleteThread,
    MailboxEntry,
    OrderedTask,
    UnarchiveThread,
    UpdateThreadMetadata,
)
from livethread.rollout.item import KEY_FIELD, THREAD_METADATA_TYPE, decode_line, encode_json
from livethread.rollout.session_meta import thread_from_meta, with_present_values
from livethread.types import START, Position, position_key
from livethread_worker.store.thread_state import ARCHIVED_AT, ThreadState, WriterMark

logger = logging.getLogger(__name__)

#: Fields of an explicit patch that go where codex looks for them; all others go into a line of our own. A name
#: goes there and into the name index, so that every explicit patch leaves a line that carries its counter.
_IN_SESSION_META: Final = frozenset({"git_info", "memory_mode"})


class _Line(NamedTuple):
    """A line to write, not yet numbered."""

    body: bytes
    #: The item it holds; None for a line of the store's own.
    item: dict[str, Any] | None = None
    #: Whether it is the thread's own ``session_meta``.
    is_meta: bool = False
    #: The idempotency key of its append, where that has one.
    key: str | None = None


@dataclass(slots=True)
class ThreadWork:
    """What a batch does to one thread."""

    state: ThreadState
    #: The thread as the index has it; None where it has none.
    loaded: StoredThread | None
    #: Length of the rollout, with the lines planned so far.
    size: int
    #: Reads the payload of the last own ``session_meta`` line from the rollout.
    read_meta: Callable[[], dict[str, Any]]
    #: Numbered lines to write, each with its end.
    lines: list[bytes] = field(default_factory=list)
    #: The name that the name index is to have, with the time of the change.
    renamed: tuple[str | None, datetime] | None = None
    #: Position up to which the batch applies the thread's tasks.
    position: Position | None = None
    #: Why the task after *position* can never be applied.
    poison: ThreadStoreError | None = None
    #: Whether everything of the thread is to be removed.
    is_deleted: bool = False
    #: Position up to which the index has applied the thread's tasks, each as a whole, and the counters that it has.
    #: Beyond it, a counter was read from a line: its task may be half written, and one before it may have left none.
    committed_up_to: Position = START
    committed: dict[str, int] = field(default_factory=dict)
    #: Payload of the last own ``session_meta``, where this batch writes it.
    _meta: dict[str, Any] | None = None
    #: The thread at this place in the batch; the state's is as before until all of it is planned.
    _observed: ObservedThread | None = None

    def take(self, entries: Sequence[MailboxEntry]) -> None:
        """Plan *entries*, in order, up to the first that can never be applied."""
        for entry in entries:
            try:
                if not self._is_committed(entry):
                    self._take_entry(entry)
            except ThreadStoreError as error:
                self.poison = error
                break
            self.position = entry.position
        if self._observed is not None:
            self.state.thread = self._observed.finish()
        self.state.applied = max(self.state.applied, self.position or START, key=position_key)

    def take_deletion(self, entries: Sequence[MailboxEntry]) -> None:
        """Plan the deletion among *entries* of a thread whose rollout is gone, or need not be read.

        What stands before it goes with the thread: a crash may have come when both the rollout and its row were gone.
        """
        self.is_deleted = True
        self.position = entries[-1].position

    def _is_committed(self, entry: MailboxEntry) -> bool:
        is_known = entry.n <= self.committed.get(entry.writer, 0)
        return is_known and position_key(entry.position) <= position_key(self.committed_up_to)

    def _take_entry(self, entry: MailboxEntry) -> None:
        """Plan *entry*."""
        mark = self.state.mark(entry.writer)
        if entry.n < mark.n:
            return
        # Of a task that a crash left half written, the lines that stand are not written again.
        done = mark.lines if entry.n == mark.n else 0
        match entry.task.header:
            case AppendItems() as header:
                lines = self._append(header, entry.task, done)
            case CreateThread() as header:
                lines = self._create(header)
            case UpdateThreadMetadata() as header:
                if entry.n == mark.n and done >= _line_count(header, self._observe().finish()):
                    return
                lines = self._update(header)
            case ArchiveThread() as header:
                lines = self._set_archived_at(header.at, header.at)
            case UnarchiveThread() as header:
                lines = self._set_archived_at(None, header.at)
            case DeleteThread():
                self.is_deleted = True
                return
        seq = f"{entry.writer}:{entry.n}"
        for line in lines[done:]:
            self._write(line, seq)
        self.state.writers[entry.writer] = WriterMark(entry.n, max(done, len(lines)))

    def _create(self, header: CreateThread) -> list[_Line]:
        meta = header.session_meta
        if meta.get("id") != self.state.thread_id:
            raise InvalidRequest("the session_meta of a create_thread names another thread")
        if self.state.thread is not None:
            logger.info("thread exists", extra={"action": "create_thread", "thread_id": self.state.thread_id})
            return []
        self.state.thread = thread_from_meta(self.state.thread_id, meta, header.at)
        self._meta = meta
        return [_Line(_encode("session_meta", meta, header.at), is_meta=True)]

    def _append(self, header: AppendItems, task: OrderedTask, done: int) -> list[_Line]:
        """Return the lines of an append, *done* of which stand already; none of one whose key another has taken."""
        key, observed = header.idempotency_key, self._observe()
        if not task.lines:
            raise InvalidRequest("an append_items has no lines")
        if key is not None and key in self.state.keys and not done:
            return []
        items = list(map(_require_item, task.lines))
        if key is not None:
            self.state.keys.add(key)
        if header.observe:
            for item, at in items[done:]:  # the others were observed where they were read
                observed.observe(item["type"], item["payload"], at)
        return [
            _Line(line, item, is_meta=observed.is_own_meta(item["type"], item["payload"]), key=key)
            for line, (item, _) in zip(task.lines, items, strict=True)
        ]

    def _update(self, header: UpdateThreadMetadata) -> list[_Line]:
        """Return the lines of a patch: in codex's form, and whole in our own."""
        observed = self._observe()
        lines = self._lines_of_patch(header, observed.finish().patched(header.patch))
        # Only now: what cannot be encoded changes nothing.
        observed.patch(header.patch)
        if lines and "name" in header.patch.model_fields_set:
            self.renamed = header.patch.name, header.at
        return lines

    def _lines_of_patch(self, header: UpdateThreadMetadata, patched: StoredThread) -> list[_Line]:
        lines = []
        in_meta = _in_session_meta(patched)
        if header.patch.model_fields_set & in_meta:
            says_git = "git_info" in header.patch.model_fields_set
            self._meta = with_present_values(self._meta or self.read_meta(), patched, says_git=says_git)
            lines.append(_Line(_encode("session_meta", self._meta, header.at), is_meta=True))
        if rest := _in_own_line(header.patch, in_meta):
            lines.append(_Line(_encode(THREAD_METADATA_TYPE, rest, header.at)))
        return lines

    def _set_archived_at(self, archived_at: datetime | None, at: datetime) -> list[_Line]:
        """Return the line that says so, also where it says nothing new: a task of which none stands was not applied."""
        observed = self._observe()
        known = observed.finish().archived_at
        if known is None or archived_at is None:
            observed.archive(archived_at)
        else:
            archived_at = known
        payload = {ARCHIVED_AT: archived_at and format_time(archived_at)}
        return [_Line(_encode(THREAD_METADATA_TYPE, payload, at))]

    def _observe(self) -> ObservedThread:
        """Return the thread as it is at this place in the batch, to go on with.

        Raises:
            ThreadNotFound: there is none.
        """
        if self._observed is None:
            if self.state.thread is None:
                raise ThreadNotFound(self.state.thread_id, "its rollout is gone, or was never created")
            self._observed = ObservedThread(self.state.thread, self.state.settled)
        return self._observed

    def _write(self, line: _Line, seq: str) -> None:
        state, offset = self.state, self.size
        numbered = number_line(line.body, state.next_ordinal, seq, line.key)
        if line.is_meta:
            state.meta_offset, state.meta_bytes = offset, len(numbered)
            if line.item is not None:
                self._meta = line.item["payload"]
        if line.item is not None:
            state.note_item(line.item["type"], line.item["payload"], offset, state.next_ordinal)
        self.lines.append(numbered)
        state.next_ordinal += 1
        self.size = offset + len(numbered)


def number_line(line: bytes, ordinal: int, seq: str, key: str | None = None) -> bytes:
    """Return *line* with what the store adds behind its timestamp, and its end.

    ``ordinal`` is the record's number in its file, as in codex's paginated rollouts; ``seq`` names the task, and *key*
    is the idempotency key of its append. codex ignores all: it skips keys it does not know, and an integer ordinal in a
    legacy file.
    """
    named = b"" if key is None else b'"%b":%b,' % (KEY_FIELD.encode(), encode_json(key))
    if timestamp := _TIMESTAMP_FIRST.match(line):
        end = timestamp.end()
        return b'%b"ordinal":%d,"seq":"%b",%b%b\n' % (line[:end], ordinal, seq.encode(), named, line[end:])
    # Written by a client that puts its keys in another order.
    return b'{"ordinal":%d,"seq":"%b",%b%b\n' % (ordinal, seq.encode(), named, line.strip()[1:])


#: How a line of our own clients begins.
_TIMESTAMP_FIRST: Final = re.compile(rb'\{"timestamp":"[^"\\]*",')


#: Fields that only the store adds to a line.
_THE_STORES: Final = frozenset({"seq", "ordinal", KEY_FIELD})


def _require_item(line: bytes) -> tuple[dict[str, Any], datetime]:
    """Return the item that an append's *line* holds, and its time."""
    value = decode_line(line)
    if value is None or not isinstance(value.get("type"), str) or "payload" not in value:
        raise InvalidRequest("a line of an append_items is no item")
    if not _THE_STORES.isdisjoint(value) or value["type"] == THREAD_METADATA_TYPE:
        raise InvalidRequest("a line of an append_items says what is the store's to say")
    at = parse_time(value.get("timestamp"))
    if at is None:  # who reads the rollout would have to guess, and may do so otherwise
        raise InvalidRequest("a line of an append_items has no timestamp")
    return value, at


def _line_count(header: UpdateThreadMetadata, thread: StoredThread) -> int:
    """Return how many lines `ThreadWork` makes of a patch."""
    in_meta = _in_session_meta(thread)
    return bool(header.patch.model_fields_set & in_meta) + bool(_in_own_line(header.patch, in_meta))


def _in_session_meta(thread: StoredThread) -> frozenset[str]:
    """Return the fields of a patch that go into a copy of the thread's ``session_meta``.

    None of a paginated thread's: codex reads its rollout from the end, and stops at a ``session_meta``, so that the
    model would forget all that stands before the copy. Nor does it look for such copies there.
    """
    return frozenset() if thread.history_mode == PAGINATED else _IN_SESSION_META


def _in_own_line(patch: ThreadMetadataPatch, in_meta: frozenset[str]) -> dict[str, Any]:
    """Return what of *patch* goes into a line of our own, as JSON values."""
    return {name: value for name, value in patch.to_wire().items() if name not in in_meta}


def _encode(kind: str, payload: dict[str, Any], at: datetime) -> bytes:
    return encode_json({"timestamp": format_time(at), "type": kind, "payload": payload})
