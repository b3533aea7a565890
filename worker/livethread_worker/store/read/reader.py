"""`LocalReader`: every read of a home, for the store in this process and for the workers' tasks.

Before it answers, it picks up what other programs wrote into the home (see `Refresher`). While the SQLite file cannot
be used, it answers from an index in memory, which it makes from the files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from livethread import errors, types
from livethread.metadata import StoredModelContext, StoredThread, StoredThreadHistory
from livethread.position import Position
from livethread.rollout.model_context import ContextStart
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import LockBusy
from livethread_worker.store.files.name_index import NameCache
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.read.list_items import list_items
from livethread_worker.store.read.list_turns import list_turns
from livethread_worker.store.read.model_context import find_context_start, load_latest_model_context
from livethread_worker.store.read.prepare_fork import prepare_fork
from livethread_worker.store.read.read_thread import find_thread_by_name, read_thread, read_thread_by_rollout_path
from livethread_worker.store.read.search_occurrences import search_occurrences
from livethread_worker.store.read.thread_file import load_history, read_lines
from livethread_worker.store.upkeep.refresh import Refresher

logger = logging.getLogger(__name__)

#: How long reads do without the SQLite file after it failed.
INDEX_RETRY_INTERVAL: Final = 10.0  # seconds

T = TypeVar("T")


@contextmanager
def as_unavailable() -> Iterator[None]:
    """Raise `Unavailable` in place of errors that may pass: a client may not have the worker's classes."""
    try:
        yield
    except IndexUnavailable as error:
        raise errors.Unavailable(
            f"{error}; try again, or delete the index: it is rebuilt from the rollouts"
        ) from error
    except (OSError, LockBusy) as error:
        raise errors.Unavailable(f"the home cannot be used: {error}") from error


class LocalReader:
    """The reads of one home. Not thread-safe: one thread at a time uses it.

    *open_index* returns the open index and makes sure that the index learns of every rollout.

    Reads raise the errors of the contract, and `Unavailable` if the files cannot be read.
    """

    def __init__(self, home: Home, open_index: Callable[[], Index]) -> None:
        self._home = home
        self._open_index = open_index
        self._refresher: Refresher | None = None
        #: Keeps the index in memory up to date, while the SQLite file cannot be used.
        self._fallback: Refresher | None = None
        self._sqlite_not_before = 0.0
        self._names = NameCache(home)

    def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return all items of a thread."""
        return self._read_of(params.thread_id, lambda index: load_history(self._home, index, params))

    def read_lines(
        self, params: types.LoadThreadHistoryParams, start: int, max_bytes: int
    ) -> tuple[bytes, int | None, Position]:
        """Return one page of a thread's raw lines, where the next one starts, if any, and the position that it shows."""
        return self._read_of(params.thread_id, lambda index: read_lines(self._home, index, params, start, max_bytes))

    def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items of a thread's latest model context."""
        return self._read_of(params.thread_id, lambda index: load_latest_model_context(self._home, index, params))

    def context_start(self, params: types.LoadThreadHistoryParams) -> ContextStart:
        """Return where a thread's latest model context starts."""
        return self._read_of(params.thread_id, lambda index: find_context_start(self._home, index, params))

    def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread with a name."""
        return self._read_all(params, lambda index: find_thread_by_name(self._home, index, self._names, params))

    def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return a thread's metadata, and its history if *params* include it."""
        return self._read_of(params.thread_id, lambda index: read_thread(self._home, index, params))

    def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread of the rollout at a path."""
        thread_id = self._home.thread_of(Path(params.rollout_path))
        return self._read(
            lambda refresher: refresher.refresh(thread_id) if thread_id else None,  # refused: it names no thread
            lambda index: read_thread_by_rollout_path(self._home, index, params),
        )

    def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of the occurrences of a term in a thread's messages."""
        return self._read_of(params.thread_id, lambda index: search_occurrences(self._home, index, params))

    def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of a thread's turns."""
        return self._read_of(params.thread_id, lambda index: list_turns(self._home, index, params))

    def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of a thread's items."""
        return self._read_of(params.thread_id, lambda index: list_items(self._home, index, params))

    def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of a thread begins with."""
        return self._read_of(params.thread_id, lambda index: prepare_fork(self._home, index, params))

    def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of the listing; if *params* say so, from the SQLite file as it is."""
        if params.use_state_db_only:
            with as_unavailable():
                return self._open_index().list_threads(params)
        return self._read_all(params, lambda index: index.list_threads(params))

    def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads that contain a text."""
        return self._read_all(params, lambda index: index.search_threads(params))

    def epoch(self, thread_id: str) -> int | None:
        """Return a thread's newest epoch; None if no SQLite file can tell."""
        return self._read_of(thread_id, lambda index: None if index.in_memory else index.epoch(thread_id))

    def fresh_index(self, thread_id: str) -> Index:
        """Return the index, in which the thread is as its rollout has it.

        Raises:
            IndexUnavailable: the index cannot be used now.
        """
        refresher = self._refresher_of(self._open_index())
        refresher.refresh(thread_id)
        return refresher.index

    def _read_of(self, thread_id: str, answer: Callable[[Index], T]) -> T:
        """Return *answer* after refreshing the thread.

        Raises:
            ThreadNotFound: it has no rollout.
        """

        def refresh(refresher: Refresher) -> None:
            if refresher.refresh(thread_id) is None:
                raise errors.ThreadNotFound(thread_id, f"{self._home.root} holds no rollout of it")

        return self._read(refresh, answer)

    def _read_all(self, params: types.Freshness, answer: Callable[[Index], T]) -> T:
        """Return *answer* after refreshing all threads."""
        return self._read(lambda refresher: refresher.refresh_all(fresh=params.fresh), answer)

    def _read(self, refresh: Callable[[Refresher], object], answer: Callable[[Index], T]) -> T:
        """Return *answer*, given the index after *refresh*."""
        with as_unavailable():
            if time.monotonic() >= self._sqlite_not_before:
                try:
                    refresher = self._refresher_of(self._open_index())
                    refresh(refresher)
                    return answer(refresher.index)
                except (IndexUnavailable, errors.Unavailable) as error:
                    logger.warning("reading without the index: %s", error, extra={"action": "open_index"})
                    self._sqlite_not_before = time.monotonic() + INDEX_RETRY_INTERVAL
            if self._fallback is None:
                self._fallback = Refresher(self._home, Index(self._home, in_memory=True))
            refresh(self._fallback)
            return answer(self._fallback.index)

    def _refresher_of(self, index: Index) -> Refresher:
        if self._refresher is None or self._refresher.index is not index:
            self._refresher = Refresher(self._home, index)
        return self._refresher

    def close(self) -> None:
        """Close the index in memory, if there is one; the opener closes the other."""
        if self._fallback is not None:
            self._fallback.index.close()
            self._fallback = None
