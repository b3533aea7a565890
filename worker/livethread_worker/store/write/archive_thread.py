"""Archives a thread, or makes it active again: a line says so, and its rollout moves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from livethread.errors import Conflict
from livethread.model import format_time
from livethread.ordered_tasks import ArchiveThread, MailboxEntry
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread_worker.store.files.home import Home, make_directory
from livethread_worker.store.files.quarantine import move_other_form_away
from livethread_worker.store.files.replacement import move
from livethread_worker.store.thread_state import ARCHIVED_AT, ThreadState
from livethread_worker.store.write.thread_work import Line, ThreadWork, encode_record


def archive_thread(work: ThreadWork, entry: MailboxEntry, _done: int) -> Sequence[Line]:
    """Plan to archive or unarchive a thread. It leaves a line even if nothing changes: the line carries its counter.

    Raises:
        ThreadNotFound: there is no thread.
    """
    header, metadata = entry.task.header, work.metadata()
    archived_at: datetime | None = None
    if isinstance(header, ArchiveThread):
        archived_at = metadata.thread.archived_at or header.at
    metadata.archive(archived_at)
    payload = {ARCHIVED_AT: archived_at and format_time(archived_at)}
    return (Line(encode_record(THREAD_METADATA_TYPE, payload, header.at)),)


def is_misplaced(home: Home, state: ThreadState, path: Path) -> bool:
    """Whether the rollout at *path* is among the archived ones while its thread is active, or the reverse."""
    return state.thread is not None and (state.thread.archived_at is None) == home.is_archived(path)


def move_rollout(home: Home, state: ThreadState, path: Path) -> None:
    """Move the live rollout to the archived ones, or back, durably, after the rollouts that codex's reverts left.

    Raises:
        Conflict: another file has its name there.
        InvalidRequest: the folder there is a symlink that leads out of the home.
    """
    is_archived = home.is_archived(path)
    if home.generation(path):
        for earlier in home.rollouts_of(state.thread_id):
            if home.generation(earlier) != home.generation(path) and home.is_archived(earlier) == is_archived:
                _move(home, earlier)
    state.path = home.relative(_move(home, path))
    move_other_form_away(home, path)


def _move(home: Home, path: Path) -> Path:
    target = home.active_path(path) if home.is_archived(path) else home.archived_sessions / path.name
    target = home.resolve(home.relative(target))
    if target.exists():
        raise Conflict(f"both {home.relative(target)} and {home.relative(path)} exist")
    make_directory(target.parent)
    move(path, target)
    return target
