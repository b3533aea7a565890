"""Rebuilds the index from the files while workers keep writing: each thread is read under its lock.

No file is changed. Threads whose locks are held are tried again at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from livethread.errors import ThreadStoreError
from livethread_worker.store.files import Home, compression, folder_stamps, name_index, rollout_reader
from livethread_worker.store.files.locks import LockBusy, file_lock, remove_thread_lock
from livethread_worker.store.files.rollout_search import KnownFolder
from livethread_worker.store.index import Index
from livethread_worker.store.index.thread_writes import ThreadRows, thread_rows
from livethread_worker.store.thread_state import ThreadState

logger = logging.getLogger(__name__)

#: Threads in a transaction, and about how many bytes of rollouts: workers wait for its locks, then for the index.
BATCH_THREADS: Final = 200
BATCH_BYTES: Final = 4 * 1024 * 1024

#: How long to wait for a thread's lock before the thread is left out.
LOCK_WAIT: Final = 10.0  # seconds

#: A thread id and the path of its rollout.
_Rollout = tuple[str, Path]

#: Returns whether to read a rollout, given the state of its thread in the index.
IsNeeded = Callable[[ThreadState | None, Path], bool]


@dataclass(slots=True)
class RebuildReport:
    """What a rebuild read and skipped."""

    threads: int = 0
    #: Rows that were deleted because their rollouts are gone.
    forgotten: int = 0
    #: Rollouts that cannot be read, or lack a ``session_meta`` of their thread.
    unreadable: list[str] = field(default_factory=list)
    #: Rollouts that were skipped in favor of another one of the same thread.
    duplicates: list[str] = field(default_factory=list)
    #: Threads that were skipped because their locks stayed held.
    busy: list[str] = field(default_factory=list)


def complete_once(home: Home, index: Index) -> dict[str, int]:
    """Read the rollouts that a new index lacks, unless that was done or another process does it.

    Raises:
        IndexUnavailable: the index cannot be written.
    """
    if index.is_complete:
        return {}
    try:
        with file_lock(home.own / "rebuild.lock"):
            report, _ = _read_all(home, index, lambda _: None, is_needed=lambda known, _: known is None)
            index.mark_complete()
    except LockBusy:
        return {}
    return {"threads": report.threads}


def rebuild(home: Home, index: Index, advance: Callable[[int], None] = lambda _: None) -> RebuildReport:
    """Read every rollout into the index and delete rows without one; call *advance* with the size of each batch.

    Raises:
        IndexUnavailable: the index cannot be written.
    """
    report, seen = _read_all(home, index, advance, is_needed=None)
    # Threads created since the listing have a row and were not seen.
    gone = [id_ for id_ in index.thread_ids() if id_ not in seen]
    if gone:
        present = {thread_id for thread_id, _ in home.rollout_entries()}
        gone = [id_ for id_ in gone if id_ not in present]
    index.commit((), gone)
    index.mark_complete()
    report.forgotten = len(gone)
    logger.info(
        "index rebuilt", extra={"action": "rebuild", "threads": report.threads, "forgotten": report.forgotten}
    )
    return report


def _read_all(
    home: Home, index: Index, advance: Callable[[int], None], *, is_needed: IsNeeded | None
) -> tuple[RebuildReport, AbstractSet[str]]:
    """Read every rollout that *is_needed*; also return the threads that have one."""
    report = RebuildReport()
    busy: list[_Rollout] = []
    # Asked now: a rollout that is added in the same tick of the clock leaves the same stamp.
    quiet = {folder: stamp for folder, stamp in folder_stamps.folder_stamps(home).items() if stamp.is_quiet()}
    entries = list(home.rollout_entries())
    chosen, copies = home.one_rollout_each(index.rollouts(), entries)
    report.duplicates = [entry.path for entry in copies]
    rollouts = ((thread_id, Path(entry)) for thread_id, entry in chosen.items())
    for batch in _batches(rollouts):
        busy += index_batch(home, index, batch, report, is_needed=is_needed)
        advance(len(batch))
    for rollout in busy:
        if index_batch(home, index, [rollout], report, is_needed=is_needed, wait_s=LOCK_WAIT):
            report.busy.append(rollout[0])
    if not report.busy and not report.unreadable:
        live = {path for path, _ in index.rollouts().values()}
        others: dict[str, list[str]] = {}
        for _, entry in entries:
            if (path := home.relative(Path(entry.path))) not in live or home.generation(Path(entry.name)):
                others.setdefault(path.rpartition("/")[0], []).append(entry.name)
        index.save_folders({
            folder: KnownFolder(stamp, tuple(others.get(folder, ()))) for folder, stamp in quiet.items()
        })
    return report, chosen.keys()


def _batches(rollouts: Iterable[_Rollout]) -> Iterator[list[_Rollout]]:
    """Yield *rollouts* in batches; the rollout that reaches a limit is the last of its batch."""
    batch: list[_Rollout] = []
    size = 0
    for rollout in rollouts:
        with suppress(OSError):  # moved or deleted since it was listed
            size += rollout[1].stat().st_size
        batch.append(rollout)
        if len(batch) >= BATCH_THREADS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def index_batch(
    home: Home,
    index: Index,
    rollouts: list[_Rollout],
    report: RebuildReport,
    *,
    is_needed: IsNeeded | None,
    wait_s: float = 0.0,
) -> list[_Rollout]:
    """Read *rollouts* into the index in one transaction; return those whose locks are held by other programs.

    *is_needed* is called under the thread's lock with the state that the index has then; None reads every rollout.
    An index in memory needs no locks: only this process writes it, and the home may be read-only.

    Raises:
        IndexUnavailable: the index cannot be written.
    """
    names = name_index.read_names(home)
    busy: list[_Rollout] = []
    read: list[ThreadRows] = []
    with ExitStack() as locks:
        held: list[_Rollout] = []
        for rollout in rollouts:
            try:
                if not index.in_memory:
                    locks.enter_context(file_lock(home.thread_lock(rollout[0]), wait_s=wait_s))
                held.append(rollout)
            except LockBusy:
                busy.append(rollout)
        known = index.load_states({thread_id: set() for thread_id, _ in held}) if is_needed else {}
        for thread_id, path in held:
            if not path.exists():
                if not index.in_memory and home.where_it_lies(home.active_path(path)) is None:
                    remove_thread_lock(home, thread_id)
                continue  # moved or deleted since it was listed
            if is_needed and not is_needed(known.get(thread_id), path):
                continue  # indexed since it was listed
            rows = _rows_of(home, thread_id, path, names)
            if rows is None:
                report.unreadable.append(home.relative(path))
            else:
                read.append(rows)
        if read:
            index.replace(read)
    report.threads += len(read)
    return busy


def _rows_of(home: Home, thread_id: str, path: Path, names: dict[str, str | None]) -> ThreadRows | None:
    """Return the rows of a rollout; None if it cannot be read or holds no thread of this id.

    It catches every error: one bad rollout must not keep the others out of the index.
    """
    extra = {"action": "rebuild", "thread_id": thread_id}
    try:
        state = read_state(home, thread_id, path, names)
        return thread_rows(state, None) if state.thread is not None else None
    except ThreadStoreError as error:
        logger.warning("the rollout of thread %s cannot be read: %s", thread_id, error, extra=extra)
    except Exception:
        logger.exception("reading the rollout of thread %s failed", thread_id, extra=extra)
    return None


def read_state(home: Home, thread_id: str, path: Path, names: dict[str, str | None]) -> ThreadState:
    """Return the thread's state according to its whole rollout at *path* and the home."""
    state = ThreadState(thread_id, path=home.relative(path))
    with compression.open_rollout(path) as file:
        rollout_reader.read_what_is_left(home, state, file)
    rollout_reader.complete_from_home(home, state, names)
    return state
