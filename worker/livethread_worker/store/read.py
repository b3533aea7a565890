"""Reads threads: from the index, and where it does not know one, from the rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livethread.cursor import encode_cursor
from livethread.errors import ThreadNotFound
from livethread.metadata import StoredThread, StoredThreadHistory
from livethread.rollout_item import items_of
from livethread.types import ThreadPage
from livethread_worker.store.rollout.scan import scan_records
from livethread_worker.store.state import ThreadState, complete_from_home, read_on

if TYPE_CHECKING:
    from pathlib import Path

    from livethread.rollout_item import RolloutItem
    from livethread.types import ListThreadsParams, LoadThreadHistoryParams, ReadThreadParams
    from livethread_worker.store.home import Home
    from livethread_worker.store.index import Index


def read_thread(home: Home, index: Index, params: ReadThreadParams) -> StoredThread:
    """Return a thread, and its history where asked for.

    Raises:
        ThreadNotFound: no such thread, or it is archived and that was not asked for.
    """
    thread = index.read_thread(params.thread_id) or read_from_rollout(home, params.thread_id)
    if thread.archived_at is not None and not params.include_archived:
        raise ThreadNotFound(params.thread_id, "it is archived")
    if not params.include_history:
        return thread
    assert thread.rollout_path is not None
    history = StoredThreadHistory(thread_id=params.thread_id, items=_items(thread.rollout_path))
    return thread.model_copy(update={"history": history})


def load_history(home: Home, index: Index, params: LoadThreadHistoryParams) -> StoredThreadHistory:
    """Return a thread's items, in order.

    Raises:
        ThreadNotFound: no such thread, or it is archived and that was not asked for.
    """
    return StoredThreadHistory(thread_id=params.thread_id, items=_items(_rollout(home, index, params)))


def read_lines(
    home: Home, index: Index, params: LoadThreadHistoryParams, start: int, max_bytes: int
) -> tuple[list[str], int | None]:
    """Return a thread's lines from offset *start*, about *max_bytes* of them, and the next offset, if any.

    Raises:
        ThreadNotFound: no such thread, or it is archived and that was not asked for.
    """
    with _rollout(home, index, params).open("rb") as file:
        file.seek(start)
        lines = file.readlines(max_bytes)
        following = file.tell()
        more = bool(file.read(1))
    return [line.decode(errors="replace") for line in lines], following if more else None


def list_threads(index: Index, params: ListThreadsParams) -> ThreadPage:
    """Return one page of threads."""
    threads = index.list_threads(params)
    page, more = threads[: params.page_size], len(threads) > params.page_size
    return ThreadPage(items=tuple(page), next_cursor=encode_cursor(page[-1], params.sort_key) if more else None)


def read_from_rollout(home: Home, thread_id: str) -> StoredThread:
    """Return what a rollout and the name index say of a thread.

    Raises:
        ThreadNotFound: there is no rollout of it, or it has no ``session_meta`` of its own.
    """
    path = home.require_rollout(thread_id)
    state = ThreadState(thread_id, path=home.relative(path))
    with path.open("rb") as file:
        read_on(state, file)
    complete_from_home(home, state)
    if state.thread is None:
        raise ThreadNotFound(thread_id, f"{path.name} has no session_meta of its own")
    return state.thread


def _rollout(home: Home, index: Index, params: LoadThreadHistoryParams) -> Path:
    thread = index.read_thread(params.thread_id)
    path = thread.rollout_path if thread else None
    if path is None or not path.exists():  # unknown to the index, or moved since it was written
        path = home.require_rollout(params.thread_id)
    if home.is_archived(path) and not params.include_archived:
        raise ThreadNotFound(params.thread_id, "it is archived")
    return path


def _items(path: Path) -> tuple[RolloutItem, ...]:
    with path.open("rb") as file:
        return items_of(record.value for record in scan_records(file))
