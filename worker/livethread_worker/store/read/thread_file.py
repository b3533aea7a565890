"""A thread's rollout, wherever it is now: opened, as items, or as raw lines in pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from livethread import types
from livethread.errors import ThreadNotFound
from livethread.metadata import StoredThreadHistory
from livethread.rollout.lines import decode_line, items_of
from livethread_worker.store.files import Home, lineage, scan
from livethread_worker.store.index import Index
from livethread_worker.store.rollout_paths import require_rollout


@contextmanager
def open_thread(home: Home, index: Index, thread_id: str, *, include_archived: bool) -> Iterator[BinaryIO]:
    """Open a thread's history for reading, even while another process moves its rollouts.

    Raises:
        ThreadNotFound: no such thread, or it is archived and *include_archived* is false.
        InvalidRequest: a rollout that it continues is missing.
    """
    path = require_path(home, index, thread_id, include_archived=include_archived)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(lineage.open_history(home, path))
        except FileNotFoundError:
            file = stack.enter_context(lineage.open_history(home, require_rollout(home, index, thread_id)))
        yield file


def require_path(home: Home, index: Index, thread_id: str, *, include_archived: bool) -> Path:
    """Return the path of a thread's rollout.

    Raises:
        ThreadNotFound: no such thread, or it is archived and *include_archived* is false.
    """
    thread = index.read_thread(thread_id)
    path = thread.rollout_path if thread else None
    if path is None or not path.exists():  # unknown to the index, or moved since
        path = require_rollout(home, index, thread_id)
    if home.is_archived(path) and not include_archived:
        raise ThreadNotFound(thread_id, "it is archived")
    return path


def load_history(home: Home, index: Index, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
    """Return a thread's items, in order.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
    """
    path = require_path(home, index, params.thread_id, include_archived=params.include_archived)
    return history_at(home, params.thread_id, path)


def history_at(home: Home, thread_id: str, path: Path) -> StoredThreadHistory:
    """Return the items of the history of the rollout at *path*."""
    with lineage.open_history(home, path) as file:
        return StoredThreadHistory(thread_id, items_of(map(decode_line, scan.scan_lines(file))))


def read_lines(
    home: Home, index: Index, params: types.LoadThreadHistoryParams, start: int, max_bytes: int
) -> tuple[bytes, int | None]:
    """Return whole lines of a thread from offset *start* on, about *max_bytes*, and the next offset, if any.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
    """
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as file:
        file.seek(start)
        lines = b"".join(file.readlines(max_bytes))
        following = file.tell()
        more = bool(file.read(1))
    return lines, following if more else None
