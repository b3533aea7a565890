"""Reads rollouts into their thread's state, if the index lacks the thread or its last lines."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from livethread.errors import InvalidRequest
from livethread.metadata import MetadataUpdate, StoredThread, ThreadMetadataPatch
from livethread.metadata_state import MetadataState, is_activity
from livethread.metadata_sync import ThreadMetadataSync, thread_of_meta
from livethread.model import parse_time
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread.rollout.lines import item_of
from livethread.rollout.old_forms import event_of_message, modern_record
from livethread_worker.store.files import lineage, originals, rewritten
from livethread_worker.store.files.compression import open_rollout
from livethread_worker.store.files.home import Home, time_in_name
from livethread_worker.store.files.scan import (
    Record,
    idempotency_key_of,
    ordinal_of,
    scan_records,
    writer_mark,
)
from livethread_worker.store.thread_state import ARCHIVED_AT, BROKEN, ThreadState, WriterMark

logger = logging.getLogger(__name__)


def read_all(home: Home, state: ThreadState, file: BinaryIO) -> Record | None:
    """Add all lines of the thread whose live rollout is open as *file*; return a torn last line, if any.

    Its metadata follows from all its rollouts, as in codex: a revert takes back turns, and nothing else. Its turns and
    messages follow from its history.

    Raises:
        InvalidRequest: a rollout that it continues is missing.
    """
    path = home.root / state.path
    earlier = _earlier(home, state.thread_id, path)
    family = lineage.resolve(home, path, file)
    if not earlier and not family.inherited:
        return read_on(state, file, before=_before_rewrite(home, state.thread_id, path, file))
    reader = _Reader(state, _changed_at(file))
    offset = family.first.size
    state.inherited_bytes = family.inherited_bytes
    if family.first.base is not None:
        state.base_id = family.first.base.rollout_id
    own = {home.rollout_id_of(each): each for each in earlier}
    with open_rollout(earlier[0]) if earlier else nullcontext(file) as first:
        reader.take_first(first)
    for each in family.inherited:
        if each.rollout_id not in own:
            with open_rollout(each.path) as other:
                reader.take_inherited(other, each, offset)
            offset += each.end - each.begin
    parts = {each.rollout_id: each for each in family.inherited}
    for rollout_id, each_path in own.items():
        part = parts.get(rollout_id or "")
        with open_rollout(each_path) as other:
            before = _before_rewrite(home, state.thread_id, each_path, other)
            reader.take_earlier(other, part, offset, before)
        offset += part.end - part.begin if part else 0
    reader.finish()
    state.next_ordinal = family.first.base.end_ordinal if family.first.base else 0
    return read_on(state, file)


def read_what_is_left(home: Home, state: ThreadState, file: BinaryIO) -> Record | None:
    """Do the same as `read_all`; but if a rollout is missing, note that and add only the lines of the live one."""
    try:
        return read_all(home, state, file)
    except InvalidRequest as error:
        logger.warning(
            "thread %s is read in part: %s",
            state.thread_id,
            error,
            extra={"action": "read", "thread_id": state.thread_id},
        )
    state.begin_again()
    base = lineage.read_first(file).base
    state.base_id, state.inherited_bytes = base.rollout_id if base else None, BROKEN
    return read_on(state, file)


def read_on(state: ThreadState, file: BinaryIO, *, before: rewritten.Before | None = None) -> Record | None:
    """Add the lines of *file* after the state's committed length to *state*; return a torn last line, if any.

    Our own lines count as applied, line by line; other programs' lines are adopted. Metadata is derived from both. If codex
    rewrote the rollout, *before* has metadata and counters that replace what the copied lines say.

    If the thread's ``session_meta`` is not the first line, it counts from the beginning. A thread without one begins with
    its first item, unless the file has ``session_meta`` lines of other threads: it may then be theirs.
    """
    reader = _Reader(state, _changed_at(file))
    torn = None
    for record in scan_records(file, state.rollout_bytes):
        if not record.is_complete and record.value is None:
            torn = record
            break
        if before is not None and record.offset >= before.end:
            reader.carry_over(before.state)
            before = None
        state.rollout_bytes = record.offset + record.size
        if record.value is not None:
            if state.thread is None and reader.needs_meta(record.value):
                reader.begin(find_meta(state.thread_id, file), record.value)
            reader.take(record, record.value, state.offset_in_history(record.offset))
    if before is not None:
        reader.carry_over(before.state)
    reader.finish()
    return torn


def _before_rewrite(home: Home, thread_id: str, path: Path, file: BinaryIO) -> rewritten.Before | None:
    """Return what the rollout *path* held before codex rewrote it; None if codex did not, or if the original is gone.

    Raises:
        Internal: the original is damaged.
    """
    original = originals.find(home, path)
    if original is None or not rewritten.is_paginated(file):
        return None
    state = ThreadState(thread_id)
    with open_rollout(original) as lines:
        read_on(state, lines)
        return rewritten.Before(state, rewritten.end_of_copy(file, lines))


def find_meta(thread_id: str, file: BinaryIO) -> Record | None:
    """Return the record of the thread's first ``session_meta``, or an empty one if *file* has no ``session_meta``.

    None if it has only other threads'. The position in *file* stays.
    """
    position, has_others = file.tell(), False
    try:
        for record in scan_records(file):
            meta = _meta_in(_modern(record.value or {}))
            if meta is not None and meta.get("id") == thread_id:
                return record
            has_others = has_others or meta is not None
    finally:
        file.seek(position)
    return None if has_others else Record(0, 0, {})


def _meta_in(value: dict[str, Any]) -> dict[str, Any] | None:
    payload = value.get("payload")
    return payload if value.get("type") == "session_meta" and isinstance(payload, dict) else None


def _modern(value: dict[str, Any]) -> dict[str, Any]:
    return value if "payload" in value else modern_record(value) or {}


def _changed_at(file: BinaryIO) -> datetime:
    return datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)


def _earlier(home: Home, thread_id: str, live: Path) -> list[Path]:
    """Return the thread's rollouts before the *live* one, one file each."""
    if not home.generation(live):
        return []
    by_age = {home.generation(path): path for path in home.rollouts_of(thread_id)}  # of two forms, the plain one
    return [path for generation, path in by_age.items() if generation < home.generation(live)]


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
        self._has_begun = False

    def needs_meta(self, value: dict[str, Any]) -> bool:
        """Whether *value* is the first item, and no ``session_meta`` of the thread came before it."""
        if self._metadata is not None or self._has_begun:
            return False
        value = _modern(value)
        return isinstance(value.get("type"), str) and (_meta_in(value) or {}).get("id") != self._state.thread_id

    def begin(self, found: Record | None, first: dict[str, Any]) -> None:
        """Begin with the ``session_meta`` that `find_meta` has *found*, before the item in the line *first*."""
        self._has_begun = True
        if found is not None and found.value is not None:
            value = _modern(found.value)
            named = time_in_name(self._state.path)
            at = parse_time(value.get("timestamp")) or parse_time(first.get("timestamp")) or named or self._at
            self._take_meta(_meta_in(value) or {}, at)

    def take_first(self, file: BinaryIO) -> None:
        """Begin with the thread's first ``session_meta``: the lines that a fork inherits do not include it."""
        record = next(scan_records(file), None)
        if record is not None and record.value is not None:
            self.take(record, record.value, None)

    def take_inherited(self, file: BinaryIO, part: lineage.Inherited, offset: int) -> None:
        """Add the lines that a fork inherits; *offset* is where they begin in its history."""
        self._state.next_ordinal = 0
        for record in scan_records(file, part.begin):
            if record.offset >= part.end:
                return
            item = item_of(record.value)
            if item is None:
                continue
            self._at = parse_time(item.timestamp) or self._at
            self._state.next_ordinal = ordinal = max(self._state.next_ordinal, item.ordinal or 0)
            self._take_item(item.type, item.payload, record.offset - part.begin + offset, ordinal)

    def take_earlier(
        self, file: BinaryIO, part: lineage.Inherited | None, offset: int, before: rewritten.Before | None
    ) -> None:
        """Add an earlier rollout of the thread; its *part* in the history, if any, begins at *offset*. See `read_on`."""
        state = self._state
        state.next_ordinal = 0
        begin, end = (part.begin, part.end) if part else (0, 0)
        for record in scan_records(file):
            if before is not None and record.offset >= before.end:
                self.carry_over(before.state)
                before = None
            if record.value is not None:
                is_kept = begin <= record.offset < end
                self.take(record, record.value, record.offset - begin + offset if is_kept else None)
        if before is not None:
            self.carry_over(before.state)

    def take(self, record: Record, value: dict[str, Any], offset: int | None) -> None:
        """Add one line of the thread's own; *offset* is its place in the history, None if it was taken back."""
        state = self._state
        number = max(state.next_ordinal, ordinal_of(value) or 0)
        state.next_ordinal = number + 1
        self._take_mark(value)
        is_old = "payload" not in value
        if is_old:
            value = _modern(value)
        kind, payload = value.get("type"), value.get("payload")
        if not isinstance(kind, str):
            return
        at = self._at = parse_time(value.get("timestamp")) or self._at
        if kind == THREAD_METADATA_TYPE:
            self._take_patch(payload)
        elif kind == "session_meta" and isinstance(payload, dict) and payload.get("id") == state.thread_id:
            state.meta_offset, state.meta_bytes = record.offset, record.size
            # The first line of a rollout restates what the thread was created with.
            if self._metadata is None or record.offset:
                self._take_meta(payload, at)
        elif self._metadata is not None:
            if is_activity(kind):
                self._metadata.touch(at)
            self._take_item(kind, payload, offset, number)
            if is_old and (event := event_of_message(payload)):
                self._take_item("event_msg", event, offset, number)

    def _take_mark(self, value: dict[str, Any]) -> None:
        """Count a line of ours as applied, and its idempotency key as taken."""
        if mark := writer_mark(value):
            _count(self._state, *mark)
            if (key := idempotency_key_of(value)) is not None:
                self._state.idempotency_keys.add(key)

    def finish(self) -> None:
        """Apply the facts of the last lines, and put the thread into the state."""
        if self._metadata is not None:
            self._apply_facts(self._metadata)
            self._state.thread = self._metadata.thread

    def _take_item(self, kind: str, payload: Any, offset: int | None, ordinal: int) -> None:
        self._sync.add(kind, payload, self._at)
        if offset is not None:
            self._state.note_item(kind, payload, offset, ordinal)

    def _take_meta(self, meta: dict[str, Any], at: datetime) -> None:
        """Add a ``session_meta`` of the thread itself, not of a fork's parent."""
        if self._metadata is None:
            thread = thread_of_meta(self._state.thread_id, meta, at)
            self._sync = ThreadMetadataSync.for_stored(thread)
            self._metadata = MetadataState(thread, self._state.explicit_fields)
        else:
            self._sync.add("session_meta", meta, at)

    def carry_over(self, earlier: ThreadState) -> None:
        """Take metadata, counters and idempotency keys from *earlier*, whatever the lines before this one said."""
        state, thread = self._state, earlier.thread
        if thread is None or self._metadata is None:
            return
        self._sync = ThreadMetadataSync.for_stored(thread)
        state.explicit_fields.clear()
        state.explicit_fields |= earlier.explicit_fields
        thread = thread.model_copy(update={"history_mode": self._metadata.thread.history_mode})
        self._metadata = MetadataState(thread, state.explicit_fields)
        state.idempotency_keys |= earlier.idempotency_keys
        for writer, mark in earlier.writers.items():
            if mark.n >= state.mark(writer).n:
                state.writers[writer] = mark

    def _take_patch(self, payload: Any) -> None:
        if self._metadata is None:
            return
        self._apply_facts(self._metadata)
        if (earlier := rewritten.carried_over(self._state.thread_id, payload)) is not None:
            self.carry_over(earlier)
            self._state.is_carried_over = True
            return
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
