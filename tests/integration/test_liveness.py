"""Every way to lose a doorbell costs a bounded delay; docs/guarantees.md lists the bounds, and each test checks one."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from tests.nodes.items import append, flush, history, message, new_thread, texts
from tests.nodes.processes import READY, RedisServer, worker_process
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually, wait_until
from tests.nodes.workers import celery_worker

from livethread import QueuedThreadStore, Settings
from livethread.queued.doorbell import MAX_QUEUED, Doorbell, send
from livethread.queued.scripts import BELL_TTL_MS
from livethread_config import names
from livethread_config.celery_app import deployment_app
from livethread_worker.drain.mailbox import Mailbox


@pytest.fixture(scope="module")
def settings(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Default times: they make the documented bound."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    home = tmp_path_factory.mktemp("liveness") / "home"
    return Settings(redis_url=redis_server.url, home=home, key_prefix=prefix, reads="local")


@pytest.fixture(scope="module")
def worker(settings: Settings) -> Iterator[None]:
    with celery_worker(settings):
        yield


@pytest.fixture
def keys(settings: Settings) -> names.ShardKeys:
    return names.ShardKeys(settings.key_prefix, 0)


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    return redis_server.client


@pytest.fixture
def idle_worker(worker: None, keys: names.ShardKeys, redis: Redis) -> None:
    """A worker without a drain: one that lingers would need no doorbell."""
    wait_until(lambda: redis.exists(keys.drain, keys.bell) == 0, "the end of the drain")


def bound(settings: Settings) -> float:
    """The seconds after which a ready thread is claimed, whatever happened to doorbells."""
    return 2 * (settings.sweep_interval_s + BELL_TTL_MS / 1000)


def lose_doorbells(store: QueuedThreadStore, settings: Settings) -> None:
    """Have *store* ring where no worker listens, as a client with a broker of its own would."""
    elsewhere = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}-elsewhere"})
    store._mailboxes._doorbell = Doorbell(deployment_app("deaf", elsewhere), elsewhere)


async def test_a_lost_doorbell_of_a_client_that_does_not_wait(
    idle_worker: None, settings: Settings, keys: names.ShardKeys, redis: Redis
) -> None:
    async with opened(settings) as store:
        lose_doorbells(store, settings)
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        async with asyncio.timeout(bound(settings)):
            await eventually(lambda: redis.exists(keys.mailbox(thread_id)) == 0, "the sweep")

        assert texts(await history(store, thread_id)) == ["one"]


async def test_waiting_is_not_worse_than_not_waiting(idle_worker: None, settings: Settings) -> None:
    """The waiting client rings again and again, and each of its doorbells is lost."""
    async with opened(settings) as store:
        lose_doorbells(store, settings)
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        await flush(store, thread_id, timeout_s=bound(settings))


async def test_a_drain_died_and_its_heartbeat_is_left(
    idle_worker: None, settings: Settings, keys: names.ShardKeys, redis: Redis
) -> None:
    """The client wakes it instead of ringing."""
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        redis.set(keys.drain, "dead", px=1_000)
        await append(store, thread_id, message("one"))

        await flush(store, thread_id, timeout_s=bound(settings))


async def test_a_worker_died_with_a_claim(idle_worker: None, settings: Settings, redis: Redis) -> None:
    dead = Mailbox(redis, settings, 0)
    async with opened(settings) as store:
        lose_doorbells(store, settings)
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        _, claims = dead.claim()
        claimed = [claim.thread_id for claim in claims]

        await flush(store, thread_id, timeout_s=settings.claim_ttl_s + bound(settings))

    assert claimed == [thread_id]


async def test_a_queue_full_of_yesterdays_doorbells(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}-full", "home": tmp_path / "home"})
    queue = f"{settings.key_prefix}:celery:{names.queue_name(settings.key_prefix, 0)}"
    app = deployment_app("yesterday", settings)
    for _ in range(MAX_QUEUED + 1):
        send(app, settings, names.DRAIN_TASK, 0, {"shard": 0})
    app.close()
    assert redis.llen(queue) == MAX_QUEUED

    worker = worker_process(settings, tmp_path / "worker", "worker")
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        worker.start()
        await asyncio.to_thread(worker.wait_for_log, READY)
        await flush(store, thread_id, timeout_s=bound(settings))
    worker.kill()


async def test_a_doorbell_carries_no_time(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    """So the clocks of client and worker need not agree."""
    settings = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}-clock", "home": tmp_path / "home"})
    queue = f"{settings.key_prefix}:celery:{names.queue_name(settings.key_prefix, 0)}"
    async with opened(settings) as store:
        await append(store, await new_thread(store), message("one"))
        [doorbell] = await eventually(lambda: redis.lrange(queue, 0, -1), "the doorbell")

    headers = json.loads(doorbell)["headers"]
    assert (headers["task"], headers["expires"], headers["eta"]) == (names.DRAIN_TASK, None, None)


async def test_a_stopped_worker_takes_doorbells(settings: Settings, tmp_path: Path) -> None:
    """Redis hands them to its open connection; the other worker sweeps as well."""
    settings = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}-two", "home": tmp_path / "home"})
    workers = [worker_process(settings, tmp_path / name, name) for name in ("one", "two")]
    for worker in workers:
        worker.start()
    for worker in workers:
        await asyncio.to_thread(worker.wait_for_log, READY)
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        for stopped in workers:
            stopped.signal(signal.SIGSTOP)
            await append(store, thread_id, message(stopped.name))
            # The stopped one takes one doorbell at most; a client that waits rings twice at most in that time.
            await flush(store, thread_id, timeout_s=bound(settings))
            stopped.signal(signal.SIGCONT)
    for worker in workers:
        worker.kill()
