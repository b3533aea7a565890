"""Real workers with the documented command, killed by SIGKILL while sessions append."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker  # type: ignore[import-untyped]  # it has no types
from tests.nodes.items import message, texts
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually, wait_until

from livethread import CreateThreadParams, LiveThread, ResumeThreadParams, Settings, ThreadStore
from livethread.journal import journaled
from livethread_config import names
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.verify import verify

THREADS = 10
APPENDS = 500


@asynccontextmanager
async def session_store(settings: Settings, process: str = "one") -> AsyncIterator[ThreadStore]:
    """Open the store of a process that keeps a journal."""
    async with opened(settings) as store:
        with journaled(store, settings.home.parent / f"{process}.jsonl", process) as journaling:
            yield journaling


def check(settings: Settings, appends: int) -> None:
    """Compare the rollouts with the journals: all *appends* are stored once and in order."""
    report = verify(Home(settings.home), settings.home.parent.glob("*.jsonl"))
    assert report.violations == []
    assert report.applied == appends


async def kill_and_restart(worker: CeleryTestWorker) -> None:
    """``kill -9`` of all processes of the worker, then a restart."""
    await asyncio.to_thread(worker.kill)
    assert worker.container.status == "exited"
    await asyncio.to_thread(worker.restart)


async def test_every_line_is_stored_once_and_in_order_though_a_worker_is_killed_twice(
    celery_setup: CeleryTestSetup, deployment: Settings
) -> None:
    accepted = 0

    async def session(thread: LiveThread) -> None:
        nonlocal accepted
        for n in range(APPENDS):
            await thread.append_items([message(f"{n}")])
            accepted += 1
            # Some sessions wait for the worker whenever it is killed.
            if n % 50 == 49:
                await thread.flush(timeout_s=40)

    async with session_store(deployment) as store:
        threads = [await LiveThread.create(store, CreateThreadParams(cwd="/repo")) for _ in range(THREADS)]
        sessions = [asyncio.ensure_future(session(thread)) for thread in threads]
        for share in (1 / 4, 2 / 3):
            due = share * THREADS * APPENDS
            await eventually(lambda: accepted >= due, "the time to kill")  # noqa: B023 - awaited at once
            await kill_and_restart(celery_setup.worker)
        await asyncio.gather(*sessions)
        await asyncio.gather(*(thread.flush(timeout_s=40) for thread in threads))
        histories = [(await thread.load_history()).items[1:] for thread in threads]

    check(deployment, THREADS * APPENDS)
    assert [texts(list(items)) for items in histories] == [[f"{n}" for n in range(APPENDS)]] * THREADS


@pytest.mark.parametrize("workers", [((), ())], ids=["two workers"])
async def test_two_workers_and_two_writers_share_one_order_of_a_thread(
    celery_setup: CeleryTestSetup, deployment: Settings
) -> None:
    """The positions of the receipts are the order; each writer awaits each receipt."""

    async def session(thread: LiveThread, name: str) -> None:
        for n in range(APPENDS):
            await thread.append_items([message(f"{name}{n}")])

    async with session_store(deployment) as store, session_store(deployment, "other") as other:
        first = await LiveThread.create(store, CreateThreadParams())
        await first.persist()
        second = await LiveThread.resume(other, ResumeThreadParams(thread_id=first.thread_id))
        await asyncio.gather(session(first, "a"), session(second, "b"))
        await asyncio.gather(first.flush(), second.flush())

    check(deployment, 2 * APPENDS)


async def test_a_killed_workers_claim_is_applied_though_no_client_waits(
    celery_setup: CeleryTestSetup, deployment: Settings, own_redis: RedisServer
) -> None:
    """The worker is killed after its write and before its commit, for which it waits: the test locks the index."""
    keys = names.ShardKeys(deployment.key_prefix, 0)
    home = Home(deployment.home)
    async with session_store(deployment) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        await thread.append_items([message("0")])
        await thread.flush()
        locked = Index(home)
        locked.db.conn.execute("BEGIN IMMEDIATE")
        await thread.append_items([message("1")])
        path = await asyncio.to_thread(lambda: next(home.sessions.glob(f"*/*/*/*{thread.thread_id}.jsonl")))
        await eventually(lambda: path.read_bytes().count(b"\n") >= 3, "the write")
        claimed = own_redis.client.zscore(keys.claims, thread.thread_id) is not None

        await asyncio.to_thread(celery_setup.worker.kill)
    locked.db.conn.execute("ROLLBACK")
    locked.close()

    await asyncio.to_thread(celery_setup.worker.restart)
    wait_until(lambda: own_redis.client.exists(keys.mailbox(thread.thread_id)) == 0, "the sweep")

    assert claimed
    check(deployment, 2)


async def test_a_worker_sweeps_when_it_starts(
    own_redis: RedisServer, deployment: Settings, request: pytest.FixtureRequest
) -> None:
    """Without a doorbell or a waiting client."""
    queue = f"{deployment.key_prefix}:celery:{names.queue_name(deployment.key_prefix, 0)}"
    keys = names.ShardKeys(deployment.key_prefix, 0)
    async with session_store(deployment) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        await thread.append_items([message("0")])
        await eventually(lambda: own_redis.client.llen(queue), "the doorbell")
    own_redis.client.delete(queue, keys.bell)

    request.getfixturevalue("celery_worker_cluster")

    wait_until(lambda: own_redis.client.exists(keys.mailbox(thread.thread_id)) == 0, "the sweep")
    check(deployment, 1)


async def test_the_documented_command_serves_the_queues_of_all_shards(
    celery_setup: CeleryTestSetup, deployment: Settings
) -> None:
    """Without ``-Q``: the worker derives its queues from its settings."""
    inspect = celery_setup.app.control.inspect(limit=1, timeout=10.0)  # do not wait for a second answer

    active = await asyncio.to_thread(inspect.active_queues)

    assert active is not None
    assert [sorted(queue["name"] for queue in queues) for queues in active.values()] == [
        [names.queue_name(deployment.key_prefix, 0)]
    ]
