"""Deletes a thread's rollouts. Its batch removes its names and rows, together with those of other threads, then its lock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from livethread.ordered_tasks import MailboxEntry
from livethread_worker.store.files import originals
from livethread_worker.store.files.home import Home, other_form
from livethread_worker.store.files.replacement import unfinished
from livethread_worker.store.files.sync import sync_directory
from livethread_worker.store.index import Index
from livethread_worker.store.rollout_paths import rollouts_of
from livethread_worker.store.write.thread_work import Line, ThreadWork


def delete_thread(work: ThreadWork, _entry: MailboxEntry, _done: int) -> Sequence[Line]:
    """Plan a deletion.

    Raises:
        Conflict: other threads need the thread.
    """
    work.require_deletable()
    work.is_deleted = True
    return ()


def remove_files(home: Home, index: Index, thread_id: str) -> Path | None:
    """Remove the thread's files, the live rollout last; missing ones are not an error.

    Return the folder to sync, so that this is durable: one sync serves all threads of a batch. A former attempt may have
    removed the files, and not synced the folder. Its names remain.
    """
    rollouts = rollouts_of(home, index, thread_id)
    for path in rollouts:
        for left in (unfinished(path), unfinished(other_form(path))):
            left.unlink(missing_ok=True)
        originals.forget(home, path)
        path.unlink(missing_ok=True)
        if path is not rollouts[-1]:
            sync_directory(path.parent)
    if not rollouts and (known := index.rollout(thread_id)) is not None:
        rollouts = [home.root / known[0]]
    return rollouts[-1].parent if rollouts and rollouts[-1].parent.is_dir() else None
