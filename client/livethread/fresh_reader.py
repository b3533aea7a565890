"""Reads that are as fresh as their parameters demand: it waits for workers, then reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from livethread import types
from livethread.changes import Changes
from livethread.metadata import StoredModelContext, StoredThread, StoredThreadHistory
from livethread.model import Result
from livethread.opener import Opener, checking
from livethread.position import Position, position_key, require_position
from livethread.store import ThreadReader
from livethread.thread_id import thread_of_rollout_name
from livethread.watching import watch

#: Waits until workers have applied what a read of a thread must show, and returns a position up to which they have.
CatchUp = Callable[[str, types.ThreadFreshness], Awaitable[Position]]

ParamsT = TypeVar("ParamsT", bound=types.ThreadFreshness)
AllParamsT = TypeVar("AllParamsT", bound=types.Freshness)
ResultT = TypeVar("ResultT")
ShownT = TypeVar(
    "ShownT",
    StoredThread,
    StoredThreadHistory,
    StoredModelContext,
    types.OccurrencePage,
    types.TurnPage,
    types.ItemPage,
)


@checking(Opener.require_loop)
class FreshReader:
    """The reads of *reader*, each after workers have caught up.

    Raises `Conflict` if a thread has no position ``at_least``, `ThreadParked` if a task that must show cannot be applied, and
    `Unavailable` if it was not applied in time; the error names the cause.
    """

    def __init__(
        self,
        opener: Opener,
        reader: ThreadReader,
        changes: Changes,
        catch_up: CatchUp,
        catch_up_with_all: Callable[[], Awaitable[None]],
    ) -> None:
        self._opener = opener
        self._reader = reader
        self._changes = changes
        self._catch_up = catch_up
        self._catch_up_with_all = catch_up_with_all

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return a thread's items."""
        return await self._read(params.thread_id, params, self._reader.load_history)

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items of a thread's latest model context."""
        return await self._read(params.thread_id, params, self._reader.load_latest_model_context)

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return a thread's metadata, and its history if *params* include it."""
        return await self._read(params.thread_id, params, self._reader.read_thread)

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread of the rollout at a path."""
        thread_id = thread_of_rollout_name(params.rollout_path)
        if thread_id is None:
            return await self._reader.read_thread_by_rollout_path(params)  # which refuses the path
        return await self._read(thread_id, params, self._reader.read_thread_by_rollout_path)

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of the places where a thread's messages hold a term."""
        return await self._read(params.thread_id, params, self._reader.search_occurrences)

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of a thread's turns."""
        return await self._read(params.thread_id, params, self._reader.list_turns)

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of a thread's items."""
        return await self._read(params.thread_id, params, self._reader.list_items)

    def watch_thread(self, params: types.WatchThreadParams) -> AsyncGenerator[types.ThreadItem]:
        """Follow a thread. Only the first read waits for tasks; later ones show what is committed."""
        self._opener.require_loop()
        return watch(self._changes, params, self.list_items, self._reader.list_items)

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of a thread begins with."""
        return await self._reader.prepare_fork(params)

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread of a name."""
        return await self._read_all(params, self._reader.find_thread_by_name)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of the listing."""
        return await self._read_all(params, self._reader.list_threads)

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads that contain a text."""
        return await self._read_all(params, self._reader.search_threads)

    async def _read(self, thread_id: str, params: ParamsT, read: Callable[[ParamsT], Awaitable[ShownT]]) -> ShownT:
        """Return what *read* shows once the thread has caught up."""
        applied = await self._catch_up(thread_id, params)
        result = shown_from(await read(params.without_demand()), applied)
        require_position(thread_id, result.position, params.at_least)
        return result

    async def _read_all(self, params: AllParamsT, read: Callable[[AllParamsT], Awaitable[ResultT]]) -> ResultT:
        """Return what *read* shows; if it must be fresh, once all threads have caught up."""
        if params.fresh:
            await self._catch_up_with_all()
        return await read(params)


def shown_from(result: ShownT, applied: Position) -> ShownT:
    """Return *result*, which was read when everything up to *applied* was applied, with a position at least as late."""
    if position_key(applied) <= position_key(result.position):
        return result
    if not isinstance(result, Result):
        return replace(result, position=applied)
    changes: dict[str, object] = {"position": applied}
    if isinstance(result, StoredThread) and result.history is not None:
        changes["history"] = shown_from(result.history, applied)
    return result.model_copy(update=changes)
