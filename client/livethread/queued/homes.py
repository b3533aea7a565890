"""Listings and searches over several homes: they ask all homes at once, and merge what these find.

A thread belongs to the home that serves its shard. Copies in other homes are left out.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypeVar

from livethread import types
from livethread.cursor import decode_places, decode_turns, encode_turns
from livethread.errors import HomesUnavailable, SilentHome, ThreadNotFound, Unavailable
from livethread.metadata import StoredThread
from livethread.model import format_time
from livethread.queued.merged_pages import Found, Merge
from livethread.store import ThreadReader
from livethread_config.deployment import Deployment, HomeIdentity

#: Threads of a page when all of a thread's descendants are read.
MANY: Final = 1000

#: How long a page that may be partial waits for the other homes.
PATIENCE: Final = 5.0  # seconds

ParamsT = TypeVar("ParamsT", types.ListThreadsParams, types.SearchThreadsParams)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Home:
    """A home, and the reader that answers for it."""

    identity: HomeIdentity
    #: The shards that it serves, at least one.
    shards: tuple[int, ...]
    reader: ThreadReader

    @property
    def number(self) -> int:
        """A number that no other home of the deployment has."""
        return self.shards[0]


class Homes:
    """The homes of a deployment, as they are during one read.

    Reads raise `HomesUnavailable` if a home does not answer, unless their parameters allow a partial answer and another
    home answers.
    """

    def __init__(self, deployment: Deployment, homes: Iterable[Home]) -> None:
        self._shard_of = deployment.shard_of
        self._homes = {home.number: home for home in homes}

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread that got the name last, by the time at which its caller named it.

        Raises:
            ThreadNotFound: no thread has this name.
        """

        async def find(home: Home) -> StoredThread | None:
            copies: list[str] = []
            with suppress(ThreadNotFound):
                while True:
                    rest = params.model_copy(update={"except_thread_ids": (*params.except_thread_ids, *copies)})
                    thread = await home.reader.find_thread_by_name(rest)
                    if self._owns(home, thread):
                        return thread
                    copies.append(thread.thread_id)
            return None

        answers, _ = await self._ask(self._homes.values(), find)
        found = [thread for thread in answers.values() if thread is not None]
        if not found:
            raise ThreadNotFound(params.name, "no thread has this name")
        return max(found, key=_last_named)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of all homes' threads. Descendants are never listed in part."""
        relation = params.relation_filter
        if relation is not None and relation.kind is types.RelationKind.DESCENDANTS:
            update = {"relation_filter": await self._with_descendants(relation), "allow_partial": False}
            params = params.model_copy(update=update)
        return await self._list(params)

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads of all homes that match; see `_best_matches` for the order by relevance."""
        is_unordered = params.sort_key is None
        if is_unordered and params.match is types.SearchMatch.WORDS:
            return await self._best_matches(params)
        merge = self._merge(
            params,
            params.sort_key or types.ThreadSortKey.UPDATED_AT,
            types.SortDirection.DESC if is_unordered else params.sort_direction,
        )

        async def read(home: Home) -> Found[types.StoredThreadSearchResult]:
            return await merge.read(home.shards, lambda cursor: home.reader.search_threads(_page(params, cursor)))

        answers, silent = await self._ask(self._homes.values(), read, allow_partial=params.allow_partial)
        items, next_cursor = merge.page(answers.values(), _shards(silent))
        return types.ThreadSearchPage(items=items, next_cursor=next_cursor, unanswered=silent)

    # -- by time -------------------------------------------------------------------------------------------

    async def _list(self, params: types.ListThreadsParams) -> types.ThreadPage:
        merge = self._merge(params, params.sort_key, params.sort_direction)

        async def read(home: Home) -> Found[StoredThread]:
            return await merge.read(home.shards, lambda cursor: home.reader.list_threads(_page(params, cursor)))

        answers, silent = await self._ask(self._homes.values(), read, allow_partial=params.allow_partial)
        items, next_cursor = merge.page(answers.values(), _shards(silent))
        return types.ThreadPage(items=items, next_cursor=next_cursor, unanswered=silent)

    def _merge(
        self,
        params: types.ListThreadsParams | types.SearchThreadsParams,
        sort_key: types.ThreadSortKey,
        direction: types.SortDirection,
    ) -> Merge:
        places = decode_places(params.cursor, sort_key)
        is_descending = direction is types.SortDirection.DESC
        return Merge(sort_key, is_descending, params.page_size, places, self._shard_of)

    # -- by relevance --------------------------------------------------------------------------------------

    async def _best_matches(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the best matches: homes take turns, and each gives its best one that was not shown.

        A rank (bm25) counts how rare a word is in its home, so ranks of two homes are not on one scale; a match's place
        in its home's order is. Each home is asked for exactly what the page takes, so the cursor of the page holds a cursor
        of each home that may have more matches.
        """
        turns: dict[int, str | None] = dict.fromkeys(self._homes)
        if params.cursor:
            turns = {n: each for n, each in decode_turns(params.cursor, self._fingerprint()) if n in self._homes}
        items: list[types.StoredThreadSearchResult] = []
        silent: dict[int, SilentHome] = {}
        answered: set[int] = set()
        while (missing := params.page_size - len(items)) and (active := [n for n in turns if n not in silent]):
            rounds, further = divmod(missing, len(active))
            shares = {number: rounds + (place < further) for place, number in enumerate(active)}

            async def read(home: Home, shares: dict[int, int] = shares) -> types.ThreadSearchPage:
                share = _page(params, turns[home.number]).model_copy(update={"page_size": shares[home.number]})
                return await home.reader.search_threads(share)

            wanted = [self._homes[number] for number in active if shares[number]]
            pages, unanswered = await self._ask(
                wanted, read, allow_partial=params.allow_partial, is_answered=bool(answered)
            )
            answered |= pages.keys()
            silent |= {home.shards[0]: home for home in unanswered}
            own = (
                [item for item in page.items if self._owns(self._homes[n], item.thread)] for n, page in pages.items()
            )
            items += [item for turn in zip_longest(*own) for item in turn if item is not None]
            for number in sorted(pages, key=shares.__getitem__):  # homes that gave one more have their next turn last
                del turns[number]
                if pages[number].next_cursor is not None:
                    turns[number] = pages[number].next_cursor
        has_more = turns.keys() - silent.keys()
        return types.ThreadSearchPage(
            items=tuple(items),
            next_cursor=encode_turns(self._fingerprint(), list(turns.items())) if has_more else None,
            unanswered=tuple(silent.values()),
        )

    def _fingerprint(self) -> int:
        """Return a number that changes if homes or their shards do."""
        served = [(home.identity.id, home.shards) for home in self._homes.values()]
        return zlib.crc32(repr(served).encode())

    # -- descendants ---------------------------------------------------------------------------------------

    async def _with_descendants(self, relation: types.ThreadRelationFilter) -> types.ThreadRelationFilter:
        """Return *relation* with all descendants of its threads.

        A home finds descendants as long as their parents are its threads too. So the descendants that are found in one
        home are passed to the others, until no home finds further ones.
        """
        known, new = set(relation.thread_ids), relation.thread_ids
        while new:
            further = types.ThreadRelationFilter(kind=relation.kind, thread_id=new[0], further_thread_ids=new[1:])
            found: set[str] = set()
            # The last pass finds threads that were unarchived between the others.
            for archived in (False, True, False):
                found |= await self._ids(
                    types.ListThreadsParams(
                        page_size=MANY,
                        archived=archived,
                        relation_filter=further,
                        include_without_preview=True,
                        include_attached_threads=True,
                    )
                )
            new = tuple(sorted(found - known))
            known |= found
        return relation.model_copy(update={"further_thread_ids": tuple(sorted(known - {relation.thread_id}))})

    async def _ids(self, params: types.ListThreadsParams) -> set[str]:
        """Return the ids of all threads of a listing."""
        ids: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self._list(params.model_copy(update={"cursor": cursor}))
            ids |= {thread.thread_id for thread in page.items}
            cursor = page.next_cursor
            if cursor is None:
                return ids

    # -- asking --------------------------------------------------------------------------------------------

    async def _ask(
        self,
        homes: Iterable[Home],
        read: Callable[[Home], Awaitable[T]],
        *,
        allow_partial: bool = False,
        is_answered: bool = False,
    ) -> tuple[dict[int, T], tuple[SilentHome, ...]]:
        """Return the answer of each home, by its number, and the homes that did not answer.

        If the caller allows a partial answer, homes that take longer than `PATIENCE` count as silent, once one has answered.

        Raises:
            HomesUnavailable: some did not, and the caller does not allow it; or no home answered, now or before.
        """
        tasks = {asyncio.ensure_future(read(home)): home for home in homes}
        try:
            done, late = await asyncio.wait(tasks, timeout=PATIENCE if allow_partial else None)
            if late and not (is_answered or any(task.exception() is None for task in done)):
                done, late = await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        answers: dict[int, T] = {}
        silent: list[SilentHome] = []
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for (task, home), outcome in zip(tasks.items(), outcomes, strict=True):
            if task in late or isinstance(outcome, Unavailable):
                why = outcome.message if isinstance(outcome, Unavailable) else f"no answer within {PATIENCE:g} s"
                silent.append(SilentHome(home.identity.id, home.identity.host, home.shards, why))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                answers[home.number] = outcome
        if silent and not (allow_partial and (answers or is_answered)):
            raise HomesUnavailable(silent)
        return answers, tuple(silent)

    def _owns(self, home: Home, thread: StoredThread) -> bool:
        """Whether *home* serves the thread's shard; otherwise it has a copy."""
        return self._shard_of(thread.thread_id) in home.shards


def _page(params: ParamsT, cursor: str | None) -> ParamsT:
    """Return the parameters for one home's page."""
    return params.model_copy(update={"cursor": cursor, "allow_partial": False})


def _shards(silent: Sequence[SilentHome]) -> list[int]:
    return [shard for home in silent for shard in home.shards]


def _last_named(thread: StoredThread) -> tuple[str, str]:
    """Return what sorts the thread that got its name last after the others, as one home does."""
    return format_time(thread.named_at) if thread.named_at else "", format_time(thread.updated_at)
