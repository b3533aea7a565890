"""Reads threads in the workers' home over Celery, for clients on other hosts.

Histories come in pages: no message grows with its thread.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.asyncio import Redis

from livethread import types
from livethread.metadata import StoredModelContext, StoredThread, StoredThreadHistory
from livethread.model import Model, Result
from livethread.position import START, Position
from livethread.queued.deployment import DeploymentWatch
from livethread.queued.read_requests import ReadAnswer, ReadRequests
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import decode_line, items_of
from livethread.rollout.model_context import ContextStart
from livethread_config import Settings, names

if TYPE_CHECKING:
    from celery import Celery


#: About how many bytes of a history one answer holds.
PAGE_BYTES: Final = 1024 * 1024

AnswerT = TypeVar("AnswerT", bound=Result)


class CeleryReader:
    """The reads of one home, answered by its workers. A read that names no thread goes to the workers of *shard*."""

    def __init__(
        self, app: Celery, redis: Redis, settings: Settings, deployment: DeploymentWatch, shard: int = 0
    ) -> None:
        self._requests = ReadRequests(app, redis, settings, deployment, shard)

    async def aclose(self) -> None:
        """Stop asking."""
        await self._requests.aclose()

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return all items of a thread; they come in pages."""
        return StoredThreadHistory(params.thread_id, *await self._items_from(params, 0))

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items of the latest model context; they come in pages."""
        found = await self._read(names.CONTEXT_START_TASK, params, ContextStart)
        first: tuple[RolloutItem, ...] = ()
        if found.start is not None:
            first = _items(await self._page(params, 0, max_bytes=1))  # the first line
        others, position = await self._items_from(params, found.start or 0)
        return StoredModelContext(params.thread_id, first + others, position)

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread of a name."""
        return await self._read(names.FIND_THREAD_BY_NAME_TASK, params, StoredThread)

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return a thread's metadata, and its history if *params* include it."""
        return await self._read_thread(names.READ_THREAD_TASK, params)

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread of the rollout at a path."""
        return await self._read_thread(names.READ_THREAD_BY_ROLLOUT_PATH_TASK, params)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of the listing."""
        return await self._read(names.LIST_THREADS_TASK, params, types.ThreadPage)

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads that contain a text."""
        return await self._read(names.SEARCH_THREADS_TASK, params, types.ThreadSearchPage)

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of the places where a thread's messages hold a term."""
        return await self._read(names.SEARCH_OCCURRENCES_TASK, params, types.OccurrencePage)

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of a thread's turns."""
        return await self._read(names.LIST_TURNS_TASK, params, types.TurnPage)

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of a thread's items."""
        return await self._read(names.LIST_ITEMS_TASK, params, types.ItemPage)

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of a thread begins with."""
        return await self._read(names.PREPARE_FORK_TASK, params, types.PreparedFork)

    async def _items_from(
        self, params: types.LoadThreadHistoryParams, start: int
    ) -> tuple[tuple[RolloutItem, ...], Position]:
        """Return all items of a thread from the offset *start* on, and the position that they show."""
        items: list[RolloutItem] = []
        following: int | None = start
        position = START
        while following is not None:
            page = await self._page(params, following, max_bytes=PAGE_BYTES)
            items += _items(page)
            following, position = page.next, page.position
        return tuple(items), position

    async def _page(self, params: types.LoadThreadHistoryParams, start: int, *, max_bytes: int) -> ReadAnswer:
        arguments = {"params": _sent(params), "start": start, "max_bytes": max_bytes}
        return await self._requests.ask(names.LOAD_HISTORY_TASK, params.thread_id, arguments)

    async def _read_thread(
        self, task: str, params: types.ReadThreadParams | types.ReadThreadByRolloutPathParams
    ) -> StoredThread:
        """Return a thread; its history comes in pages."""
        thread = await self._read(task, params.model_copy(update={"include_history": False}), StoredThread)
        if not params.include_history:
            return thread
        request = types.LoadThreadHistoryParams(thread_id=thread.thread_id, include_archived=params.include_archived)
        return thread.model_copy(update={"history": await self.load_history(request)})

    async def _read(self, task: str, params: Model, answer: type[AnswerT]) -> AnswerT:
        found = await self._requests.ask(task, getattr(params, "thread_id", None), {"params": _sent(params)})
        return answer.model_validate(json.loads(found.body))


def _sent(params: Model) -> dict[str, Any]:
    """Return *params* as workers take them: the client itself waits until a thread has the position.

    Defaults are left out: a worker of an older release refuses parameters that it does not know.
    """
    return params.model_dump(mode="json", exclude={"at_least"}, exclude_defaults=True)


def _items(page: ReadAnswer) -> tuple[RolloutItem, ...]:
    return items_of(map(decode_line, page.body.split(b"\n")))
