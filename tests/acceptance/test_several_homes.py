"""Two homes with a worker each, as two hosts: clients with and without a home read the threads of both."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from click.testing import CliRunner
from tests.nodes.items import append, flush, history, new_thread, read, said, texts, update
from tests.nodes.processes import READY, ChildProcess, RedisServer, worker_process
from tests.nodes.stores import opened
from tests.store_spec.operations import delete

from livethread import (
    FindThreadByNameParams,
    ListThreadsParams,
    ReadThreadByRolloutPathParams,
    ReadThreadParams,
    SearchThreadsParams,
    Settings,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadReader,
    ThreadStore,
)
from livethread.cli import main
from livethread.composition import open_reader
from livethread.errors import HomesUnavailable
from livethread.types import RelationKind, SearchMatch, SortDirection, ThreadPage, ThreadRelationFilter, ThreadSortKey
from livethread_config import names
from livethread_worker.embedded.processes import settings_env

THREADS = 12


@dataclass
class Deployment:
    """Two homes; *threads* are all threads, oldest first."""

    homes: list[Settings]
    workers: list[ChildProcess]
    threads: list[str]

    @property
    def nowhere(self) -> Settings:
        """Settings of a client without a home."""
        return self.homes[0].model_copy(update={"home": self.homes[0].home / "none", "reads": "celery"})

    def shard_of(self, thread_id: str) -> int:
        return names.shard_of(thread_id, 2)

    def client(self, place: str) -> Settings:
        return self.nowhere if place == "nowhere" else self.homes[int(place)]

    @contextmanager
    def paused(self, shard: int) -> Iterator[None]:
        """Suspend the only worker of *shard*."""
        self.workers[shard].signal(signal.SIGSTOP)
        yield
        self.workers[shard].signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def deployment(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("homes")
    homes = [
        Settings(redis_url=redis_server.url, home=folder / str(shard), key_prefix="homes", shards=2, reads="local")
        for shard in range(2)
    ]
    workers = [
        worker_process(
            home, folder, f"worker-{shard}", "--queues", names.queue_name("homes", shard), "--pool", "solo"
        )
        for shard, home in enumerate(homes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.wait_for_log(READY)
    found = Deployment(homes, workers, [])
    found.threads = asyncio.run(write(found))
    yield found
    for worker in workers:
        worker.kill()


async def write(deployment: Deployment) -> list[str]:
    """Store threads in both shards, each spawned by the one before, which is in the other home."""
    threads: list[str] = []
    async with opened(deployment.nowhere) as store:
        while len(threads) < THREADS:
            thread_id = await new_thread(store, parent_thread_id=threads[-1] if threads else None)
            if deployment.shard_of(thread_id) != len(threads) % 2:
                continue
            threads.append(thread_id)
            await append(store, thread_id, said(f"needle {len(threads)}"))
            await update(store, thread_id, ThreadMetadataPatch(name="same", preview=f"needle {len(threads)}"))
            await flush(store, thread_id)
    return threads


@pytest.fixture(params=["nowhere", "0", "1"])
def client(request: pytest.FixtureRequest, deployment: Deployment) -> Settings:
    """Settings of a client without a home, or with one of the two."""
    return deployment.client(request.param)


async def pages(reader: ThreadReader, **params: object) -> list[ThreadPage]:
    found = [await reader.list_threads(ListThreadsParams.model_validate(params))]
    while found[-1].next_cursor:
        cursor = found[-1].next_cursor
        found.append(await reader.list_threads(ListThreadsParams.model_validate(params | {"cursor": cursor})))
    return found


def ids(found: list[ThreadPage]) -> list[str]:
    return [thread.thread_id for thread in itertools.chain(*(page.items for page in found))]


async def test_a_listing_shows_all_threads_of_both_homes_once_and_in_order(
    client: Settings, deployment: Deployment
) -> None:
    async with opened(client) as store:
        newest_first = await pages(store, page_size=5)
        oldest_first = await pages(store, page_size=5, sort_direction=SortDirection.ASC)

    assert ids(newest_first) == deployment.threads[::-1]
    assert ids(oldest_first) == deployment.threads
    assert [len(page.items) for page in newest_first] == [5, 5, 2]


async def test_a_search_finds_the_threads_of_both_homes(client: Settings, deployment: Deployment) -> None:
    found: dict[str, list[str]] = {}
    async with open_reader(client) as reader:
        for kind, search in {
            "literal": SearchThreadsParams(search_term="needle", page_size=5, match=SearchMatch.LITERAL),
            "by time": SearchThreadsParams(search_term="needle", page_size=5, sort_key=ThreadSortKey.CREATED_AT),
            "by rank": SearchThreadsParams(search_term="needle", page_size=5),
        }.items():
            page = await reader.search_threads(search)
            results = [*page.items]
            while page.next_cursor:
                page = await reader.search_threads(search.model_copy(update={"cursor": page.next_cursor}))
                results += page.items
            found[kind] = [result.thread.thread_id for result in results]

    assert found["literal"] == found["by time"] == deployment.threads[::-1]
    assert sorted(found["by rank"]) == sorted(deployment.threads)
    assert {deployment.shard_of(thread_id) for thread_id in found["by rank"][:2]} == {0, 1}


async def test_one_thread_is_read_wherever_it_lies(client: Settings, deployment: Deployment) -> None:
    async with open_reader(client) as reader:
        for number, thread_id in enumerate(deployment.threads[:2], start=1):
            thread = await read(reader, thread_id)
            path = str(thread.rollout_path)
            assert path.startswith(str(deployment.homes[deployment.shard_of(thread_id)].home))
            assert texts(await history(reader, thread_id)) == [f"needle {number}"]
            by_path = ReadThreadByRolloutPathParams(rollout_path=path)
            assert (await reader.read_thread_by_rollout_path(by_path)).thread_id == thread_id
        assert (await reader.find_thread_by_name(FindThreadByNameParams(name="same"))).thread_id == (
            deployment.threads[-1]
        )


async def test_a_subtree_over_both_homes_is_listed_whole(client: Settings, deployment: Deployment) -> None:
    _, third, *rest = deployment.threads[1:]
    relation = ThreadRelationFilter(kind=RelationKind.DESCENDANTS, thread_id=third)

    async with open_reader(client) as reader:
        assert ids(await pages(reader, page_size=5, relation_filter=relation)) == rest[::-1]


async def test_a_fresh_listing_shows_what_both_homes_have_not_applied_yet(
    client: Settings, deployment: Deployment
) -> None:
    async with opened(deployment.nowhere) as store, open_reader(client) as reader:
        new: dict[int, str] = {}
        while len(new) < 2:
            thread_id = await new_thread(store)
            new[deployment.shard_of(thread_id)] = thread_id
        for thread_id in new.values():
            await append(store, thread_id, said("unflushed"))

        page = await reader.list_threads(
            ListThreadsParams(page_size=3, include_without_preview=True, use_state_db_only=True, fresh=True)
        )

        assert set(new.values()) <= {thread.thread_id for thread in page.items}
        await delete_threads(store, *new.values())


async def delete_threads(store: ThreadStore, *thread_ids: str) -> None:
    for thread_id in thread_ids:
        await delete(store, thread_id)
        with pytest.raises(ThreadNotFound):
            await store.read_thread(ReadThreadParams(thread_id=thread_id, fresh=True))


async def test_a_home_without_a_running_worker_is_named_within_the_timeout(deployment: Deployment) -> None:
    client = deployment.nowhere.model_copy(update={"flush_timeout_s": 1.0})
    with deployment.paused(1):
        async with open_reader(client) as reader:
            with pytest.raises(
                HomesUnavailable, match=r"\(shards: 1\): no worker of shard 1 .home .* answered within 1 s"
            ) as raised:
                await pages(reader)
            [page] = await pages(reader, allow_partial=True)
        async with open_reader(deployment.homes[1]) as reader:  # which reads that home itself
            assert ids(await pages(reader)) == deployment.threads[::-1]

    assert ids([page]) == deployment.threads[::2][::-1]
    assert [home.home for home in raised.value.unanswered] == [home.home for home in page.unanswered]
    assert [home.shards for home in page.unanswered] == [(1,)]


async def test_a_home_knows_of_the_others_while_redis_is_away(deployment: Deployment) -> None:
    client = deployment.homes[0].model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})

    async with open_reader(client) as reader:
        with pytest.raises(HomesUnavailable, match=r"\(shards: 1\): Redis at"):
            await pages(reader)
        [page] = await pages(reader, allow_partial=True)
        await read(reader, deployment.threads[0])

    assert ids([page]) == deployment.threads[::2][::-1]


def test_the_commands_show_the_threads_of_both_homes(deployment: Deployment) -> None:
    env = settings_env(deployment.nowhere.model_copy(update={"flush_timeout_s": 1.0}))

    listed = CliRunner().invoke(main, ["ls", "--json"], env=env)
    shown = [CliRunner().invoke(main, ["show", each, "--json"], env=env) for each in deployment.threads[:2]]
    with deployment.paused(1):
        refused = CliRunner().invoke(main, ["search", "needle"], env=env)
        partial = CliRunner().invoke(main, ["search", "needle", "--partial", "--json"], env=env)

    assert {each["thread_id"] for each in json.loads(listed.stdout)["items"]} == set(deployment.threads)
    assert [json.loads(each.stdout)["thread_id"] for each in shown] == deployment.threads[:2]
    assert (refused.exit_code, "no answer from home" in refused.stderr) == (1, True)
    assert "(shards: 1): no worker of shard 1" in partial.stderr
    found = {each["thread"]["thread_id"] for each in json.loads(partial.stdout)["items"]}
    assert found == set(deployment.threads[::2])
