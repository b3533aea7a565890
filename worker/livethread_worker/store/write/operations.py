"""The operations on a thread, one file each, and the loop that plans the tasks of a thread in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from livethread.errors import ThreadStoreError
from livethread.ordered_tasks import MailboxEntry
from livethread_worker.store.thread_state import WriterMark
from livethread_worker.store.write.append_items import append_items
from livethread_worker.store.write.archive_thread import archive_thread
from livethread_worker.store.write.create_thread import create_thread
from livethread_worker.store.write.delete_thread import delete_thread
from livethread_worker.store.write.thread_work import Line, ThreadWork
from livethread_worker.store.write.update_thread_metadata import update_thread_metadata

#: Plans a task and returns its lines; a crash left the first *done* of them in the rollout.
Operation = Callable[[ThreadWork, MailboxEntry, int], Sequence[Line]]

OPERATIONS: Final[Mapping[str, Operation]] = {
    "create_thread": create_thread,
    "append_items": append_items,
    "update_thread_metadata": update_thread_metadata,
    "archive_thread": archive_thread,
    "unarchive_thread": archive_thread,
    "delete_thread": delete_thread,
}


def plan(work: ThreadWork, entries: Sequence[MailboxEntry]) -> None:
    """Plan *entries*, in order, up to the first that can never be applied.

    A task that is already applied, in whole or in part, is recognized by its writer's counter.
    """
    for entry in entries:
        try:
            if not work.is_committed(entry):
                _plan_entry(work, entry)
        except ThreadStoreError as error:
            work.poison = error
            break
        work.position = entry.position
    work.finish()


def _plan_entry(work: ThreadWork, entry: MailboxEntry) -> None:
    mark = work.state.mark(entry.writer)
    if entry.n < mark.n:
        return
    done = mark.lines if entry.n == mark.n else 0
    lines = OPERATIONS[entry.task.header.op](work, entry, done)
    for line in lines[done:]:
        work.write(line, entry)
    work.state.writers[entry.writer] = WriterMark(entry.n, max(done, len(lines)))
