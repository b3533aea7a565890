from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.client.web.conftest import Queue
from tests.unit.client.web.items import turn

from livethread import ArchiveThreadParams, GitInfo, InMemoryThreadStore, InvalidRequest, new_thread_id
from livethread.web import listing as module
from livethread.web.listing import Filters, listing

Write = Callable[..., str]


async def shown(store: InMemoryThreadStore, queue: Queue, **filters: str) -> list[str]:
    """Return the ids on all pages of a list."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await listing(store, queue, Filters(**filters, cursor=cursor))
        found += [row.thread_id for row in page.rows]
        cursor = page.next_cursor
    return found


@pytest.fixture
def threads(write: Write, queue: Queue) -> dict[str, str]:
    """Threads by name; a filter shows one of them."""
    git = {"branch": GitInfo(branch="fix/build")}
    params: dict[str, dict[str, Any]] = {
        "plain": {},
        "directory": {"cwd": "/repo"},
        "source": {"source": "exec"},
        "subagent": {"source": {"subagent": "review"}},
        "branch": {"git": git["branch"]},
    }
    found = {name: write(*turn("t", f"hello {name}"), **each) for name, each in params.items()}
    queue.parked_threads[found["plain"]] = "No space left on device"
    queue.open_threads.add(found["directory"])
    return found


@pytest.mark.parametrize("query", [{}, {"q": "hello"}, {"q": "hello", "words": "1"}])
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"cwd": "/repo"}, "directory"),
        ({"source": "exec"}, "source"),
        ({"source": "subagent"}, "subagent"),
        ({"branch": "fix/build"}, "branch"),
        ({"live": "1"}, "directory"),
    ],
)
async def test_a_filter_hides_the_others(
    *,
    store: InMemoryThreadStore,
    queue: Queue,
    threads: dict[str, str],
    filters: dict[str, str],
    expected: str,
    query: dict[str, str],
) -> None:
    assert await shown(store, queue, **filters, **query) == [threads[expected]]


async def test_parked_threads_are_shown_even_if_they_were_never_stored(
    store: InMemoryThreadStore, queue: Queue, threads: dict[str, str]
) -> None:
    missing = new_thread_id()
    queue.parked_threads[missing] = "its creation cannot be applied"

    assert sorted(await shown(store, queue, parked="1")) == sorted([missing, threads["plain"]])


@pytest.mark.parametrize("query", [{}, {"q": "hello"}, {"q": "hello", "words": "1"}])
@pytest.mark.parametrize("filters", [{"cwd": "/repo"}, {"archived": "1"}, {"q": "source"}])
async def test_parked_threads_are_filtered_as_others_are(
    store: InMemoryThreadStore,
    queue: Queue,
    threads: dict[str, str],
    filters: dict[str, str],
    query: dict[str, str],
) -> None:
    queue.parked_threads |= dict.fromkeys(threads.values(), "full")
    del queue.parked_threads[threads["plain"]]
    await store.archive_thread(ArchiveThreadParams(thread_id=threads["subagent"]))
    await store.archive_thread(ArchiveThreadParams(thread_id=threads["plain"]))
    expected = {"cwd": "directory", "archived": "subagent", "q": "source"}[next(iter(filters))]

    assert await shown(store, queue, **query | filters, parked="1") == [threads[expected]]


async def test_a_page_of_parked_threads_reads_only_some_of_them(
    store: InMemoryThreadStore, queue: Queue, threads: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 1)
    monkeypatch.setattr(module, "SCANS", 2)
    queue.parked_threads = dict.fromkeys(threads.values(), "full")

    page = await listing(store, queue, Filters(parked="1", cwd="/nowhere"))

    assert (page.rows, page.next_cursor) == ([], sorted(threads.values())[1])


async def test_archived_threads_are_a_list_of_their_own(
    store: InMemoryThreadStore, queue: Queue, threads: dict[str, str]
) -> None:
    await store.archive_thread(ArchiveThreadParams(thread_id=threads["plain"]))

    assert await shown(store, queue, archived="1") == [threads["plain"]]
    assert threads["plain"] not in await shown(store, queue)


async def test_pages_show_every_thread_once(
    store: InMemoryThreadStore, queue: Queue, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 3)
    monkeypatch.setattr(module, "SCANS", 2)

    for filters in ({}, {"q": "hello"}, {"branch": "b"}, {"parked": "1"}):
        assert sorted(await shown(store, queue, **filters)) == sorted(queue.parked_threads)


@pytest.fixture(autouse=True)
def _many(request: pytest.FixtureRequest, write: Write, queue: Queue) -> None:
    if request.function is test_pages_show_every_thread_once:
        for n in range(10):
            thread_id = write(*turn("t", f"hello {n}"), git=GitInfo(branch="b"))
            queue.parked_threads[thread_id] = "full"


async def test_without_redis_the_list_says_what_it_does_not_know(
    store: InMemoryThreadStore, queue: Queue, threads: dict[str, str]
) -> None:
    queue.is_away = True

    page = await listing(store, queue, Filters())

    assert (len(page.rows), page.has_queue_state) == (len(threads), False)


async def test_a_search_without_a_word_is_refused(store: InMemoryThreadStore, queue: Queue) -> None:
    with pytest.raises(InvalidRequest):
        await listing(store, queue, Filters(q="->", words="1"))
