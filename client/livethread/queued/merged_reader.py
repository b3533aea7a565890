"""Reads all threads of a deployment with several homes, from any host, with a home or without one.

A read of one thread goes to the home of its shard. Listings and searches ask all homes at once and merge what they find.
A thread of which other homes have copies counts once, as the home of its shard has it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, Protocol, TypeVar

from livethread import types
from livethread.cursor import decode_places, decode_turns, encode_turns
from livethread.errors import (
    HomesUnavailable,
    InvalidRequest,
    SilentHome,
    ThreadNotFound,
    Unavailable,
)
from livethread.metadata import StoredModelContext, StoredThread, StoredThreadHistory
from livethread.model import format_time
from livethread.queued.merged_pages import Found, Merge
from livethread.store import ThreadReader
from livethread.thread_id import thread_of_rollout_name

#: Threads of a page when all of a thread's descendants are read.
MANY: Final = 1000

ParamsT = TypeVar("ParamsT", types.ListThreadsParams, types.SearchThreadsParams)
T = TypeVar("T")


class Home(Protocol):
    """A home that serves at least one shard."""

    @property
    def home_id(self) -> str:
        """Identifies it."""
        ...

    @property
    def host(self) -> str:
        """Where its workers run."""
        ...

    @property
    def shards(self) -> Sequence[int]:
        """The shards that it serves."""
        ...


class Deployment(Protocol):
    """What a deployment knows of itself."""

    def shard_of(self, thread_id: str) -> int:
        """Return the thread's shard."""
        ...

    def homes(self) -> Sequence[Home]:
        """Return the homes that serve shards now."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    home: Home
    reader: ThreadReader

    @property
    def id(self) -> str:
        return self.home.home_id


class MergedReader:
    """The reads of a thread store, over all homes of *deployment*.

    *remote* returns the reader that asks the workers of a shard; *local* reads the home with the id *local_home*, in this
    process. As long as the deployment has one home, each read is one call of its reader.
    """

    def __init__(
        self,
        deployment: Deployment,
        remote: Callable[[int], ThreadReader],
        *,
        local: ThreadReader | None = None,
        local_home: str | None = None,
    ) -> None:
        self._deployment = deployment
        self._remote = remote
        self._local = local
        self._local_home = local_home

    # -- one thread ----------------------------------------------------------------------------------------

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return all items of a thread."""
        return await self._reader_of(params.thread_id).load_history(params)

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items of a thread's latest model context."""
        return await self._reader_of(params.thread_id).load_latest_model_context(params)

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return a thread's metadata, and its history if *params* include it."""
        return await self._reader_of(params.thread_id).read_thread(params)

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread of the rollout at a path in its home: the path's name says which thread it is."""
        thread_id = thread_of_rollout_name(params.rollout_path)
        if thread_id is None:
            raise InvalidRequest(f"{params.rollout_path[-200:]!r} is not the name of a rollout")
        return await self._reader_of(thread_id).read_thread_by_rollout_path(params)

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of the places where a thread's messages hold a term."""
        return await self._reader_of(params.thread_id).search_occurrences(params)

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of a thread's turns."""
        return await self._reader_of(params.thread_id).list_turns(params)

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of a thread's items."""
        return await self._reader_of(params.thread_id).list_items(params)

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of a thread begins with."""
        return await self._reader_of(params.thread_id).prepare_fork(params)

    # -- all threads ---------------------------------------------------------------------------------------

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread that got the name last, by the time at which its caller named it.

        Raises:
            ThreadNotFound: no thread has this name.
            HomesUnavailable: some homes did not answer.
        """
        asked = self._asked()
        if not asked:
            return await self._only.find_thread_by_name(params)

        async def find(each: _Asked) -> StoredThread | None:
            with suppress(ThreadNotFound):
                thread = await each.reader.find_thread_by_name(params)
                return thread if self._is_own(thread, each) else None
            return None

        answers, _ = await self._ask(asked, find, allow_partial=False)
        found = [thread for thread in answers.values() if thread is not None]
        if not found:
            raise ThreadNotFound(params.name, "no thread has this name")
        return max(found, key=_last_named)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of all homes' threads.

        Raises:
            HomesUnavailable: some homes did not answer, and *params* do not allow a partial page, or no home answered.
        """
        asked = self._asked()
        if not asked:
            return await self._only.list_threads(params)
        relation = params.relation_filter
        if relation is not None and relation.kind is types.RelationKind.DESCENDANTS:
            update = {"relation_filter": await self._with_descendants(asked, relation), "allow_partial": False}
            params = params.model_copy(update=update)
        return await self._merged_listing(asked, params)

    async def _merged_listing(self, asked: Sequence[_Asked], params: types.ListThreadsParams) -> types.ThreadPage:
        merge = Merge(
            params.sort_key,
            params.sort_direction is types.SortDirection.DESC,
            params.page_size,
            decode_places(params.cursor, params.sort_key),
            self._deployment.shard_of,
        )

        async def read(each: _Asked) -> Found[StoredThread]:
            return await merge.read(each.home.shards, lambda cursor: each.reader.list_threads(_page(params, cursor)))

        answers, silent = await self._ask(asked, read, allow_partial=params.allow_partial)
        items, next_cursor = merge.page(answers.values(), _shards(silent))
        return types.ThreadPage(items=items, next_cursor=next_cursor, unanswered=silent)

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads of all homes that match; see `_best_matches` for the order by relevance.

        Raises:
            HomesUnavailable: as for `list_threads`.
        """
        asked = self._asked()
        if not asked:
            return await self._only.search_threads(params)
        if params.sort_key is None and params.match is types.SearchMatch.WORDS:
            return await self._best_matches(asked, params)
        sort_key = params.sort_key or types.ThreadSortKey.UPDATED_AT
        merge = Merge(
            sort_key,
            params.sort_key is None or params.sort_direction is types.SortDirection.DESC,
            params.page_size,
            decode_places(params.cursor, sort_key),
            self._deployment.shard_of,
        )

        async def read(each: _Asked) -> Found[types.StoredThreadSearchResult]:
            return await merge.read(
                each.home.shards, lambda cursor: each.reader.search_threads(_page(params, cursor))
            )

        answers, silent = await self._ask(asked, read, allow_partial=params.allow_partial)
        items, next_cursor = merge.page(answers.values(), _shards(silent))
        return types.ThreadSearchPage(items=items, next_cursor=next_cursor, unanswered=silent)

    async def _best_matches(self, asked: list[_Asked], params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the best matches: homes take turns, and each gives its best one that was not shown.

        A rank (bm25) counts how rare a word is in its home, so ranks of two homes are not on one scale; a match's place
        in its home's order is. Each home is asked for exactly what the page takes, so the cursor of the page holds a cursor
        of each home that may have more matches.
        """
        homes = zlib.crc32(repr([(each.id, tuple(each.home.shards)) for each in asked]).encode())
        turns: dict[str, str | None] = {each.id: None for each in asked}
        if params.cursor:
            turns = dict(decode_turns(params.cursor, homes))
        by_id = {each.id: each for each in asked}
        items: list[types.StoredThreadSearchResult] = []
        silent: dict[str, SilentHome] = {}
        answered: set[str] = set()
        while (missing := params.page_size - len(items)) and (active := [id_ for id_ in turns if id_ not in silent]):
            rounds, further = divmod(missing, len(active))
            shares = {id_: rounds + (place < further) for place, id_ in enumerate(active)}

            async def read(each: _Asked, shares: dict[str, int] = shares) -> types.ThreadSearchPage:
                page = _page(params, turns[each.id])
                return await each.reader.search_threads(page.model_copy(update={"page_size": shares[each.id]}))

            wanted = [by_id[id_] for id_ in active if shares[id_]]
            pages, unanswered = await self._ask(
                wanted, read, allow_partial=params.allow_partial, is_answered=bool(answered)
            )
            answered |= pages.keys()
            silent |= {each.home: each for each in unanswered}
            own = ([i for i in page.items if self._is_own(i.thread, by_id[id_])] for id_, page in pages.items())
            items += [item for turn in zip_longest(*own) for item in turn if item is not None]
            for id_ in sorted(pages, key=shares.__getitem__):  # homes that gave one more have their next turn last
                del turns[id_]
                if pages[id_].next_cursor is not None:
                    turns[id_] = pages[id_].next_cursor
        has_more = turns.keys() - silent.keys()
        return types.ThreadSearchPage(
            items=tuple(items),
            next_cursor=encode_turns(homes, list(turns.items())) if has_more else None,
            unanswered=tuple(silent.values()),
        )

    # -- inside --------------------------------------------------------------------------------------------

    @property
    def _only(self) -> ThreadReader:
        """The reader of the only home."""
        return self._local or self._remote(next((home.shards[0] for home in self._deployment.homes()), 0))

    def _asked(self) -> list[_Asked]:
        """Return the homes that a read of all threads asks; none if there is only one, which needs no merge."""
        homes = self._deployment.homes()
        if len(homes) <= 1:
            return []
        return sorted((_Asked(home, self._reader_in(home)) for home in homes), key=lambda each: each.id)

    def _reader_of(self, thread_id: str) -> ThreadReader:
        """Return the reader of the thread's home, or, if no home serves its shard yet, one that asks the shard."""
        homes = self._deployment.homes()
        if len(homes) <= 1:
            return self._only
        shard = self._deployment.shard_of(thread_id)
        serving = [home for home in homes if shard in home.shards]
        return self._reader_in(serving[0]) if serving else self._remote(shard)

    def _reader_in(self, home: Home) -> ThreadReader:
        if self._local is not None and home.home_id == self._local_home:
            return self._local
        return self._remote(home.shards[0])

    def _is_own(self, thread: StoredThread, asked: _Asked) -> bool:
        """Whether *asked* serves the thread's shard; otherwise it has a copy."""
        return self._deployment.shard_of(thread.thread_id) in asked.home.shards

    async def _ask(
        self,
        asked: Sequence[_Asked],
        read: Callable[[_Asked], Awaitable[T]],
        *,
        allow_partial: bool,
        is_answered: bool = False,
    ) -> tuple[dict[str, T], tuple[SilentHome, ...]]:
        """Return the answer of each home, and the homes that did not answer.

        Raises:
            HomesUnavailable: some did not, and the caller does not allow it, or no home answered and the read has no other
                answer.
        """
        outcomes = await asyncio.gather(*map(read, asked), return_exceptions=True)
        answers: dict[str, T] = {}
        silent: list[SilentHome] = []
        for each, outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, Unavailable):
                silent.append(SilentHome(each.id, each.home.host, tuple(each.home.shards), outcome.message))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                answers[each.id] = outcome
        if silent and not (allow_partial and (answers or is_answered)):
            raise HomesUnavailable(silent)
        return answers, tuple(silent)

    async def _with_descendants(
        self, asked: Sequence[_Asked], relation: types.ThreadRelationFilter
    ) -> types.ThreadRelationFilter:
        """Return *relation* with all descendants of its threads.

        A home finds descendants as long as their parents are its threads too. So the descendants that are found in one
        home are passed to the others, until no home finds further ones.
        """
        known, new = set(relation.thread_ids), relation.thread_ids
        while new:
            found: set[str] = set()
            # The last pass finds threads that were unarchived between the others.
            for archived in (False, True, False):
                found |= await self._ids(
                    asked,
                    types.ListThreadsParams(
                        page_size=MANY,
                        archived=archived,
                        relation_filter=types.ThreadRelationFilter(
                            kind=relation.kind, thread_id=new[0], further_thread_ids=new[1:]
                        ),
                        include_without_preview=True,
                        include_attached_threads=True,
                    ),
                )
            new = tuple(sorted(found - known))
            known |= found
        return relation.model_copy(update={"further_thread_ids": tuple(sorted(known - {relation.thread_id}))})

    async def _ids(self, asked: Sequence[_Asked], params: types.ListThreadsParams) -> set[str]:
        """Return the ids of all threads of a listing."""
        ids: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self._merged_listing(asked, params.model_copy(update={"cursor": cursor}))
            ids |= {thread.thread_id for thread in page.items}
            cursor = page.next_cursor
            if cursor is None:
                return ids


def _page(params: ParamsT, cursor: str | None) -> ParamsT:
    """Return the parameters for one home's page."""
    return params.model_copy(update={"cursor": cursor, "allow_partial": False})


def _shards(silent: Sequence[SilentHome]) -> list[int]:
    return [shard for home in silent for shard in home.shards]


def _last_named(thread: StoredThread) -> tuple[str, str]:
    """Return what sorts the thread that got its name last after the others, as one home does."""
    return format_time(thread.named_at) if thread.named_at else "", format_time(thread.updated_at)
