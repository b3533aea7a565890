"""Finds and opens the rollout of a thread, wherever it lies now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from livethread.errors import ThreadNotFound
from livethread_worker.store.files import Home, compression
from livethread_worker.store.index import Index


@contextmanager
def open_thread(home: Home, index: Index, thread_id: str, *, include_archived: bool) -> Iterator[BinaryIO]:
    """Open a thread's rollout for reading, also while another process moves it.

    Raises:
        ThreadNotFound: no such thread, or it is archived and *include_archived* is false.
    """
    path = require_path(home, index, thread_id, include_archived=include_archived)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(compression.open_rollout(path))
        except FileNotFoundError:
            file = stack.enter_context(compression.open_rollout(home.require_rollout(thread_id)))
        yield file


def require_path(home: Home, index: Index, thread_id: str, *, include_archived: bool) -> Path:
    """Return the path of a thread's rollout.

    Raises:
        ThreadNotFound: no such thread, or it is archived and *include_archived* is false.
    """
    thread = index.read_thread(thread_id)
    path = thread.rollout_path if thread else None
    if path is None or not path.exists():  # unknown to the index, or moved since
        path = home.require_rollout(thread_id)
    if home.is_archived(path) and not include_archived:
        raise ThreadNotFound(thread_id, "it is archived")
    return path
