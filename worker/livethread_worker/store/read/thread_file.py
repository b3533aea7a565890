"""A thread's rollout, wherever it is now: opened, as items, or as raw lines in pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from livethread import types
from livethread.errors import ThreadNotFound
from livethread.metadata import StoredThreadHistory
from livethread.position import START, Position
from livethread.rollout.lines import decode_line, items_of
from livethread_worker.store.files import Home, lineage, scan
from livethread_worker.store.index import Index
from livethread_worker.store.rollout_paths import require_rollout


class Located(NamedTuple):
    """Where a thread's rollout is."""

    path: Path
    #: It holds everything up to this position, as far as the index knows.
    position: Position


@contextmanager
def open_thread(
    home: Home, index: Index, thread_id: str, *, include_archived: bool
) -> Iterator[tuple[BinaryIO, Position]]:
    """Open a thread's history for reading, even while another process moves its rollouts; also say its position.

    Raises:
        ThreadNotFound: no such thread, or it is archived and *include_archived* is false.
        InvalidRequest: a rollout that it continues is missing.
    """
    path, position = locate_thread(home, index, thread_id, include_archived=include_archived)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(lineage.open_history(home, path))
        except FileNotFoundError:
            file = stack.enter_context(lineage.open_history(home, require_rollout(home, index, thread_id)))
        yield file, position


def locate_thread(home: Home, index: Index, thread_id: str, *, include_archived: bool) -> Located:
    """Return where a thread's rollout is.

    Raises:
        ThreadNotFound: no such thread, or it is archived and *include_archived* is false.
    """
    thread = index.read_thread(thread_id)
    path = thread.rollout_path if thread else None
    if path is None or not path.exists():  # unknown to the index, or moved since
        path = require_rollout(home, index, thread_id)
    if home.is_archived(path) and not include_archived:
        raise ThreadNotFound.of_archived(thread_id)
    return Located(path, thread.position if thread else START)


def load_history(home: Home, index: Index, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
    """Return a thread's items, in order.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
    """
    located = locate_thread(home, index, params.thread_id, include_archived=params.include_archived)
    return history_at(home, params.thread_id, located)


def history_at(home: Home, thread_id: str, located: Located) -> StoredThreadHistory:
    """Return the items of the history of the *located* rollout."""
    with lineage.open_history(home, located.path) as file:
        return StoredThreadHistory(thread_id, items_of(map(decode_line, scan.scan_lines(file))), located.position)


def read_lines(
    home: Home, index: Index, params: types.LoadThreadHistoryParams, start: int, max_bytes: int
) -> tuple[bytes, int | None, Position]:
    """Return whole lines of a thread from offset *start* on, about *max_bytes*, and the next offset, if any.

    Also return a position: if there is no next offset, the lines up to here show everything up to it.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
    """
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as opened:
        file, position = opened
        file.seek(start)
        lines = b"".join(file.readlines(max_bytes))
        following = file.tell()
        more = bool(file.read(1))
    return lines, following if more else None, position
