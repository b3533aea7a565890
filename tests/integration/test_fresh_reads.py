"""Reads and listings that must be fresh, while another client writes: they wait for workers, or say why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner
from redis import Redis
from tests.nodes.items import append, flush, message, new_thread, read, said, update
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.workers import HandWorker, celery_worker, draining

from livethread import (
    FindThreadByNameParams,
    ListThreadsParams,
    LoadThreadHistoryParams,
    QueuedThreadStore,
    ReadThreadParams,
    ResumeThreadParams,
    SearchThreadsParams,
    Settings,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadParked,
    ThreadReader,
    Unavailable,
)
from livethread.cli import main
from livethread.composition import open_reader
from livethread.model import utc_now
from livethread.ordered_tasks import AppendItems, DeleteThread, OrderedTask
from livethread.position import position_key
from livethread.queued import backlog
from livethread.queued.writer import Submission
from livethread_config import names

FRESH = ListThreadsParams(include_without_preview=True, page_size=1000, fresh=True)


@pytest.fixture
def redis(own_redis: RedisServer) -> Redis:
    return own_redis.client


@pytest.fixture
async def writing(own_settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    """The store that writes."""
    async with opened(own_settings) as store:
        yield store


@pytest.fixture
async def reading(own_settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    """The store of another client, which reads the home."""
    async with opened(own_settings.model_copy(update={"flush_timeout_s": 10.0})) as store:
        yield store


@asynccontextmanager
async def impatient(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings.model_copy(update={"flush_timeout_s": 0.3})) as store:
        yield store


@pytest.fixture
def celery(own_settings: Settings) -> Iterator[None]:
    with celery_worker(own_settings):
        yield


async def park(store: QueuedThreadStore, worker: HandWorker, thread_id: str) -> str:
    """Append a line that no worker can apply, and return the position of its task."""
    task = OrderedTask(AppendItems(at=utc_now()), (b'{"poison": true}',)).encode()
    position = await store._submit(store._threads.require(thread_id), Submission(task))
    await asyncio.to_thread(worker.drain)
    return position


# -- every acknowledged task shows -------------------------------------------------------------------------


@pytest.mark.parametrize("reads", ["local", "celery"])
@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "at_least"])
@pytest.mark.usefixtures("celery")
async def test_a_fresh_read_misses_no_append_of_another_client(
    own_settings: Settings, writing: QueuedThreadStore, reads: str, *, is_fresh: bool
) -> None:
    thread_id = await new_thread(writing)
    async with opened(own_settings.model_copy(update={"reads": reads})) as reading:
        for n in range(100):
            position = (await append(writing, thread_id, message(f"{n}"))).position
            shown = await reading.load_history(
                LoadThreadHistoryParams(thread_id=thread_id, fresh=is_fresh, at_least=None if is_fresh else position)
            )
            assert (len(shown.items), shown.position) == (n + 2, position)


@pytest.mark.usefixtures("celery")
async def test_a_fresh_listing_misses_no_thread_of_another_client(
    writing: QueuedThreadStore, reading: QueuedThreadStore
) -> None:
    for n in range(30):
        thread_id = await new_thread(writing)
        await append(writing, thread_id, said(f"zebra{n}"))
        name = ThreadMetadataPatch(name=f"n{n}", preview="p")
        await update(writing, thread_id, name)

        match n % 3:
            case 0:
                assert thread_id in {thread.thread_id for thread in (await reading.list_threads(FRESH)).items}
            case 1:
                found = await reading.search_threads(SearchThreadsParams(search_term=f"zebra{n}", fresh=True))
                assert [result.thread.thread_id for result in found.items] == [thread_id]
            case _:
                named = await reading.find_thread_by_name(FindThreadByNameParams(name=f"n{n}", fresh=True))
                assert named.thread_id == thread_id


async def test_a_fresh_listing_waits_for_many_threads_of_several_shards_together(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "BACKLOGS", 7)
    settings = own_settings.model_copy(update={"shards": 3})
    async with opened(settings) as writing, opened(settings) as reading:
        threads = [await new_thread(writing) for _ in range(60)]
        await asyncio.gather(*(append(writing, thread_id, message("one")) for thread_id in threads))
        listing = asyncio.create_task(reading.list_threads(FRESH))
        with celery_worker(settings):
            page = await listing

    assert {thread.thread_id for thread in page.items} == set(threads)


@pytest.mark.parametrize("reads", ["local", "celery"])
@pytest.mark.usefixtures("celery")
async def test_a_reader_without_a_store_can_be_fresh(
    own_settings: Settings, writing: QueuedThreadStore, reads: str
) -> None:
    thread_id = await new_thread(writing)
    async with open_reader(own_settings.model_copy(update={"reads": reads})) as reader:
        for n in range(10):
            position = (await append(writing, thread_id, message(f"{n}"))).position
            assert (await fresh(reader, thread_id)) == position
        await append(writing, thread_id, message("last"))
        [thread] = (await reader.list_threads(FRESH)).items

    assert position_key(thread.position) > position_key(position)


@pytest.mark.usefixtures("celery")
async def test_commands_show_what_was_accepted(
    own_settings: Settings, writing: QueuedThreadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVETHREAD_REDIS_URL", str(own_settings.redis_url))
    monkeypatch.setenv("LIVETHREAD_HOME", str(own_settings.home))
    monkeypatch.setenv("LIVETHREAD_KEY_PREFIX", own_settings.key_prefix)
    thread_id = await new_thread(writing)
    for arguments in (["show", thread_id], ["ls", "--all"], ["search", "zebra"]):
        position = (await append(writing, thread_id, said("zebra"))).position
        result = await asyncio.to_thread(CliRunner().invoke, main, [*arguments, "--fresh", "--json"])
        assert f'"{position}"' in result.stdout, result.output


async def test_a_reader_of_files_is_not_fresh_without_redis(
    own_settings: Settings, own_worker: HandWorker, writing: QueuedThreadStore, own_redis: RedisServer
) -> None:
    thread_id = await new_thread(writing)
    position = (await append(writing, thread_id, message("one"))).position
    await asyncio.to_thread(own_worker.drain)
    own_redis.kill()

    async with open_reader(own_settings) as reader:
        assert (await read(reader, thread_id)).position == position
        with pytest.raises(Unavailable):
            await fresh(reader, thread_id)
        with pytest.raises(Unavailable):
            await reader.list_threads(FRESH)
    own_redis.start()


async def fresh(reader: ThreadReader, thread_id: str) -> str:
    return (await reader.read_thread(ReadThreadParams(thread_id=thread_id, fresh=True))).position


# -- what a position is known by ---------------------------------------------------------------------------


async def test_a_fresh_read_knows_the_position_after_the_index_forgot_it(
    own_settings: Settings, own_worker: HandWorker, writing: QueuedThreadStore
) -> None:
    thread_id = await new_thread(writing)
    position = (await append(writing, thread_id, message("one"))).position
    await asyncio.to_thread(own_worker.drain)
    await flush(writing, thread_id)
    own_worker.close()
    for path in own_settings.own_dir.glob("index.sqlite*"):
        path.unlink()

    async with opened(own_settings) as reading:
        assert (await read(reading, thread_id)).position == "0-0"
        thread = await reading.read_thread(
            ReadThreadParams(thread_id=thread_id, include_history=True, at_least=position)
        )
        resumed = await reading.resume_thread(ResumeThreadParams(thread_id=thread_id))

    assert thread.history is not None
    assert {thread.position, thread.history.position, resumed.position} == {position}


async def test_a_fresh_read_waits_for_tasks_whose_last_position_redis_lost(
    own_settings: Settings,
    own_worker: HandWorker,
    writing: QueuedThreadStore,
    reading: QueuedThreadStore,
    redis: Redis,
) -> None:
    thread_id = await new_thread(writing)
    position = (await append(writing, thread_id, message("one"))).position
    redis.delete(names.ShardKeys(own_settings.key_prefix, 0).writers(thread_id))

    async with draining(own_worker):
        assert await fresh(reading, thread_id) == position


async def test_a_fresh_read_of_an_idle_thread_asks_redis_once(
    own_worker: HandWorker, writing: QueuedThreadStore, reading: QueuedThreadStore, redis: Redis
) -> None:
    thread_id = await new_thread(writing)
    await append(writing, thread_id, message("one"))
    await asyncio.to_thread(own_worker.drain)
    await flush(writing, thread_id)
    await fresh(reading, thread_id)  # Redis has the script now

    redis.config_resetstat()
    await fresh(reading, thread_id)
    calls = redis.info("commandstats")

    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert not {"cmdstat_xadd", "cmdstat_lpush", "cmdstat_eval"} & calls.keys()


# -- what cannot show --------------------------------------------------------------------------------------


async def test_a_fresh_read_of_a_parked_thread_raises_its_reason(
    own_worker: HandWorker, writing: QueuedThreadStore, reading: QueuedThreadStore
) -> None:
    thread_id = await new_thread(writing)
    before = (await append(writing, thread_id, message("before"))).position
    poisoned = await park(writing, own_worker, thread_id)

    for demand in ({"fresh": True}, {"at_least": poisoned}):
        with pytest.raises(ThreadParked, match="holds no item"):
            await reading.read_thread(ReadThreadParams.model_validate({"thread_id": thread_id, **demand}))
    with pytest.raises(ThreadParked, match=thread_id):
        await reading.list_threads(FRESH)
    assert (await reading.read_thread(ReadThreadParams(thread_id=thread_id, at_least=before))).position == before
    assert (await read(reading, thread_id)).position == before


async def test_a_fresh_read_of_a_deleted_thread_finds_nothing(
    own_settings: Settings, writing: QueuedThreadStore, reading: QueuedThreadStore, own_worker: HandWorker
) -> None:
    thread_id = await new_thread(writing)
    await append(writing, thread_id, message("one"))
    await asyncio.to_thread(own_worker.drain)
    task = OrderedTask(DeleteThread(at=utc_now())).encode()
    await writing._submit(writing._threads.require(thread_id), Submission(task))

    with pytest.raises(ThreadNotFound, match="deleted"):
        await fresh(reading, thread_id)
    async with draining(own_worker):
        assert (await reading.list_threads(FRESH)).items == ()


async def test_a_fresh_read_outlives_a_worker_that_is_killed_with_the_claim(
    own_settings: Settings, writing: QueuedThreadStore, reading: QueuedThreadStore
) -> None:
    worker = HandWorker(own_settings.model_copy(update={"claim_ttl_s": 0.5}))
    thread_id = await new_thread(writing)
    position = (await append(writing, thread_id, message("one"))).position
    worker.mailbox().claim()  # and dies

    reads = asyncio.create_task(fresh(reading, thread_id)), asyncio.create_task(reading.list_threads(FRESH))
    async with draining(worker):
        shown, page = await reads[0], await reads[1]
    worker.close()

    assert shown == position
    assert [thread.position for thread in page.items] == [position]


async def test_a_fresh_read_that_times_out_names_the_cause(
    own_settings: Settings, writing: QueuedThreadStore
) -> None:
    thread_id = await new_thread(writing)
    await append(writing, thread_id, message("one"))

    async with impatient(own_settings) as reading:
        for attempt in (fresh(reading, thread_id), reading.list_threads(FRESH)):
            with pytest.raises(Unavailable, match=thread_id) as failure:
                await attempt
            assert "No worker has ever looked for tasks of shard 0" in str(failure.value)
