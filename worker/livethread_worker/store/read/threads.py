"""Reads threads: from the index, and where it does not know one, from the rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from livethread import types
from livethread.cursor import encode_cursor, encode_relevance
from livethread.errors import InvalidRequest, ThreadNotFound
from livethread.metadata import StoredThread, StoredThreadHistory
from livethread.rollout.item import items_of
from livethread_worker.store.files.compression import open_rollout
from livethread_worker.store.files.home import Home, other_form
from livethread_worker.store.files.name_index import read_names
from livethread_worker.store.files.rollout_reader import complete_from_home, read_on
from livethread_worker.store.files.scan import scan_values
from livethread_worker.store.index import Index
from livethread_worker.store.thread_state import ThreadState


def read_thread(home: Home, index: Index, params: types.ReadThreadParams) -> StoredThread:
    """Return a thread, and its history where asked for.

    Raises:
        ThreadNotFound: no such thread, or it is archived and that was not asked for.
    """
    thread = index.read_thread(params.thread_id)
    if thread is None or thread.rollout_path is None or not thread.rollout_path.exists():
        thread = read_rollout(home, home.require_rollout(params.thread_id), params.thread_id)
    if thread.archived_at is not None and not params.include_archived:
        raise ThreadNotFound(params.thread_id, "it is archived")
    return _with_history(thread) if params.include_history else thread


def read_thread_by_rollout_path(
    home: Home, index: Index, params: types.ReadThreadByRolloutPathParams
) -> StoredThread:
    """Return the thread whose rollout this is.

    Raises:
        InvalidRequest: the path leads out of the home, or is no rollout's.
        ThreadNotFound: there is no such file, or it is archived and that was not asked for.
    """
    named = home.resolve(params.rollout_path)
    thread_id = home.thread_of(named)
    if thread_id is None:
        raise InvalidRequest(f"{named.name!r} is not the name of a rollout")
    path = _as_it_stands(named)
    if path is None:
        raise ThreadNotFound(thread_id, f"there is no {params.rollout_path}")
    if home.is_archived(path) and not params.include_archived:
        raise ThreadNotFound(thread_id, "it is archived")
    thread = index.read_thread(thread_id)
    if thread is None or thread.rollout_path != path:
        thread = read_rollout(home, path, thread_id)
    return _with_history(thread) if params.include_history else thread


def load_history(home: Home, index: Index, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
    """Return a thread's items, in order.

    Raises:
        ThreadNotFound: no such thread, or it is archived and that was not asked for.
    """
    path = require_path(home, index, params.thread_id, include_archived=params.include_archived)
    return _history(params.thread_id, path)


def read_lines(
    home: Home, index: Index, params: types.LoadThreadHistoryParams, start: int, max_bytes: int
) -> tuple[list[str], int | None]:
    """Return a thread's lines from offset *start*, about *max_bytes* of them, and the next offset, if any.

    Raises:
        ThreadNotFound: no such thread, or it is archived and that was not asked for.
    """
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as file:
        file.seek(start)
        lines = file.readlines(max_bytes)
        following = file.tell()
        more = bool(file.read(1))
    return [line.decode(errors="replace") for line in lines], following if more else None


def list_threads(home: Home, index: Index, params: types.ListThreadsParams) -> types.ThreadPage:
    """Return one page of threads."""
    threads = index.list_threads(params)
    page, more = threads[: params.page_size], len(threads) > params.page_size
    return types.ThreadPage(items=tuple(page), next_cursor=encode_cursor(page[-1], params.sort_key) if more else None)


def search_threads(home: Home, index: Index, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
    """Return one page of the threads in which a text occurs, each with its best match."""
    found = index.search_threads(params)
    page, more = found.threads[: params.page_size], len(found.threads) > params.page_size
    cursor = None
    if more:
        last = page[-1][0]
        by = params.sort_key
        cursor = encode_cursor(last, by) if by else encode_relevance(found.snapshot, found.offset + len(page))
    items = tuple(types.StoredThreadSearchResult(thread=thread, snippet=snippet) for thread, snippet in page)
    return types.ThreadSearchPage(items=items, next_cursor=cursor)


@contextmanager
def open_thread(home: Home, index: Index, thread_id: str, *, include_archived: bool) -> Iterator[BinaryIO]:
    """Open a thread's rollout for reading, also where it is being moved.

    Raises:
        ThreadNotFound: no such thread, or it is archived and that was not asked for.
    """
    path = require_path(home, index, thread_id, include_archived=include_archived)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_rollout(path))
        except FileNotFoundError:
            file = stack.enter_context(open_rollout(home.require_rollout(thread_id)))
        yield file


def require_path(home: Home, index: Index, thread_id: str, *, include_archived: bool) -> Path:
    """Return the path of a thread's rollout.

    Raises:
        ThreadNotFound: no such thread, or it is archived and that was not asked for.
    """
    thread = index.read_thread(thread_id)
    path = thread.rollout_path if thread else None
    if path is None or not path.exists():  # unknown to the index, or moved since it was written
        path = home.require_rollout(thread_id)
    if home.is_archived(path) and not include_archived:
        raise ThreadNotFound(thread_id, "it is archived")
    return path


def _as_it_stands(path: Path) -> Path | None:
    """Return the path of the rollout *path*, which may have been compressed or decompressed since it was named."""
    return next((form for form in (path, other_form(path)) if form.is_file() or form.is_symlink()), None)


def read_rollout(home: Home, path: Path, thread_id: str) -> StoredThread:
    """Return what the rollout at *path* and the name index say of a thread.

    Raises:
        ThreadNotFound: the rollout has no ``session_meta`` of the thread.
    """
    state = ThreadState(thread_id, path=home.relative(path))
    with open_rollout(path) as file:
        read_on(state, file)
    complete_from_home(home, state, read_names(home))
    if state.thread is None:
        raise ThreadNotFound(thread_id, f"{path.name} has no session_meta of its own")
    return state.thread


def _with_history(thread: StoredThread) -> StoredThread:
    assert thread.rollout_path is not None
    return thread.model_copy(update={"history": _history(thread.thread_id, thread.rollout_path)})


def _history(thread_id: str, path: Path) -> StoredThreadHistory:
    with open_rollout(path) as file:
        # The items are just made: to validate them again would take as long as to parse them.
        return StoredThreadHistory.model_construct(thread_id=thread_id, items=items_of(scan_values(file)))
