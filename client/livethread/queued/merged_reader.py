"""Reads the threads of all homes of a deployment, from any host, with a home or without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from livethread import types
from livethread.errors import InvalidRequest
from livethread.metadata import StoredModelContext, StoredThread, StoredThreadHistory
from livethread.queued.homes import Home, Homes
from livethread.store import ThreadReader
from livethread.thread_id import thread_of_rollout_name
from livethread_config.deployment import Deployment, HomeIdentity


class MergedReader:
    """The reads of a thread store: of one thread in the home of its shard, of all threads in all homes.

    *deployment* returns the deployment as this process knows it, and *refreshed* after reading the record again: if a shard
    has no home yet, it may have one by now, with threads that this process flushed. *remote* returns the reader that asks
    the workers of a shard; *local* reads the home *local_home* in this process. As long as the deployment has one home,
    each read is one call of its reader; with *prefers_local*, of *local*, whichever home that is.
    """

    def __init__(
        self,
        deployment: Callable[[], Deployment],
        refreshed: Callable[[], Awaitable[Deployment]],
        remote: Callable[[int], ThreadReader],
        *,
        local: ThreadReader | None = None,
        local_home: Callable[[], HomeIdentity | None] = lambda: None,
        prefers_local: bool = False,
    ) -> None:
        self._deployment = deployment
        self._refreshed = refreshed
        self._remote = remote
        self._local = local
        self._local_home = local_home
        self._prefers_local = prefers_local

    # -- one thread ----------------------------------------------------------------------------------------

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return all items of a thread."""
        return await (await self._reader_of(params.thread_id)).load_history(params)

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items of a thread's latest model context."""
        return await (await self._reader_of(params.thread_id)).load_latest_model_context(params)

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return a thread's metadata, and its history if *params* include it."""
        return await (await self._reader_of(params.thread_id)).read_thread(params)

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread of the rollout at a path in its home: the path's name says which thread it is."""
        thread_id = thread_of_rollout_name(params.rollout_path)
        if thread_id is None:
            raise InvalidRequest(f"{params.rollout_path[-200:]!r} is not the name of a rollout")
        return await (await self._reader_of(thread_id)).read_thread_by_rollout_path(params)

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of the places where a thread's messages hold a term."""
        return await (await self._reader_of(params.thread_id)).search_occurrences(params)

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of a thread's turns."""
        return await (await self._reader_of(params.thread_id)).list_turns(params)

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of a thread's items."""
        return await (await self._reader_of(params.thread_id)).list_items(params)

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of a thread begins with."""
        return await (await self._reader_of(params.thread_id)).prepare_fork(params)

    # -- all threads ---------------------------------------------------------------------------------------

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread of a name."""
        return await (await self._reader()).find_thread_by_name(params)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of the listing."""
        return await (await self._reader()).list_threads(params)

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads that contain a text."""
        return await (await self._reader()).search_threads(params)

    # -- inside --------------------------------------------------------------------------------------------

    async def _reader(self) -> ThreadReader | Homes:
        """Return what reads all threads: the reader of the only home, or all homes."""
        deployment = await self._serving(self._deployment().shards)
        served = _served(deployment)
        if len(served) <= 1:
            return self._only(served)
        homes = [Home(home, tuple(shards), self._reader_in(home, shards)) for home, shards in served.items()]
        return Homes(deployment, homes)

    async def _reader_of(self, thread_id: str) -> ThreadReader:
        """Return the reader of the thread's home, or, if no home serves its shard yet, one that asks the shard.

        A home of this process that serves no shard may be the one: it has not come back since Redis lost the record.
        """
        deployment = await self._serving([self._deployment().shard_of(thread_id)])
        served, shard = _served(deployment), deployment.shard_of(thread_id)
        home = deployment.home_of.get(shard)
        if self._local is not None and self._prefers_local and len(served) <= 1:
            return self._local
        if home is not None:
            return self._reader_in(home, served[home])
        mine = self._local_home()
        if self._local is not None and (not served or (mine is not None and mine not in served)):
            return self._local
        return self._remote(shard)

    async def _serving(self, shards: Iterable[int]) -> Deployment:
        """Return the deployment, with the homes of *shards* if there are any."""
        deployment = self._deployment()
        is_served = all(shard in deployment.home_of for shard in shards)
        return deployment if is_served else await self._refreshed()

    def _only(self, served: dict[HomeIdentity, list[int]]) -> ThreadReader:
        if self._local is not None and (self._prefers_local or not served):
            return self._local
        return next((self._reader_in(home, shards) for home, shards in served.items()), None) or self._remote(0)

    def _reader_in(self, home: HomeIdentity, shards: list[int]) -> ThreadReader:
        if self._local is not None and home == self._local_home():
            return self._local
        return self._remote(shards[0])


def _served(deployment: Deployment) -> dict[HomeIdentity, list[int]]:
    """Return the shards of each home, in order."""
    served: dict[HomeIdentity, list[int]] = {}
    for shard, home in sorted(deployment.home_of.items()):
        served.setdefault(home, []).append(shard)
    return served
