"""Reads a rollout into its thread's state, if the index lacks the thread or its last lines."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from livethread.errors import InvalidRequest
from livethread.metadata import MetadataUpdate, StoredThread, ThreadMetadataPatch
from livethread.metadata_state import MetadataState, is_activity
from livethread.metadata_sync import ThreadMetadataSync, thread_of_meta
from livethread.model import parse_time
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread.rollout.lines import decode_line
from livethread.rollout.old_forms import event_of_message, modern_record
from livethread_config import names
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.scan import (
    Record,
    idempotency_key_of,
    ordinal_of,
    scan_lines,
    scan_records,
    writer_mark,
)
from livethread_worker.store.thread_state import ARCHIVED_AT, ThreadState, WriterMark


def read_on(state: ThreadState, file: BinaryIO) -> Record | None:
    """Add the lines of *file* after the state's committed length to *state*; return a torn last line, if any.

    Our own lines count as applied, line by line; other programs' lines are adopted. Metadata is derived from both.
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
    """Adds the lines of a rollout to a state, in order."""

    def __init__(self, state: ThreadState, changed_at: datetime) -> None:
        self._state = state
        self._sync = ThreadMetadataSync(state.thread_id)
        #: None until the thread's first line is read.
        self._metadata: MetadataState | None = None
        if state.thread is not None:
            self._sync = ThreadMetadataSync.for_stored(state.thread)
            self._metadata = MetadataState(state.thread, state.explicit_fields)
        #: Time of a line without one: the previous line's, or the file's.
        self._at = state.thread.updated_at if state.thread else changed_at

    def take(self, record: Record, value: dict[str, Any]) -> None:
        """Add one line."""
        state = self._state
        number = max(state.next_ordinal, ordinal_of(value) or 0)
        state.next_ordinal = number + 1
        if mark := writer_mark(value):
            _count(state, *mark)
            if (key := idempotency_key_of(value)) is not None:
                state.idempotency_keys.add(key)
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
        elif self._metadata is not None:
            if is_activity(kind):
                self._metadata.touch(at)
            self._take_item(kind, payload, record.offset, number)
            if is_old and (event := event_of_message(payload)):
                self._take_item("event_msg", event, record.offset, number)

    def finish(self) -> None:
        """Apply the facts of the last lines, and put the thread into the state."""
        if self._metadata is not None:
            self._apply_facts(self._metadata)
            self._state.thread = self._metadata.thread

    def _take_item(self, kind: str, payload: Any, offset: int, ordinal: int) -> None:
        self._sync.add(kind, payload, self._at)
        self._state.note_item(kind, payload, offset, ordinal)

    def _take_meta(self, meta: dict[str, Any], at: datetime) -> None:
        """Add a ``session_meta`` of the thread itself, not of a fork's parent."""
        if self._metadata is None:
            thread = thread_of_meta(self._state.thread_id, meta, at)
            self._sync = ThreadMetadataSync.for_stored(thread)
            self._metadata = MetadataState(thread, self._state.explicit_fields)
        else:
            self._sync.add("session_meta", meta, at)

    def _take_patch(self, payload: Any) -> None:
        if self._metadata is None:
            return
        self._apply_facts(self._metadata)
        if isinstance(payload, dict) and ARCHIVED_AT in payload:
            self._metadata.archive(parse_time(payload[ARCHIVED_AT]))
            return
        with suppress(InvalidRequest):  # not a patch of ours
            patch = ThreadMetadataPatch.model_validate(payload)
            self._metadata.update(MetadataUpdate(patch=patch), is_explicit=True)

    def _apply_facts(self, metadata: MetadataState) -> None:
        if (update := self._sync.take()) is not None:
            metadata.update(update, is_explicit=False)
            self._sync.confirm(update)


def _count(state: ThreadState, writer: str, n: int) -> None:
    mark = state.writers.get(writer)
    if mark is None or n > mark.n:
        state.writers[writer] = WriterMark(n, 1)
    elif n == mark.n:
        state.writers[writer] = WriterMark(n, mark.lines + 1)


def recover_counters(state: ThreadState, file: BinaryIO, writers: AbstractSet[str]) -> None:
    """Read from the committed lines how far those of *writers* are that the index may have forgotten."""
    forgotten = {writer for writer in writers - state.writers.keys() if names.opened_at(writer) <= state.forgotten_to}
    if not forgotten:
        return
    theirs = re.compile(b'"seq":"(?:%b):' % b"|".join(re.escape(writer.encode()) for writer in forgotten))
    end = 0
    file.seek(0)
    for line in scan_lines(file):
        end += len(line) + 1
        if end > state.rollout_bytes:
            break
        mark = writer_mark(decode_line(line) or {}) if theirs.search(line) else None
        if mark is not None and mark[0] in forgotten:
            _count(state, *mark)


def complete_from_home(home: Home, state: ThreadState, names: Mapping[str, str | None]) -> None:
    """Add what a home holds outside the rollout: the thread's name and, by the folder, whether it is archived."""
    if state.thread is None:
        return
    path = home.root / state.path
    update = {"rollout_path": path, "name": names.get(state.thread_id, state.thread.name)}
    state.thread = archived_by_folder(home, state.thread.model_copy(update=update), path)


def archived_by_folder(home: Home, thread: StoredThread, path: Path) -> StoredThread:
    """Return *thread*, archived if its rollout's folder says so: another program may have moved the file."""
    is_archived = home.is_archived(path)
    if is_archived == (thread.archived_at is not None):
        return thread
    # In whole milliseconds, as in the index and the lines.
    archived_at = datetime.fromtimestamp(int(path.stat().st_mtime * 1000) / 1000, UTC) if is_archived else None
    return thread.model_copy(update={"archived_at": archived_at})
