"""Applies tasks to files and index: any number of threads, each in its order, exactly once.

1. Take each thread's lock. 2. Load what the index knows, and read what the file holds beyond it. 3. Write all lines of
a thread in one write, and begin to sync the files of the batch to disk. 4. Store the whole batch in one transaction,
which commits when the files are on disk. A thread that fails leaves the batch; the others continue. A crash at any
point leaves what the next attempt recognizes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from livethread.errors import ThreadStoreError
from livethread.ordered_tasks import AppendItems, DeleteThread, MailboxEntry
from livethread_worker.store.files import Home, locks, name_index, originals
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.files.sync import Syncing, sync_directory, sync_now
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.index.thread_writes import ThreadRows, thread_rows
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.write.archive_thread import is_misplaced, move_rollout
from livethread_worker.store.write.delete_thread import remove_files
from livethread_worker.store.write.open_rollout import FORKS_LOCK_WAIT, OpenRollout, open_rollout
from livethread_worker.store.write.operations import plan
from livethread_worker.store.write.outcome import Outcome, OutcomeKind
from livethread_worker.store.write.thread_work import ThreadWork

logger = logging.getLogger(__name__)

#: How long other processes wait for the index while the rollouts of a batch are synced to disk.
HELD_FOR_DISK: Final = 0.2  # seconds


def apply_batch(
    home: Home, index: Index, tasks: Mapping[str, Sequence[MailboxEntry]], *, sync: bool
) -> dict[str, Outcome]:
    """Apply each thread's entries, in order, and return the outcomes.

    An outcome's position is durable: its tasks are in the rollout (fdatasynced if *sync*) and in the index. Entries that
    are already applied change nothing.
    """
    with Batch(home, index, sync=sync) as batch:
        batch.lock(tasks)
        states = batch.load(tasks)
        for thread_id in batch.locked:
            with batch.outcome_of(thread_id):
                batch.apply(batch.open(thread_id, tasks[thread_id], states.get(thread_id)), tasks[thread_id])
        return batch.commit()


class Batch:
    """Threads whose tasks are applied together. It holds their locks until its block ends."""

    def __init__(self, home: Home, index: Index, *, sync: bool) -> None:
        self._home = home
        self._index = index
        self._sync = sync
        self._stack = ExitStack()
        #: Threads whose locks are held.
        self.locked: list[str] = []
        self._outcomes: dict[str, Outcome] = {}
        self._works: dict[str, ThreadWork] = {}
        self._rows: dict[str, ThreadRows] = {}
        #: Rollouts whose originals are not needed once the batch is committed.
        self._carried_over: dict[str, Path] = {}
        #: Folders from which files were removed, which is not on disk yet.
        self._removed_from: set[Path] = set()
        #: Recorders of lines that are not on disk yet.
        self._unsynced: dict[str, RolloutRecorder] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def lock(self, thread_ids: Iterable[str], *, wait_s: float = 0.0) -> None:
        """Take the locks of threads, waiting up to *wait_s* for each."""
        for thread_id in thread_ids:
            with self.outcome_of(thread_id):
                self._stack.callback(os.close, locks.take_lock(self._home.thread_lock(thread_id), wait_s=wait_s))
                self.locked.append(thread_id)

    def load(self, tasks: Mapping[str, Collection[MailboxEntry]]) -> dict[str, ThreadState]:
        """Return what the index knows of the locked threads, with the writers and idempotency keys of *tasks*.

        Under the locks: an earlier answer may be out of date.
        """
        try:
            return self._index.states_of_batch(
                {thread_id: {entry.writer for entry in tasks[thread_id]} for thread_id in self.locked},
                {thread_id: _idempotency_keys(tasks[thread_id]) for thread_id in self.locked},
            )
        except IndexUnavailable as error:
            self._outcomes |= dict.fromkeys(self.locked, Outcome(OutcomeKind.BUSY, reason=str(error)))
            self.locked = []
            return {}

    def open(self, thread_id: str, entries: Sequence[MailboxEntry], state: ThreadState | None) -> OpenRollout:
        """Open a locked thread, and read what its rollout holds beyond *state*.

        Raises:
            ThreadNotFound: there is no rollout, and the first of *entries* does not create it.
        """
        return open_rollout(self._stack, self._home, thread_id, entries, state, index=self._index)

    def apply(self, rollout: OpenRollout, entries: Sequence[MailboxEntry]) -> None:
        """Write the lines of *entries*, and prepare what `commit` stores.

        Raises:
            OSError: a file cannot be written; nothing of the thread is applied.
            ThreadStoreError: the thread's state holds what cannot be stored.
        """
        work, recorder = rollout.work, rollout.recorder
        with ExitStack() as stack:
            if any(isinstance(entry.task.header, DeleteThread) for entry in entries):
                stack.enter_context(locks.file_lock(self._home.forks_lock, wait_s=FORKS_LOCK_WAIT))
            if recorder is None:
                work.take_deletion(entries)
            else:
                plan(work, entries)
            must_sync = self._carry_out(rollout)
        if recorder is not None:
            work.state.rollout_bytes = recorder.size
        thread_id = work.state.thread_id
        if work.state.thread is None and not work.is_deleted:  # its creation is poisoned: there is no thread
            self._outcomes[thread_id] = _outcome(work)
            return
        self._rows[thread_id] = thread_rows(work.state, work.loaded)
        self._works[thread_id] = work
        if must_sync and recorder is not None:
            self._unsynced[thread_id] = recorder
        if rollout.forgets_original and recorder is not None:
            self._carried_over[thread_id] = recorder.path

    def commit(self) -> dict[str, Outcome]:
        """Sync the files to disk, commit the index, and return each thread's outcome.

        The files are synced, all together, while the index stores what they hold: it commits when they are on disk.
        """
        syncing = Syncing(list(self._unsynced.values()))
        self._complete_removals()
        try:
            # Other processes are waiting for the index, and must not wait for a slow disk.
            stored = self._store(
                self._works, lambda: syncing.is_done_within(HELD_FOR_DISK) and not any(syncing.wait())
            )
        finally:
            errors = syncing.wait()  # always: the files are closed next
        failed = {id_: error for id_, error in zip(self._unsynced, errors, strict=True) if error is not None}
        for thread_id in failed:
            self._unsynced[thread_id].take_back()
        if stored is None:
            durable = {id_: work for id_, work in self._works.items() if id_ not in failed}
            stored = self._store(durable, lambda: True) or {}
        for thread_id, path in self._carried_over.items():
            if thread_id not in failed:  # even if the index was busy: the line is in the rollout
                originals.forget(self._home, path)
        # Not before: a listing that finds a row without a rollout, and its lock free, searches the whole home.
        for thread_id, outcome in stored.items():
            if outcome.kind is OutcomeKind.DELETED:
                with suppress(OSError):  # a lock file that stays does no harm
                    locks.remove_thread_lock(self._home, thread_id)
        return self._outcomes | stored | {id_: Outcome.failed(error) for id_, error in failed.items()}

    def _complete_removals(self) -> None:
        """Make the removal of files durable, and remove names; if that fails, the deletions fail.

        Once for the batch: names are removed by writing all others again.
        """
        deleted = [thread_id for thread_id, work in self._works.items() if work.is_deleted]
        try:
            for folder in self._removed_from:
                sync_directory(folder)
            if deleted:
                name_index.forget_names(self._home, *deleted)
        except locks.LockBusy as error:
            outcome = Outcome(OutcomeKind.LOCKED, reason=f"{error} is held by another writer")
        except OSError as error:
            outcome = Outcome.failed(error)
        else:
            return
        for thread_id in deleted:
            del self._works[thread_id]
            self._outcomes[thread_id] = outcome

    @contextmanager
    def outcome_of(self, thread_id: str) -> Iterator[None]:
        """Make an error within the block the outcome of *thread_id*: the other threads continue."""
        try:
            yield
        except locks.LockBusy as error:
            self._outcomes[thread_id] = Outcome(OutcomeKind.LOCKED, reason=f"{error} is held by another writer")
        except IndexUnavailable as error:
            self._outcomes[thread_id] = Outcome(OutcomeKind.BUSY, reason=str(error))
        except ThreadStoreError as error:
            self._outcomes[thread_id] = Outcome.poisoned(None, error)
        except Exception as error:  # whatever it is, the other threads continue
            logger.exception(
                "applying tasks of thread %s failed", thread_id, extra={"action": "apply", "thread_id": thread_id}
            )
            self._outcomes[thread_id] = Outcome.failed(error)

    def _carry_out(self, rollout: OpenRollout) -> bool:
        """Change the files as planned, and return whether the rollout is still to be synced to disk.

        Names go first: repeating one is harmless, forgetting one is not.
        """
        home, work, recorder = self._home, rollout.work, rollout.recorder
        if work.is_deleted:
            if (folder := remove_files(home, self._index, work.state.thread_id)) is not None:
                self._removed_from.add(folder)
            return False
        if work.renamed is not None:
            name_index.set_name(home, work.state.thread_id, *work.renamed)
        assert recorder is not None
        if work.state.thread is None and recorder.is_new:
            originals.forget(home, recorder.path)
            recorder.path.unlink()
            return False
        recorder.append(b"".join(work.lines))
        must_sync = self._sync and bool(work.lines or rollout.took_in)
        if not is_misplaced(home, work.state, recorder.path):
            return must_sync
        if must_sync:
            try:
                sync_now(recorder)  # the line that says why the file moves is there before it moves
            except OSError:
                recorder.take_back()
                raise
        move_rollout(home, work.state, recorder.path)
        return False

    def _store(self, works: Mapping[str, ThreadWork], is_durable: Callable[[], bool]) -> dict[str, Outcome] | None:
        """Store *works* in one transaction; None if the files were not durable in time, and nothing is stored."""
        kept = [self._rows[thread_id] for thread_id, work in works.items() if not work.is_deleted]
        deleted = [thread_id for thread_id, work in works.items() if work.is_deleted]
        # If it fails, the lines are in the files; the next attempt finds them by their counters.
        try:
            outdated = self._index.commit(kept, deleted, is_durable)
        except IndexUnavailable as error:
            return dict.fromkeys(works, Outcome(OutcomeKind.BUSY, reason=str(error)))
        if outdated is None:
            return None
        busy = Outcome(OutcomeKind.BUSY, reason="another process has read the thread into the index meanwhile")
        return {id_: busy if id_ in outdated else _outcome(work) for id_, work in works.items()}


def _idempotency_keys(entries: Collection[MailboxEntry]) -> set[str]:
    headers = (entry.task.header for entry in entries)
    keys = (header.idempotency_key for header in headers if isinstance(header, AppendItems))
    return {key for key in keys if key is not None}


def _outcome(work: ThreadWork) -> Outcome:
    if work.is_deleted:
        return Outcome(OutcomeKind.DELETED, work.position)
    if work.poison is None:
        return Outcome(OutcomeKind.DONE, work.position)
    return Outcome.poisoned(work.position, work.poison)
