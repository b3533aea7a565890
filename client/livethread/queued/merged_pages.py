"""Merges the pages of several homes into one listing, or one search by time.

A cursor names a place, the sort value and the id of a thread, and so the same place in each home. The merged page holds
the first threads after it of all homes' pages, in the order of the index. The cursor holds nothing about a home that
answers, so each thread is in the pages as often as it would be if one home had all threads.

A home that does not answer is read later: the cursor of a partial page holds the place up to which its shards were read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from livethread.cursor import Place, Places, encode_place, encode_places, place_of
from livethread.metadata import StoredThread
from livethread.types import StoredThreadSearchResult, ThreadSortKey

ItemT = TypeVar("ItemT", StoredThread, StoredThreadSearchResult)
PageItemT_co = TypeVar("PageItemT_co", covariant=True)


class Page(Protocol[PageItemT_co]):
    """A page of one home."""

    @property
    def items(self) -> Sequence[PageItemT_co]:
        """What it shows."""
        ...

    @property
    def next_cursor(self) -> str | None:
        """None on the last page."""
        ...


def thread_in(item: StoredThread | StoredThreadSearchResult) -> StoredThread:
    """Return the thread of a page's item."""
    return item if isinstance(item, StoredThread) else item.thread


@dataclass(frozen=True, slots=True)
class Found(Generic[ItemT]):
    """The first items of the home that serves *shards*."""

    shards: Collection[int]
    items: list[ItemT]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Merge:
    """One page over several homes, which begins after *places*."""

    sort_key: ThreadSortKey
    is_descending: bool
    page_size: int
    places: Places
    shard_of: Callable[[str], int]

    async def read(
        self, shards: Collection[int], read_page: Callable[[str | None], Awaitable[Page[ItemT]]]
    ) -> Found[ItemT]:
        """Return the first items of the home that serves *shards*: as many as the page has, if there are so many.

        Copies of other homes' threads do not count.
        """
        begin = self._earliest([self.places.of(shard) for shard in shards])
        cursor = None if begin is None else encode_place(begin, self.sort_key)
        items: list[ItemT] = []
        while True:
            page = await read_page(cursor)
            items += [item for item in page.items if self._is_due(thread_in(item), shards)]
            cursor = page.next_cursor
            if cursor is None or len(items) >= self.page_size:
                return Found(shards, items, has_more=cursor is not None)

    def page(self, found: Iterable[Found[ItemT]], silent: Collection[int]) -> tuple[tuple[ItemT, ...], str | None]:
        """Return the merged page and its cursor, without the *silent* shards."""
        answers = list(found)
        items = [item for answer in answers for item in answer.items]
        items.sort(key=lambda item: self._place(thread_in(item)), reverse=self.is_descending)
        page = tuple(items[: self.page_size])
        if len(items) == len(page) and not any(answer.has_more for answer in answers):
            return page, None
        last = self._place(thread_in(page[-1]))
        place = self._later(self.places.place, last)
        answered = {shard for answer in answers for shard in answer.shards}
        behind = {shard: self.places.of(shard) for shard in {*silent, *self.places.behind}}
        behind |= {shard: self._later(behind[shard], last) for shard in behind.keys() & answered}
        still_behind = {shard: each for shard, each in sorted(behind.items()) if each != place}
        return page, encode_places(Places(place, still_behind), self.sort_key)

    def _is_due(self, thread: StoredThread, shards: Collection[int]) -> bool:
        shard = self.shard_of(thread.thread_id)
        return shard in shards and self._is_after(self._place(thread), self.places.of(shard))

    def _place(self, thread: StoredThread) -> Place:
        return place_of(thread, self.sort_key)

    def _is_after(self, place: Place, other: Place | None) -> bool:
        return other is None or (place < other if self.is_descending else place > other)

    def _later(self, place: Place | None, last: Place) -> Place:
        return last if place is None or self._is_after(last, place) else place

    def _earliest(self, places: Iterable[Place | None]) -> Place | None:
        known: list[Place] = []
        for place in places:
            if place is None:
                return None
            known.append(place)
        return max(known) if self.is_descending else min(known)
