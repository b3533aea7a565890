"""What must be known of a thread to write on: read from the index, or from the rollout itself."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from livethread.item_observer import ItemObserver
from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.model import parse_time
from livethread.rollout_item import THREAD_METADATA_TYPE, item_of
from livethread.session_meta import thread_from_meta
from livethread.types import START, Position
from livethread_worker.store.rollout.name_index import read_names
from livethread_worker.store.rollout.scan import scan_records, writer_mark

if TYPE_CHECKING:
    from typing import BinaryIO

    from livethread_worker.store.home import Home
    from livethread_worker.store.rollout.scan import Record


@dataclass(frozen=True, slots=True)
class WriterMark:
    """How far one writer's tasks are applied."""

    #: Counter of its last task that left a trace.
    n: int
    #: Lines of that task that stand in the rollout: a crash can leave a task half written.
    lines: int


@dataclass(slots=True)
class ThreadState:
    """A thread as far as it is applied."""

    thread_id: str
    #: None until its first line is known.
    thread: StoredThread | None = None
    #: Rollout, relative to the home.
    path: str = ""
    #: Committed length of the rollout: what lies beyond was not committed, or is somebody else's.
    rollout_bytes: int = 0
    #: Number of the next record.
    next_ordinal: int = 0
    #: Where the last own ``session_meta`` line stands.
    meta_offset: int = 0
    meta_bytes: int = 0
    applied: Position = START
    writers: dict[str, WriterMark] = field(default_factory=dict)
    #: Field of the metadata -> position from which it was last observed or set.
    observed: dict[str, Position] = field(default_factory=dict)

    def mark(self, writer: str) -> WriterMark:
        """Return how far *writer*'s tasks are applied."""
        return self.writers.get(writer, WriterMark(0, 0))


def read_on(state: ThreadState, file: BinaryIO) -> Record | None:
    """Take in what stands in *file* beyond the state's committed length; return a torn last line, if any.

    Lines of ours count as applied, line by line; other lines are adopted. Either way the metadata that
    follows from them is taken from them: this is how a rollout is read when there is nothing but the file.
    """
    observer = ItemObserver.of(state.thread) if state.thread else ItemObserver(state.thread_id)
    # The time of lines that tell none.
    fallback_time = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
    for record in scan_records(file, state.rollout_bytes):
        if not record.is_complete and record.value is None:
            return record
        state.rollout_bytes = record.offset + record.size
        if record.value is not None:
            _take_record(state, record, record.value, observer, fallback_time)
    return None


def _take_record(
    state: ThreadState, record: Record, value: dict[str, Any], observer: ItemObserver, fallback_time: datetime
) -> None:
    ordinal = value.get("ordinal")
    state.next_ordinal = max(state.next_ordinal, ordinal if type(ordinal) is int else 0) + 1
    if mark := writer_mark(value):
        _count(state, *mark)
    item = item_of(value)
    if item is None:
        return
    at = parse_time(item.timestamp) or fallback_time
    is_own_meta = (
        item.type == "session_meta" and isinstance(item.payload, dict) and (item.payload.get("id") == state.thread_id)
    )
    if is_own_meta:
        state.meta_offset, state.meta_bytes = record.offset, record.size
    if state.thread is None:
        if is_own_meta:
            state.thread = thread_from_meta(state.thread_id, item.payload, at)
            observer.cwd_seen = bool(state.thread.cwd)
        return
    if item.type == THREAD_METADATA_TYPE:
        state.thread = state.thread.patched(ThreadMetadataPatch.model_validate(item.payload))
        return
    patch = observer.observe([(item, at)])
    if is_own_meta:
        patch = patch.model_copy(update={"created_at": state.thread.created_at})
    else:
        patch = patch.merge(ThreadMetadataPatch(updated_at=max(state.thread.updated_at, at)))
    state.thread = state.thread.patched(patch)


def _count(state: ThreadState, writer: str, n: int) -> None:
    mark = state.mark(writer)
    if n > mark.n:
        state.writers[writer] = WriterMark(n, 1)
    elif n == mark.n:
        state.writers[writer] = replace(mark, lines=mark.lines + 1)


def complete_from_home(home: Home, state: ThreadState) -> None:
    """Add what a home says of a thread outside its rollout: its name, and that it is archived."""
    if state.thread is None:
        return
    path = home.root / state.path
    update: dict[str, Any] = {"rollout_path": path, "name": read_names(home).get(state.thread_id)}
    if home.is_archived(path):
        update["archived_at"] = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    state.thread = state.thread.model_copy(update=update)
