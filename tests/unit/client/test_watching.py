"""`watch` over a store that a test drives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import pytest
from tests.nodes.waiting import eventually

from livethread import types
from livethread.changes import Changes
from livethread.errors import Conflict, InvalidRequest, ThreadNotFound, Unavailable
from livethread.rollout.item import RolloutItem
from livethread.watching import PAGE, watch

THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"


class Pages:
    """A thread's items, whose cursors are their numbers; each read may fail first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.requests: list[types.ListItemsParams] = []
        self.failures: list[Exception] = []

    async def read(self, params: types.ListItemsParams) -> types.ItemPage:
        self.requests.append(params)
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop()
        begin = int(params.cursor or 0)
        end = min(begin + params.page_size, self.count)
        items = tuple(RolloutItem("x", n) for n in range(begin, end))
        return types.ItemPage(items=items, next_cursor=f"{end}" if end < self.count else None, end_cursor=f"{end}")

    def watch(self, changes: Changes, **params: str | int) -> AsyncGenerator[types.ThreadItem]:
        wanted = types.WatchThreadParams.model_validate({"thread_id": THREAD} | params)
        return watch(changes, wanted, self.read, self.read)


async def caught_up() -> tuple[Pages, Changes, AsyncGenerator[types.ThreadItem]]:
    """Return a watch that has yielded the only item."""
    pages, changes = Pages(1), Changes()
    items = pages.watch(changes)
    assert await taken(items, 1) == [0]
    return pages, changes, items


async def taken(items: AsyncIterator[types.ThreadItem], count: int) -> list[int]:
    async with asyncio.timeout(20):
        return [(await anext(items)).item.payload for _ in range(count)]


async def test_it_reads_a_page_only_when_its_consumer_has_taken_the_one_before() -> None:
    pages = Pages(PAGE * 3)
    items = pages.watch(Changes())

    assert await taken(items, PAGE) == [*range(PAGE)]
    assert len(pages.requests) == 1
    assert await taken(items, 1) == [PAGE]
    assert [(request.cursor, request.page_size) for request in pages.requests] == [(None, PAGE), (f"{PAGE}", PAGE)]


async def test_it_reads_once_for_each_hint_and_not_without_one() -> None:
    pages, changes, items = await caught_up()

    waiting = asyncio.ensure_future(taken(items, 1))
    await asyncio.sleep(0.05)
    assert len(pages.requests) == 1
    changes.note("another thread")
    changes.note(THREAD)  # a hint without a change
    await eventually(lambda: len(pages.requests) == 2)
    pages.count = 2
    changes.note(THREAD)

    assert await waiting == [1]
    assert len(pages.requests) == 3


async def test_a_hint_that_comes_while_it_reads_is_not_lost() -> None:
    pages, changes, items = await caught_up()

    waiting = asyncio.ensure_future(taken(items, 1))
    await asyncio.sleep(0)
    changes.note(THREAD)
    await eventually(lambda: len(pages.requests) == 2)  # its read has begun
    pages.count = 2
    changes.note(THREAD)

    assert await waiting == [1]


async def test_it_polls_if_its_store_has_no_hints() -> None:
    pages = Pages(1)
    items = pages.watch(Changes(poll_interval=0.01))
    assert await taken(items, 1) == [0]

    pages.count = 2

    assert await taken(items, 1) == [1]


@pytest.mark.parametrize("count", [0, 1], ids=["without items", "with items"])
async def test_it_ends_although_a_read_swallows_its_cancellation(count: int) -> None:
    pages, changes, is_reading = Pages(1), Changes(), asyncio.Event()

    async def swallowing(params: types.ListItemsParams) -> types.ItemPage:
        is_reading.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(20)
        return await pages.read(params)

    async def follow() -> None:
        params = types.WatchThreadParams(thread_id=THREAD)
        async for _ in watch(changes, params, swallowing, swallowing):
            pass

    pages.count = count
    task = asyncio.create_task(follow())
    await is_reading.wait()
    task.cancel()
    await asyncio.wait([task], timeout=10)

    assert task.cancelled()
    assert not changes.thread_ids


@pytest.mark.parametrize("error", [Unavailable("no answer"), InvalidRequest("odd"), ThreadNotFound(THREAD)])
async def test_the_first_read_may_fail(error: Exception) -> None:
    pages = Pages(1)
    pages.failures = [error]

    with pytest.raises(type(error)):
        await taken(pages.watch(Changes()), 1)


async def test_it_goes_on_when_an_outage_ends(caplog: pytest.LogCaptureFixture) -> None:
    pages, changes, items = await caught_up()

    pages.failures, pages.count = [Unavailable("no answer"), Unavailable("no answer")], 2
    changes.note(THREAD)

    assert await taken(items, 1) == [1]
    assert [record.getMessage() for record in caplog.records] == [f"watching thread {THREAD} waits: no answer"]


async def test_it_ends_if_its_place_is_gone() -> None:
    pages, changes, items = await caught_up()

    pages.failures = [InvalidRequest("this cursor has no place")]
    changes.note(THREAD)

    with pytest.raises(Conflict, match="taken back"):
        await taken(items, 1)


async def test_it_repeats_the_place_after_which_to_begin_until_an_item_comes() -> None:
    pages, changes = Pages(0), Changes()
    items = pages.watch(changes, after="7-0")
    waiting = asyncio.ensure_future(taken(items, 2))
    await eventually(lambda: len(pages.requests) == 1)

    changes.note(THREAD)
    await eventually(lambda: len(pages.requests) == 2)
    pages.count = 2
    changes.note(THREAD)
    assert await waiting == [0, 1]
    waiting = asyncio.ensure_future(taken(items, 1))
    await asyncio.sleep(0)
    pages.count = 3
    changes.note(THREAD)

    assert await waiting == [2]
    assert [(request.after, request.cursor) for request in pages.requests] == [("7-0", None)] * 3 + [(None, "2")]


async def test_it_reads_no_more_once_the_store_is_closed() -> None:
    pages, changes, items = await caught_up()

    waiting = asyncio.ensure_future(taken(items, 1))
    await asyncio.sleep(0)
    changes.note(THREAD)
    await asyncio.sleep(0)  # it rests before it reads
    await changes.aclose()

    with pytest.raises(Unavailable, match="was closed"):
        await waiting
    assert len(pages.requests) == 1


async def test_sources_run_while_a_thread_is_watched_and_only_once() -> None:
    running: list[Changes] = []

    async def source(changes: Changes) -> None:
        running.append(changes)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(changes)

    pages, changes = Pages(1), Changes(source)
    async with aclosing(pages.watch(changes)) as one, aclosing(pages.watch(changes)) as two:
        assert [await taken(each, 1) for each in (one, two)] == [[0], [0]]
        assert running == [changes]
        await two.aclose()
        await asyncio.sleep(0)
        assert running == [changes]
    await eventually(lambda: not running)
    assert not changes.thread_ids


async def test_closing_the_store_ends_all_watches() -> None:
    pages, changes = Pages(1), Changes()
    watches = [pages.watch(changes) for _ in range(3)]
    assert [await taken(each, 1) for each in watches] == [[0]] * 3

    waiting = [asyncio.ensure_future(taken(each, 1)) for each in watches]
    await asyncio.sleep(0)
    await changes.aclose()

    for each in waiting:
        with pytest.raises(Unavailable, match="was closed"):
            await each


def test_a_watch_begins_at_one_place() -> None:
    with pytest.raises(InvalidRequest, match="exclude each other"):
        types.WatchThreadParams(thread_id=THREAD, after=1, cursor="x")
