"""A thread's whole history: as items, or as raw lines in pages that fit a message."""

from __future__ import annotations

from pathlib import Path

from livethread import types
from livethread.metadata import StoredThreadHistory
from livethread.rollout.lines import decode_line, items_of
from livethread_worker.store.files import Home, compression, scan
from livethread_worker.store.index import Index
from livethread_worker.store.read.thread_file import open_thread, require_path


def load_history(home: Home, index: Index, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
    """Return a thread's items, in order.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
    """
    path = require_path(home, index, params.thread_id, include_archived=params.include_archived)
    return history_at(params.thread_id, path)


def history_at(thread_id: str, path: Path) -> StoredThreadHistory:
    """Return the items of the rollout at *path*."""
    with compression.open_rollout(path) as file:
        return StoredThreadHistory(thread_id, items_of(map(decode_line, scan.scan_lines(file))))


def read_lines(
    home: Home, index: Index, params: types.LoadThreadHistoryParams, start: int, max_bytes: int
) -> tuple[list[str], int | None]:
    """Return about *max_bytes* of a thread's lines from offset *start* on, and the next offset, if any.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
    """
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as file:
        file.seek(start)
        lines = file.readlines(max_bytes)
        following = file.tell()
        more = bool(file.read(1))
    # A bad line stays one: bytes that are not UTF-8 must not become replacement characters on the way.
    return [line.decode(errors="surrogateescape") for line in lines], following if more else None
