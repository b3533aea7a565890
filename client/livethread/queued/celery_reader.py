"""Reads threads in the workers' home, over Celery: for clients on other hosts.

Histories come in pages, so that no message grows with the thread.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import CeleryError
from kombu.exceptions import OperationalError

from livethread import types
from livethread.errors import Unavailable, Unsupported
from livethread.metadata import StoredThread, StoredThreadHistory
from livethread.model import Model
from livethread.rollout.item import decode_line, items_of
from livethread_config import Settings, names

if TYPE_CHECKING:
    from celery import Celery


#: Bytes of a history that one message carries, about.
PAGE_BYTES: Final = 1024 * 1024

#: How often a result is asked for: at first, and at the longest.
POLL_FIRST: Final = 0.005  # seconds
POLL_LONGEST: Final = 0.1  # seconds


class CeleryReader:
    """The reads of a thread store, answered by a worker."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        # Celery's client is not safe for several threads at once, and blocks: it gets one of its own.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="livethread-reader")

    def close(self) -> None:
        """End the thread that talks to Celery."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Read a thread's items, page by page."""
        lines: list[str] = []
        start: int | None = 0
        while start is not None:
            arguments = {"params": params.model_dump(mode="json"), "start": start, "max_bytes": PAGE_BYTES}
            page = await self._ask(names.LOAD_HISTORY_TASK, params.thread_id, arguments)
            lines += page["lines"]
            start = page["next"]
        items = items_of(decode_line(line.encode()) for line in lines)
        return StoredThreadHistory.model_construct(thread_id=params.thread_id, items=items)

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Read a thread's metadata, and its history where asked for."""
        return await self._with_history(names.READ_THREAD_TASK, params.thread_id, params)

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Read the thread whose rollout this is."""
        return await self._with_history(names.READ_THREAD_BY_ROLLOUT_PATH_TASK, None, params)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Read one page of the listing."""
        return types.ThreadPage.model_validate(await self._ask_for(names.LIST_THREADS_TASK, None, params))

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Read one page of what a search finds."""
        return types.ThreadSearchPage.model_validate(await self._ask_for(names.SEARCH_THREADS_TASK, None, params))

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Read one page of a thread's turns."""
        return types.TurnPage.model_validate(await self._ask_for(names.LIST_TURNS_TASK, params.thread_id, params))

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Read one page of a thread's items."""
        return types.ItemPage.model_validate(await self._ask_for(names.LIST_ITEMS_TASK, params.thread_id, params))

    async def _with_history(
        self, task: str, thread_id: str | None, params: types.ReadThreadParams | types.ReadThreadByRolloutPathParams
    ) -> StoredThread:
        """Read a thread; its history comes in pages."""
        alone = params.model_copy(update={"include_history": False})
        thread = StoredThread.model_validate(await self._ask_for(task, thread_id, alone))
        if not params.include_history:
            return thread
        request = types.LoadThreadHistoryParams(thread_id=thread.thread_id, include_archived=params.include_archived)
        return thread.model_copy(update={"history": await self.load_history(request)})

    async def _ask_for(self, task: str, thread_id: str | None, params: Model) -> dict[str, Any]:
        """Ask the shard of *thread_id*; for what is of no thread, the only shard.

        Raises:
            Unsupported: the deployment has several shards, and the read is of no thread.
        """
        if thread_id is None and self._settings.shards > 1:
            raise Unsupported(f"{task} over several shards")
        return await self._ask(task, thread_id, {"params": params.model_dump(mode="json")})

    async def _ask(self, task: str, thread_id: str | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Have a worker of the thread's shard run *task* and return its answer; its errors are raised here."""
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
