"""Reads threads in the workers' home over Celery, for clients on other hosts.

Histories come in pages: no message grows with its thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from celery.exceptions import CeleryError
from kombu.exceptions import OperationalError

from livethread import types
from livethread.errors import Unavailable, Unsupported
from livethread.metadata import StoredModelContext, StoredThread, StoredThreadHistory
from livethread.model import Model, Result
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import decode_line, items_of
from livethread.rollout.model_context import ContextStart
from livethread_config import Settings, names

if TYPE_CHECKING:
    from celery import Celery


#: About how many bytes of a history one message carries.
PAGE_BYTES: Final = 1024 * 1024

#: How long to wait before asking for a result again: at first, and at most.
POLL_FIRST: Final = 0.005  # seconds
POLL_LONGEST: Final = 0.1  # seconds

AnswerT = TypeVar("AnswerT", bound=Result)


class CeleryReader:
    """The reads of a thread store, answered by a worker."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        # Celery's client blocks and is not thread-safe, so it has a thread of its own.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="livethread-reader")

    def close(self) -> None:
        """Stop the thread that talks to Celery."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return all items of a thread; they come in pages."""
        return StoredThreadHistory(params.thread_id, _items(await self._lines_from(params, 0)))

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items of the latest model context; they come in pages."""
        found = await self._read(names.CONTEXT_START_TASK, params, ContextStart)
        first: list[str] = []
        if found.start is not None:
            first, _ = await self._page(params, 0, max_bytes=1)  # the first line
        lines = await self._lines_from(params, found.start or 0)
        return StoredModelContext(params.thread_id, _items([*first, *lines]))

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

    async def _lines_from(self, params: types.LoadThreadHistoryParams, start: int) -> list[str]:
        """Return all lines of a thread from the offset *start* on."""
        lines: list[str] = []
        following: int | None = start
        while following is not None:
            page, following = await self._page(params, following, max_bytes=PAGE_BYTES)
            lines += page
        return lines

    async def _page(
        self, params: types.LoadThreadHistoryParams, start: int, *, max_bytes: int
    ) -> tuple[list[str], int | None]:
        arguments = {"params": params.model_dump(mode="json"), "start": start, "max_bytes": max_bytes}
        page = await self._ask(names.LOAD_HISTORY_TASK, params.thread_id, arguments)
        return page["lines"], page["next"]

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
        """Ask the shard of the thread in *params*; without one, the only shard.

        Raises:
            Unsupported: the deployment has several shards, and *params* name no thread.
        """
        thread_id = getattr(params, "thread_id", None)
        if thread_id is None and self._settings.shards > 1:
            raise Unsupported(f"{task} over several shards")
        return answer.model_validate(await self._ask(task, thread_id, {"params": params.model_dump(mode="json")}))

    async def _ask(self, task: str, thread_id: str | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Run *task* on a worker of the thread's shard and return its answer, or raise its error."""
        shard = names.shard_of(thread_id, self._settings.shards) if thread_id else 0
        queue = names.queue_name(self._settings.key_prefix, shard)
        limit = self._settings.flush_timeout_s
        try:
            async with asyncio.timeout(limit):
                result = await self._run(
                    lambda: self._app.send_task(
                        task, kwargs=kwargs, queue=queue, expires=limit, kwargsrepr=f"{{'thread': {thread_id!r}}}"
                    )
                )
                wait = POLL_FIRST
                while not await self._run(result.ready):
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, POLL_LONGEST)
                answer: dict[str, Any] = await self._run(lambda: result.get(disable_sync_subtasks=False))
                await self._run(result.forget)
        except TimeoutError:
            raise Unavailable(
                f"no worker answered within {limit:g} s; is one running "
                "(celery --app livethread_worker.entrypoint worker)?"
            ) from None
        except (OperationalError, CeleryError, OSError, RuntimeError) as error:
            raise Unavailable(f"asking a worker failed: {type(error).__name__}: {error}") from error
        return answer

    async def _run(self, call: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _items(lines: Iterable[str]) -> tuple[RolloutItem, ...]:
    return items_of(decode_line(line.encode(errors="surrogateescape")) for line in lines)
