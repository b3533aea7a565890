"""Applies tasks to files and index: any number of threads, each in its order, exactly once.

1. Take each thread's lock. 2. Load what the index knows, and take in what stands in the file beyond it. 3. Write
all lines of a thread in one write, and begin to force those of the batch to the disk. 4. Make the whole batch one
transaction of the index, and commit it when they are there. A thread that fails is taken out of the batch; the others go on. A crash anywhere leaves what the next attempt
recognises.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from livethread.errors import Conflict, ThreadStoreError
from livethread.ordered_tasks import AppendItems, CreateThread, DeleteThread, MailboxEntry
from livethread.rollout.item import decode_line, item_of
from livethread.types import START, Position
from livethread_worker.store.files.compression import decompress
from livethread_worker.store.files.home import Home, is_compressed, make_directory, other_form
from livethread_worker.store.files.locks import LockBusy, take_lock
from livethread_worker.store.files.name_index import forget_names, read_names, set_name
from livethread_worker.store.files.quarantine import keep, move_other_form_away
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.files.replacement import unfinished
from livethread_worker.store.files.sync import Syncing, sync_directory, sync_now
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.index.thread_writes import ThreadRows, thread_rows
from livethread_worker.store.thread_state import ThreadState, archived_by_folder, read_on
from livethread_worker.store.write.thread_work import ThreadWork

logger = logging.getLogger(__name__)

#: How long others wait for the index while the rollouts of a batch are forced to the disk.
HELD_FOR_DISK = 0.2  # seconds


class OutcomeKind(StrEnum):
    """What became of a thread's tasks."""

    #: All are applied.
    DONE = "done"
    #: Somebody else writes the thread: no fault of the tasks, and nothing was written.
    LOCKED = "locked"
    #: The index cannot be used now: no fault of the tasks. None is applied, but their lines may stand in the file.
    BUSY = "busy"
    #: Something failed that may pass, such as a full disk; none is applied.
    FAILED = "failed"
    #: The task after the position can never be applied.
    POISONED = "poisoned"
    #: The thread is removed, with everything of it.
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one thread's tasks, and how far they are durable."""

    kind: OutcomeKind
    #: Up to here they are applied: fsynced and committed. None where none is.
    position: Position | None = None
    reason: str = ""
    #: Why the task after the position can never be applied.
    error: ThreadStoreError | None = None


@dataclass(frozen=True, slots=True)
class LateEntries:
    """Entries of one writer that are made under the thread's lock, from the position up to which it is applied.

    That is `START` where none is, or none is known: the rollouts do not hold positions.
    """

    writer: str
    make: Callable[[Position], Sequence[MailboxEntry]]
    #: Raises `ThreadStoreError` where they are not to be applied, as a compare-and-append that came too late. It is asked
    #: when the rollout is read up to its end, and nothing is written.
    check: Callable[[ThreadState], None]
    #: The idempotency key that they name.
    key: str | None = None


@dataclass(slots=True)
class _Opened:
    """A thread of the batch, locked and read up to its end."""

    work: ThreadWork
    #: None where the rollout is gone, and the thread is only to be deleted.
    recorder: RolloutRecorder | None
    #: Whether lines beyond the committed length were taken in: nobody may have forced them to the disk.
    took_in: bool = False


def apply_batch(
    home: Home,
    index: Index,
    batch: Mapping[str, Sequence[MailboxEntry] | LateEntries],
    *,
    sync: bool,
    lock_wait_s: float = 0.0,
) -> dict[str, Outcome]:
    """Apply each thread's entries, in order, and return what became of them.

    An outcome's position is durable: its tasks are in the rollout (fdatasynced where *sync*) and in the index.
    Entries that are applied already change nothing.
    """
    home = home.for_a_moment()
    outcomes: dict[str, Outcome] = {}
    rows: dict[str, ThreadRows] = {}
    works: dict[str, ThreadWork] = {}
    unsynced: dict[str, RolloutRecorder] = {}
    with ExitStack() as stack:
        locked = _lock(stack, home, batch, lock_wait_s, outcomes)
        try:
            # Under the locks: what is loaded before them may be old by now.
            states = index.states_of_batch(
                {id_: _writers(entries) for id_, entries in locked.items()},
                {id_: _keys(entries) for id_, entries in locked.items()},
            )
        except IndexUnavailable as error:
            return outcomes | dict.fromkeys(locked, Outcome(OutcomeKind.BUSY, reason=str(error)))
        for thread_id, entries in locked.items():
            try:
                work, recorder = _apply_one(stack, home, thread_id, entries, states.get(thread_id), sync=sync)
                if work.state.thread is None and not work.is_deleted:  # its creation is poisoned: there is no thread
                    outcomes[thread_id] = _outcome(work)
                    continue
                works[thread_id], rows[thread_id] = work, thread_rows(work.state, work.loaded)
                if recorder is not None:
                    unsynced[thread_id] = recorder
            except LockBusy as error:
                outcomes[thread_id] = Outcome(OutcomeKind.LOCKED, reason=f"{error} is held by another writer")
            except ThreadStoreError as error:
                outcomes[thread_id] = _poisoned(None, error)
            except Exception as error:  # whatever it is, the other threads go on
                logger.exception("applying failed", extra={"action": "apply", "thread_id": thread_id})
                outcomes[thread_id] = Outcome(OutcomeKind.FAILED, reason=f"{type(error).__name__}: {error}")
        return outcomes | _commit(index, works, rows, unsynced)


def _lock(
    stack: ExitStack,
    home: Home,
    batch: Mapping[str, Sequence[MailboxEntry] | LateEntries],
    wait_s: float,
    outcomes: dict[str, Outcome],
) -> dict[str, Sequence[MailboxEntry] | LateEntries]:
    """Take the threads' locks and return the part of the batch whose locks are held."""
    locked, locks = {}, str(home.locks)
    for thread_id, entries in batch.items():
        try:
            stack.callback(os.close, take_lock(f"{locks}/{thread_id}.lock", wait_s=wait_s))
        except LockBusy as error:
            outcomes[thread_id] = Outcome(OutcomeKind.LOCKED, reason=f"{error} is held by another writer")
        except OSError as error:
            outcomes[thread_id] = Outcome(OutcomeKind.FAILED, reason=f"{type(error).__name__}: {error}")
        else:
            locked[thread_id] = entries
    return locked


def _writers(entries: Sequence[MailboxEntry] | LateEntries) -> set[str]:
    return {entries.writer} if isinstance(entries, LateEntries) else {entry.writer for entry in entries}


def _keys(entries: Sequence[MailboxEntry] | LateEntries) -> set[str]:
    """Return the idempotency keys that *entries* name."""
    if isinstance(entries, LateEntries):
        return set() if entries.key is None else {entries.key}
    headers = (entry.task.header for entry in entries)
    keys = (header.idempotency_key for header in headers if isinstance(header, AppendItems))
    return {key for key in keys if key is not None}


def _apply_one(
    stack: ExitStack,
    home: Home,
    thread_id: str,
    entries: Sequence[MailboxEntry] | LateEntries,
    state: ThreadState | None,
    *,
    sync: bool,
) -> tuple[ThreadWork, RolloutRecorder | None]:
    """Bring one thread's files up to its entries; also return what is still to be forced to the disk."""
    late = entries if isinstance(entries, LateEntries) else None
    if isinstance(entries, LateEntries):
        entries = entries.make(state.applied if state else START)
    thread = _open(stack, home, thread_id, entries, state)
    if late is not None:
        late.check(thread.work.state)
    if thread.recorder is None:
        thread.work.take_deletion(entries)
    else:
        thread.work.take(entries)
    must_sync = _carry_out(home, thread, sync=sync)
    if thread.recorder is not None:
        thread.work.state.rollout_bytes = thread.recorder.size
    return thread.work, thread.recorder if must_sync else None


class _NotDurable(Exception):
    """The batch's rollouts are not on the disk yet, or some never will be."""


def _commit(
    index: Index,
    works: Mapping[str, ThreadWork],
    rows: Mapping[str, ThreadRows],
    unsynced: Mapping[str, RolloutRecorder],
) -> dict[str, Outcome]:
    """Commit the works, and return what became of them.

    Their rollouts are forced to the disk, all together, while the index takes in what they hold: it commits when they are.
    """
    syncing = Syncing(list(unsynced.values()))
    outcomes = None

    def be_durable() -> None:
        # Others wait for the index meanwhile: not for a disk that takes its time.
        if not syncing.is_done_within(HELD_FOR_DISK) or any(syncing.wait()):
            raise _NotDurable

    try:
        with suppress(_NotDurable):
            outcomes = _commit_when(be_durable, index, works, rows)
    finally:
        errors = syncing.wait()  # in any case: the files are closed then
    failed = {id_: error for id_, error in zip(unsynced, errors, strict=True) if error is not None}
    for thread_id in failed:
        unsynced[thread_id].take_back()
    if outcomes is None:
        durable = {id_: work for id_, work in works.items() if id_ not in failed}
        outcomes = _commit_when(lambda: None, index, durable, rows)
    return outcomes | {
        id_: Outcome(OutcomeKind.FAILED, reason=f"{type(error).__name__}: {error}") for id_, error in failed.items()
    }


def _commit_when(
    be_durable: Callable[[], None], index: Index, works: Mapping[str, ThreadWork], rows: Mapping[str, ThreadRows]
) -> dict[str, Outcome]:
    kept = [rows[thread_id] for thread_id, work in works.items() if not work.is_deleted]
    deleted = [thread_id for thread_id, work in works.items() if work.is_deleted]
    # Where it fails, the lines stand in the files; the next attempt finds them by their counters.
    try:
        overtaken = index.commit(kept, deleted, be_durable)
    except IndexUnavailable as error:
        return dict.fromkeys(works, Outcome(OutcomeKind.BUSY, reason=str(error)))
    busy = Outcome(OutcomeKind.BUSY, reason="somebody else has read the thread into the index meanwhile")
    return {id_: busy if id_ in overtaken else _outcome(work) for id_, work in works.items()}


def _outcome(work: ThreadWork) -> Outcome:
    if work.is_deleted:
        return Outcome(OutcomeKind.DELETED, work.position)
    if work.poison is None:
        return Outcome(OutcomeKind.DONE, work.position)
    return _poisoned(work.position, work.poison)


def _poisoned(position: Position | None, error: ThreadStoreError) -> Outcome:
    return Outcome(OutcomeKind.POISONED, position, f"{type(error).__name__}: {error}", error)


def _carry_out(home: Home, thread: _Opened, *, sync: bool) -> bool:
    """Change the files as planned, and return whether the rollout is still to be forced to the disk.

    Names go first: a repeated one is harmless, a forgotten one would not be.
    """
    work, recorder = thread.work, thread.recorder
    if work.is_deleted:
        _remove(home, work.state)
        return False
    if work.renamed is not None:
        set_name(home, work.state.thread_id, *work.renamed)
    assert recorder is not None
    if work.state.thread is None and recorder.is_new:
        recorder.path.unlink()
        return False
    recorder.append(b"".join(work.lines))
    must_sync = sync and bool(work.lines or thread.took_in)
    if not _is_misplaced(home, work.state, recorder.path):
        return must_sync
    if must_sync:
        try:
            sync_now(recorder)  # the line that says why it moves is there before it does
        except OSError:
            recorder.take_back()
            raise
    _move_to_other_folder(home, work.state, recorder.path)
    return False


def _remove(home: Home, state: ThreadState) -> None:
    """Remove the rollout, the names and the lock; what is gone already is no error."""
    while path := home.find_rollout(state.thread_id):
        for left in (unfinished(path), unfinished(other_form(path))):
            left.unlink(missing_ok=True)
        path.unlink()
        sync_directory(path.parent)
    forget_names(home, state.thread_id)
    (home.locks / f"{state.thread_id}.lock").unlink(missing_ok=True)


def _is_misplaced(home: Home, state: ThreadState, path: Path) -> bool:
    """Whether the rollout belongs to the archived ones, as its thread says, and is not there, or the other way round."""
    return state.thread is not None and (state.thread.archived_at is None) == home.is_archived(path)


def _move_to_other_folder(home: Home, state: ThreadState, path: Path) -> None:
    """Move the rollout to the archived ones, or back."""
    target = home.active_path(path) if home.is_archived(path) else home.archived_sessions / path.name
    if target.exists():
        raise Conflict(f"{home.relative(target)} exists already, beside {state.path}")
    make_directory(target.parent)
    path.rename(target)
    sync_directory(target.parent)
    sync_directory(path.parent)
    move_other_form_away(home, path)
    state.path = home.relative(target)


def _open(
    stack: ExitStack, home: Home, thread_id: str, entries: Sequence[MailboxEntry], state: ThreadState | None
) -> _Opened:
    loaded = state.thread if state else None
    path = _find(home, thread_id, entries, state)
    state = state or ThreadState(thread_id)
    committed_up_to = state.applied
    # Of a row that was made from the file, the counters are those of lines.
    committed = {} if committed_up_to == START else {writer: mark.n for writer, mark in state.writers.items()}
    if path is None:
        return _Opened(ThreadWork(state, loaded, 0, dict), None)
    if is_compressed(path):
        path = _made_plain(home, path)
    state.path = home.relative(path)
    recorder = stack.enter_context(RolloutRecorder.open(path, create=loaded is None and _creates(entries)))
    if state.thread is not None:
        state.thread = archived_by_folder(home, state.thread, path)
    if recorder.size < state.rollout_bytes:
        logger.error(
            "rollout is shorter than what was committed; somebody cut it",
            extra={"action": "apply", "thread_id": thread_id, "missing_bytes": state.rollout_bytes - recorder.size},
        )
        state.begin_again()
    took_in = recorder.size > state.rollout_bytes
    if took_in:
        recorder.is_all_ours = False
        _take_in_tail(home, state, recorder)
    _end_last_line(state, recorder)
    work = ThreadWork(
        state,
        loaded,
        recorder.size,
        lambda: _read_meta(recorder.file, state),
        committed_up_to=committed_up_to,
        committed=committed,
    )
    return _Opened(work, recorder, took_in)


def _made_plain(home: Home, path: Path) -> Path:
    """Return the plain rollout of the compressed one *path*: that beside it, where there is one, as for codex."""
    plain = other_form(path)
    if not plain.exists():
        return decompress(path)
    move_other_form_away(home, plain)
    return plain


def _creates(entries: Sequence[MailboxEntry]) -> bool:
    return bool(entries) and isinstance(entries[0].task.header, CreateThread)


def _find(home: Home, thread_id: str, entries: Sequence[MailboxEntry], state: ThreadState | None) -> Path | None:
    """Return the path of the thread's rollout; where it does not exist yet, the one it will have.

    None where the thread is to be deleted at once, or there is none any more and it is to be deleted: a crash came
    between its file and its row.

    Raises:
        ThreadNotFound: there is none, and the first task does not create it.
    """
    if entries and isinstance(entries[0].task.header, DeleteThread):
        return None
    if state is not None:
        path = home.resolve(state.path)
        if path.exists():
            return path
    if state is None and _creates(entries):
        path = home.new_rollout(thread_id, entries[0].task.header.at)
        # A crash may have come between the move, by a later task of the batch, and the commit; or the index was lost,
        # and it has been compressed since.
        return home.where_it_lies(path) or path
    if any(isinstance(entry.task.header, DeleteThread) for entry in entries):
        return home.find_rollout(thread_id)
    return home.require_rollout(thread_id)


def _take_in_tail(home: Home, state: ThreadState, recorder: RolloutRecorder) -> None:
    """Take in what stands beyond the committed length: a crash's, or a foreign writer's lines."""
    begin = state.rollout_bytes
    state.is_reread = begin == 0
    torn = read_on(state, recorder.file)
    state.keep_counters()
    if state.thread is not None:
        name = read_names(home).get(state.thread_id, state.thread.name)
        state.thread = state.thread.model_copy(update={"name": name})
        if begin == 0:
            state.thread = archived_by_folder(home, state.thread, recorder.path)
    if torn is not None:
        content = os.pread(recorder.file.fileno(), torn.size, torn.offset)
        keep(home, f"{state.thread_id}-{torn.offset}.torn", content)
        recorder.size = torn.offset
        recorder.cut()
    state.rollout_bytes = recorder.size
    logger.info(
        "took in lines beyond the committed length",
        extra={"action": "apply", "thread_id": state.thread_id, "bytes": recorder.size - begin, "torn": bool(torn)},
    )


def _end_last_line(state: ThreadState, recorder: RolloutRecorder) -> None:
    """End a whole last line that has no end: ours would be glued onto it. The index may have taken it in as it is."""
    if recorder.size and os.pread(recorder.file.fileno(), 1, recorder.size - 1) != b"\n":
        recorder.append(b"\n")
        state.rollout_bytes = recorder.size


def _read_meta(file: BinaryIO, state: ThreadState) -> dict[str, Any]:
    """Return the payload of the last own ``session_meta`` line."""
    line = os.pread(file.fileno(), state.meta_bytes, state.meta_offset)
    item = item_of(decode_line(line) or {})
    return item.payload if item is not None and isinstance(item.payload, dict) else {"id": state.thread_id}
