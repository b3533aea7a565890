"""Several homes, read as one: each page equals the page of one home that has all threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livethread import types
from livethread.errors import HomesUnavailable, InvalidRequest, SilentHome, ThreadNotFound, Unavailable
from livethread.in_memory import InMemoryThreadStore
from livethread.in_memory.stored import Stored
from livethread.metadata import StoredThread
from livethread.queued import homes as homes_module
from livethread.queued.merged_reader import MergedReader
from livethread.store import ThreadReader
from livethread_config.deployment import Deployment, HomeIdentity, ShardEpochs

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
SHARDS = 4


def thread_id(n: int) -> str:
    return f"019a93b9-f380-7600-98ff-{n:012x}"


def number(id_: str) -> int:
    return int(id_[-12:], 16)


class Spread(Deployment):
    """A deployment in which a thread's number says its shard."""

    def shard_of(self, thread_id: str) -> int:
        return number(thread_id) % SHARDS


def served(**homes: Sequence[int]) -> Spread:
    """Return a deployment whose *homes* serve these shards."""
    identities = {name: HomeIdentity(name, "1", host=f"host-{name}") for name in homes}
    return Spread(
        ShardEpochs.of((0, SHARDS)), {shard: identities[name] for name, own in homes.items() for shard in own}
    )


class OneHome(InMemoryThreadStore):
    """A home that can be silent."""

    is_silent = False

    def put(self, thread: StoredThread) -> None:
        self._stored[thread.thread_id] = Stored(thread, [])

    def remove(self, id_: str) -> None:
        self._stored.pop(id_, None)

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        if self.is_silent:
            raise Unavailable("nothing heard")
        return await super().list_threads(params)

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        if self.is_silent:
            raise Unavailable("nothing heard")
        return await super().search_threads(params)


@dataclass
class Homes:
    """Three homes with four shards, and one home that has all threads."""

    deployment: Spread = field(default_factory=lambda: served(a=(0, 2), b=(1,), c=(3,)))
    readers: dict[str, Any] = field(default_factory=lambda: {id_: OneHome() for id_ in "abc"})
    whole: OneHome = field(default_factory=OneHome)

    def of(self, id_: str) -> str:
        return self.deployment.home_of[self.deployment.shard_of(id_)].id

    def remote(self, shard: int) -> ThreadReader:
        reader: ThreadReader = self.readers[self.deployment.home_of[shard].id]
        return reader

    def put(self, thread: StoredThread, *, copied: bool = False) -> None:
        self.whole.put(thread)
        for home, reader in self.readers.items():
            if home == self.of(thread.thread_id):
                reader.put(thread)
            elif copied:  # as it was earlier
                reader.put(
                    thread.model_copy(
                        update={"updated_at": AT, "archived_at": None, "parent_thread_id": None, "name": "old"}
                    )
                )

    def remove(self, id_: str) -> None:
        self.whole.remove(id_)
        self.readers[self.of(id_)].remove(id_)  # copies stay

    async def refreshed(self) -> Spread:
        self.deployment = served(a=(0, 2), b=(1,), c=(3,))
        return self.deployment

    def silence(self, *ids: str) -> None:
        for home, reader in self.readers.items():
            reader.is_silent = home in ids

    @property
    def merged(self) -> MergedReader:
        return MergedReader(lambda: self.deployment, self.refreshed, self.remote)


def thread(n: int, **fields: Any) -> StoredThread:
    times = {"created_at": AT, "updated_at": AT, "recency_at": AT}
    return StoredThread.model_validate({"thread_id": thread_id(n), "preview": "p"} | times | fields)


times = st.integers(0, 3).map(lambda s: AT + timedelta(seconds=s))
numbers = st.integers(0, 15)
threads = st.builds(
    thread,
    numbers,
    created_at=times,
    updated_at=times,
    recency_at=times,
    name=st.sampled_from((None, "needle", "the needle")),
    preview=st.sampled_from(("p", "p", "")),
    archived_at=st.sampled_from((None, None, None, AT)),
    parent_thread_id=st.none() | numbers.map(thread_id),
    attached_to_thread_id=st.sampled_from((None, None, None, thread_id(1))),
)
#: What happens between two pages: threads are stored, changed and deleted.
changes = st.lists(st.tuples(threads, st.booleans()) | numbers, max_size=4)
orders = st.fixed_dictionaries({
    "page_size": st.integers(1, 5),
    "sort_key": st.sampled_from(types.ThreadSortKey),
    "sort_direction": st.sampled_from(types.SortDirection),
})
filters = st.fixed_dictionaries(
    {"include_without_preview": st.booleans()},
    optional={
        "archived": st.just(True),
        "search_term": st.just("needle"),
        "attached_to_thread_id": st.just(thread_id(1)),
        "include_attached_threads": st.just(True),
        "relation_filter": st.builds(
            types.ThreadRelationFilter,
            kind=st.sampled_from(types.RelationKind),
            thread_id=numbers.map(thread_id),
            further_thread_ids=st.lists(numbers.map(thread_id), max_size=1).map(tuple),
        ),
    },
)


def change(homes: Homes, each: tuple[StoredThread, bool] | int) -> None:
    if isinstance(each, int):
        homes.remove(thread_id(each))
    else:
        homes.put(each[0], copied=each[1])


@given(
    stored=st.lists(st.tuples(threads, st.booleans()), max_size=12),
    meanwhile=st.lists(changes),
    order=orders,
    only=filters,
)
@settings(deadline=None)
def test_each_page_is_as_if_one_home_had_all_threads_though_they_change(
    stored: list[tuple[StoredThread, bool]],
    meanwhile: list[list[Any]],
    order: dict[str, Any],
    only: dict[str, Any],
) -> None:
    homes = Homes()
    for each in stored:
        change(homes, each)
    changed = [each for each in (*stored, *chain(*meanwhile)) if not isinstance(each, int)]
    has_copies = any(is_copied for _, is_copied in changed)

    async def page_through() -> None:
        cursor: str | None = None
        for between in [*meanwhile, *([[]] * 20)]:
            params = types.ListThreadsParams.model_validate(order | only | {"cursor": cursor})
            page = await homes.merged.list_threads(params)
            expected = await homes.whole.list_threads(params)
            assert page.items == expected.items
            cursor = page.next_cursor
            if cursor is None:
                assert expected.next_cursor is None
                return
            # A home may have nothing but copies of other homes' threads left: then an empty page is the last one.
            assert cursor == expected.next_cursor or (expected.next_cursor is None and has_copies)
            for each in between:
                change(homes, each)

    asyncio.run(page_through())


@given(stored=st.lists(threads, max_size=12), order=orders)
@settings(deadline=None, max_examples=50)
def test_each_page_of_a_search_by_time_is_as_if_one_home_had_all_threads(
    stored: list[StoredThread], order: dict[str, Any]
) -> None:
    homes = Homes()
    for each in stored:
        homes.put(each)

    async def page_through() -> None:
        cursor: str | None = None
        while True:
            params = types.SearchThreadsParams(search_term="needle", cursor=cursor, **order)
            page = await homes.merged.search_threads(params)
            assert page == await homes.whole.search_threads(params)
            cursor = page.next_cursor
            if cursor is None:
                return

    asyncio.run(page_through())


@given(
    stored=st.lists(threads, max_size=12),
    silences=st.lists(st.sets(st.sampled_from("abc"), max_size=2)),
    order=orders,
)
@settings(deadline=None)
def test_partial_pages_lose_only_what_they_say_and_repeat_nothing(
    stored: list[StoredThread], silences: list[set[str]], order: dict[str, Any]
) -> None:
    homes = Homes()
    for each in stored:
        homes.put(each)
    every = {each.thread_id for each in stored}

    async def page_through() -> None:
        cursor: str | None = None
        seen: list[str] = []
        for silent in [*silences, *([set()] * 25)]:
            homes.silence(*silent)
            params = types.ListThreadsParams.model_validate(
                order
                | {"cursor": cursor, "allow_partial": True, "include_without_preview": True}
                | {"include_attached_threads": True}
            )
            whole = {id_ for id_ in every if homes.whole._stored[id_].thread.archived_at is None}
            page = await homes.merged.list_threads(params)
            seen += [each.thread_id for each in page.items]
            assert {each.home for each in page.unanswered} == silent
            cursor = page.next_cursor
            if cursor is None:
                break

        assert sorted(set(seen)) == sorted(seen)
        assert {homes.of(id_) for id_ in whole - set(seen)} <= silent

    asyncio.run(page_through())


async def test_a_home_that_answers_again_shows_its_threads_first() -> None:
    homes = Homes()
    for n in range(8):
        homes.put(thread(n))
    params = types.ListThreadsParams(page_size=3, sort_direction=types.SortDirection.ASC, allow_partial=True)
    homes.silence("b")

    first = await homes.merged.list_threads(params)
    homes.silence()
    second = await homes.merged.list_threads(params.model_copy(update={"cursor": first.next_cursor}))
    third = await homes.merged.list_threads(params.model_copy(update={"cursor": second.next_cursor}))

    assert [[number(each.thread_id) for each in page.items] for page in (first, second, third)] == [
        [0, 2, 3],
        [1, 4, 5],
        [6, 7],
    ]
    assert first.unanswered == (SilentHome("b", "host-b", (1,), "nothing heard"),)


async def test_a_partial_page_waits_for_a_home_that_hangs_only_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    homes, is_cancelled = Homes(), asyncio.Event()
    homes.put(thread(0))

    async def hang(_params: types.ListThreadsParams) -> types.ThreadPage:
        try:
            await asyncio.Event().wait()
        finally:
            is_cancelled.set()
        raise AssertionError

    monkeypatch.setattr(homes_module, "PATIENCE", 0.05)
    monkeypatch.setattr(homes.readers["b"], "list_threads", hang)

    page = await homes.merged.list_threads(types.ListThreadsParams(allow_partial=True))

    assert [number(each.thread_id) for each in page.items] == [0]
    assert page.unanswered == (SilentHome("b", "host-b", (1,), "no answer within 0.05 s"),)
    assert is_cancelled.is_set()


async def test_a_page_waits_longer_if_no_home_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    homes = Homes()
    homes.put(thread(0))
    monkeypatch.setattr(homes_module, "PATIENCE", 0.01)
    for reader in homes.readers.values():
        monkeypatch.setattr(reader, "list_threads", slowly(reader.list_threads))

    page = await homes.merged.list_threads(types.ListThreadsParams(allow_partial=True))

    assert ([number(each.thread_id) for each in page.items], page.unanswered) == ([0], ())


def slowly(read: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    async def later(params: Any) -> Any:
        await asyncio.sleep(0.1)
        return await read(params)

    return later


@pytest.mark.parametrize("silent", ["b", "abc"])
async def test_a_page_that_may_not_be_partial_names_the_silent_homes(silent: str) -> None:
    homes = Homes()
    homes.silence(*silent)

    with pytest.raises(HomesUnavailable, match=r"home b on host host-b \(shards: 1\): nothing heard") as raised:
        await homes.merged.list_threads(types.ListThreadsParams(allow_partial=silent == "abc"))

    assert [each.home for each in raised.value.unanswered] == list(silent)


async def test_descendants_are_never_listed_in_part() -> None:
    homes = Homes()
    homes.silence("b")
    relation = types.ThreadRelationFilter(kind=types.RelationKind.DESCENDANTS, thread_id=thread_id(0))

    with pytest.raises(HomesUnavailable):
        await homes.merged.list_threads(types.ListThreadsParams(relation_filter=relation, allow_partial=True))


async def test_a_name_finds_the_thread_that_got_it_last() -> None:
    homes = Homes()
    for n in (3, 1, 2):
        homes.put(thread(n, name="same"), copied=n == 1)
        homes.readers[homes.of(thread_id(n))]._stored[thread_id(n)].named = ("1-0", AT + timedelta(seconds=n == 1))

    found = await homes.merged.find_thread_by_name(types.FindThreadByNameParams(name="same"))

    assert number(found.thread_id) == 1
    with pytest.raises(ThreadNotFound):  # copies do not count
        await homes.merged.find_thread_by_name(types.FindThreadByNameParams(name="old"))
    homes.put(thread(2, name="old"))
    found = await homes.merged.find_thread_by_name(types.FindThreadByNameParams(name="old"))
    assert number(found.thread_id) == 2


async def test_one_thread_is_read_in_the_home_of_its_shard() -> None:
    homes = Homes()
    for n in range(4):
        homes.put(thread(n, name="current"), copied=True)
    path = f"sessions/2026/11/22/rollout-2026-11-22T12-00-00-{thread_id(1)}.jsonl"

    for n in range(4):
        assert (await homes.merged.read_thread(types.ReadThreadParams(thread_id=thread_id(n)))).name == "current"
    found = await homes.merged.read_thread_by_rollout_path(types.ReadThreadByRolloutPathParams(rollout_path=path))
    assert found.name == "current"


async def test_the_home_of_this_process_is_read_without_a_worker() -> None:
    homes = Homes()
    local = homes.readers["b"]
    homes.put(thread(1))

    def remote(shard: int) -> ThreadReader:
        assert shard != 1
        return homes.remote(shard)

    home = homes.deployment.home_of[1]
    reader = MergedReader(lambda: homes.deployment, homes.refreshed, remote, local=local, local_home=lambda: home)

    assert len((await reader.list_threads(types.ListThreadsParams())).items) == 1
    await reader.read_thread(types.ReadThreadParams(thread_id=thread_id(1)))


@pytest.mark.parametrize("known", [{}, {"a": (0, 2)}, {"a": (0, 2), "b": (1,)}])
async def test_a_home_that_was_added_meanwhile_is_read(known: dict[str, Sequence[int]]) -> None:
    homes = Homes()
    for n in range(4):
        homes.put(thread(n))
    homes.deployment = served(**known)

    assert len((await homes.merged.list_threads(types.ListThreadsParams())).items) == 4
    homes.deployment = served(**known)
    await homes.merged.read_thread(types.ReadThreadParams(thread_id=thread_id(3)))


@pytest.mark.parametrize("prefers_local", [True, False])
async def test_a_home_that_is_not_the_only_one_is_read_only_on_request(prefers_local: bool) -> None:
    homes = Homes(served(a=range(SHARDS)))
    homes.put(thread(1))
    local = OneHome()
    reader = MergedReader(
        lambda: homes.deployment, homes.refreshed, homes.remote, local=local, prefers_local=prefers_local
    )

    page = await reader.list_threads(types.ListThreadsParams())

    assert len(page.items) == (0 if prefers_local else 1)


@pytest.mark.parametrize(("home", "is_read_here"), [("a", False), ("b", True), (None, False)])
async def test_a_thread_whose_home_has_not_come_back_is_not_sought_in_another(
    home: str | None, is_read_here: bool
) -> None:
    """Redis lost the record, and one home was faster than the others."""
    deployment, asked, local = served(a=(0, 2)), list[int](), OneHome()
    local.put(thread(1))

    async def refreshed() -> Spread:
        return deployment

    def remote(shard: int) -> ThreadReader:
        asked.append(shard)
        return local

    identity = HomeIdentity(home, "1") if home else None
    reader = MergedReader(
        lambda: deployment, refreshed, remote, local=local if home else None, local_home=lambda: identity
    )

    await reader.read_thread(types.ReadThreadParams(thread_id=thread_id(1)))

    assert asked == ([] if is_read_here else [1])


# -- the best matches --------------------------------------------------------------------------------------


class Ranked(OneHome):
    """Threads in the order of their rank; a cursor is how many were shown."""

    def __init__(self, *ns: int) -> None:
        super().__init__()
        self.results = [types.StoredThreadSearchResult(thread=thread(n), snippet="") for n in ns]

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        if self.is_silent:
            raise Unavailable("nothing heard")
        begin = int(params.cursor or 0)
        end = begin + params.page_size
        return types.ThreadSearchPage(
            items=tuple(self.results[begin:end]), next_cursor=str(end) if end < len(self.results) else None
        )


def ranked(a: Sequence[int], b: Sequence[int], c: Sequence[int]) -> Homes:
    return Homes(readers={"a": Ranked(*a), "b": Ranked(*b), "c": Ranked(*c)})


async def best(homes: Homes, size: int, cursor: str | None = None) -> types.ThreadSearchPage:
    params = types.SearchThreadsParams(search_term="x", page_size=size, cursor=cursor, allow_partial=True)
    return await homes.merged.search_threads(params)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 50])
async def test_homes_take_turns_with_their_best_matches(size: int) -> None:
    homes = ranked([4, 8, 5, 12, 16], [1], [3, 7])  # 5 is a copy
    seen: list[int] = []
    cursor: str | None = None

    for _ in range(10):
        page = await best(homes, size, cursor)
        assert len(page.items) <= size
        seen += [number(each.thread.thread_id) for each in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert sorted(seen) == [1, 3, 4, 7, 8, 12, 16]
    assert seen[:4] == [4, 1, 3, 8]


async def test_a_silent_home_takes_its_turns_later() -> None:
    homes = ranked([4, 8, 12], [1, 5], [3])
    homes.silence("b")

    first = await best(homes, 3)
    homes.silence()
    second = await best(homes, 3, first.next_cursor)

    assert [number(each.thread.thread_id) for each in first.items] == [4, 3, 8]
    assert [each.home for each in first.unanswered] == ["b"]
    assert sorted(number(each.thread.thread_id) for each in second.items) == [1, 5, 12]
    assert (second.next_cursor, second.unanswered) == (None, ())


async def test_only_a_silent_home_having_more_ends_the_search() -> None:
    homes = ranked([4], [1], [3])
    homes.silence("b")

    page = await best(homes, 3)

    assert page.next_cursor is None
    assert [each.home for each in page.unanswered] == ["b"]


async def test_a_search_by_rank_is_refused_after_shards_moved() -> None:
    homes = ranked([4, 8], [1, 5], [3])
    page = await best(homes, 2)
    homes.deployment = served(a=(0,), b=(1, 2), c=(3,))

    with pytest.raises(InvalidRequest, match="moved"):
        await best(homes, 2, page.next_cursor)
