"""A deployment knows its shards, its homes and its wire; what contradicts the record is refused at start."""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from tests.nodes.items import append, flush, message, new_thread
from tests.nodes.processes import RedisServer, worker_process
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually, wait_until
from tests.nodes.workers import celery_worker

from livethread import InvalidRequest, ListThreadsParams, ReadThreadParams, Settings, Unavailable, open_store
from livethread.composition import open_parked_threads, open_queue_state, open_reader, open_shards
from livethread_config.deployment import WIRE, Deployment, HomeIdentity
from livethread_config.names import ShardKeys, deployment_key
from livethread_worker.app import create_app
from livethread_worker.drain.mailbox import Mailbox
from livethread_worker.membership import Membership
from livethread_worker.serving import Serving
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.identity import recall_record
from livethread_worker.store.write.outcome import Outcome, OutcomeKind


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    return redis_server.client


def start(settings: Settings, *queues: str) -> list[int]:
    """Do what a worker does before it serves, with ``-Q`` *queues* if there are any; return its shards."""
    app = create_app(settings)
    app.amqp.queues.select(list(queues))
    serving = Serving(app, settings)
    with closing(Redis.from_url(settings.client_url)) as redis:
        serving.begin(Membership(redis, Home(settings.home), settings))
    app.close()
    return serving.consumed()


def record(redis: Redis, settings: Settings) -> Deployment:
    fields: Any = redis.hgetall(deployment_key(settings.key_prefix))
    return Deployment.parse({name.decode(): value.decode() for name, value in fields.items()})


def with_home(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"home": settings.home.with_name(name)})


async def open_client(settings: Settings) -> None:
    async with open_store(settings):
        pass


async def open_worker(settings: Settings) -> None:
    await asyncio.to_thread(start, settings)


async def read(settings: Settings) -> None:
    async with open_reader(settings.model_copy(update={"reads": "celery"})):
        pass


ENTRANCES = pytest.mark.parametrize("enter", [open_client, open_worker, read])
Entrance = Callable[[Settings], Awaitable[None]]


def sharded(settings: Settings, shards: int) -> Settings:
    return settings.model_copy(update={"shards": shards})


# -- what both sides agree on ------------------------------------------------------------------------------


def test_the_first_process_writes_the_record_and_a_worker_its_home(settings: Settings, redis: Redis) -> None:
    assert start(sharded(settings, 2)) == [0, 1]

    deployment = record(redis, settings)
    home = deployment.home_of[0]
    assert deployment.epochs.text == "[[0,2]]"
    assert deployment.home_of == {0: home, 1: home}
    assert home.path == str(settings.home)


@ENTRANCES
async def test_without_a_number_of_shards_a_process_takes_the_records(
    settings: Settings, redis: Redis, enter: Entrance
) -> None:
    await open_client(sharded(settings, 3))

    await enter(settings)

    assert record(redis, settings).epochs.text == "[[0,3]]"


@ENTRANCES
async def test_another_number_of_shards_is_refused_with_both(settings: Settings, enter: Entrance) -> None:
    await open_client(sharded(settings, 3))

    with pytest.raises(InvalidRequest, match=r"LIVETHREAD_SHARDS is 2, but the deployment .* has 3 shards"):
        await enter(sharded(settings, 2))


@ENTRANCES
async def test_another_wire_is_refused_with_both_versions(settings: Settings, redis: Redis, enter: Entrance) -> None:
    redis.hset(deployment_key(settings.key_prefix), "wire", WIRE + 1)

    with pytest.raises(
        InvalidRequest, match=f"speaks version {WIRE + 1} of the wire, and this release version {WIRE}"
    ):
        await enter(settings)


@ENTRANCES
async def test_a_damaged_record_is_refused(settings: Settings, redis: Redis, enter: Entrance) -> None:
    redis.hset(deployment_key(settings.key_prefix), mapping={"wire": WIRE, "epochs": "[]"})

    with pytest.raises(InvalidRequest, match=r"the deployment record in Redis .* is malformed"):
        await enter(settings)


async def test_reading_creates_no_record(settings: Settings, redis: Redis) -> None:
    await read(settings)
    async with open_reader(settings) as reader, open_queue_state(settings) as state, AsyncExitStack() as stack:
        await reader.list_threads(ListThreadsParams(fresh=True))
        assert await state.parked() == {}
        assert await (await open_parked_threads(stack, settings)).all() == []
        assert len(await (await open_shards(stack, settings)).states()) == 1

    assert not redis.exists(deployment_key(settings.key_prefix))


# -- homes and queues --------------------------------------------------------------------------------------


@pytest.mark.parametrize("enter", [open_client, open_worker])
async def test_a_home_of_another_prefix_is_refused_with_both(settings: Settings, enter: Entrance) -> None:
    start(settings)
    other = settings.model_copy(update={"key_prefix": f"t{uuid.uuid4().hex[:12]}", "reads": "local"})

    with pytest.raises(
        InvalidRequest, match=f"{settings.key_prefix!r}, and LIVETHREAD_KEY_PREFIX is {other.key_prefix!r}"
    ):
        await enter(other)


def test_a_second_home_is_refused_if_the_first_one_serves_all_shards(settings: Settings, redis: Redis) -> None:
    start(settings)
    first = record(redis, settings).home_of[0]

    with pytest.raises(InvalidRequest, match="other homes serve all shards") as refusal:
        start(with_home(settings, "second"))

    assert f"0 by {first}" in str(refusal.value)
    assert str(settings.home.with_name("second")) in str(refusal.value)
    assert record(redis, settings).home_of == {0: first}


def test_each_home_serves_the_shards_of_its_workers_queues(settings: Settings, redis: Redis) -> None:
    settings, prefix = sharded(settings, 4), settings.key_prefix

    assert start(settings, f"{prefix}.0", f"{prefix}.2") == [0, 2]
    assert start(with_home(settings, "second"), f"{prefix}.1") == [1]
    assert start(with_home(settings, "second")) == [1, 3]
    assert start(settings) == [0, 2]
    home_of = record(redis, settings).home_of
    assert sorted(home_of) == [0, 1, 2, 3]
    assert home_of[0] == home_of[2] != home_of[1] == home_of[3]


def test_shards_that_were_just_added_are_for_a_new_home(settings: Settings, redis: Redis) -> None:
    start(settings)
    redis.hset(deployment_key(settings.key_prefix), "epochs", f"[[0,1],[{time.time_ns() // 1_000_000 + 60_000},3]]")

    assert start(settings) == [0]
    assert start(with_home(settings, "second")) == [1, 2]


def test_a_queue_whose_shard_another_home_serves_is_refused_with_both_homes(settings: Settings, redis: Redis) -> None:
    start(settings)
    second = with_home(settings, "second")

    with pytest.raises(InvalidRequest, match="shard 0 of the deployment") as refusal:
        start(second, f"{settings.key_prefix}.0")

    assert str(record(redis, settings).home_of[0]) in str(refusal.value)
    assert str(second.home) in str(refusal.value)
    assert "livethread shards move 0" in str(refusal.value)


def test_a_queue_without_a_shard_is_refused(settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match=rf"-Q names {settings.key_prefix}\.2, but .* has 2 shards"):
        start(sharded(settings, 2), f"{settings.key_prefix}.2")


def test_a_copy_of_a_home_is_refused_and_the_original_goes_on(settings: Settings) -> None:
    start(settings)
    copy = with_home(settings, "copy")
    shutil.copytree(settings.home, copy.home)

    with pytest.raises(InvalidRequest, match=r"this worker's home is .*, a copy of one of them"):
        start(copy)

    assert start(settings) == [0]


def test_a_restored_home_serves_beside_a_new_redis(settings: Settings, redis: Redis) -> None:
    start(sharded(settings, 2))
    backup = with_home(settings, "backup")
    shutil.copytree(settings.home, backup.home)
    redis.delete(deployment_key(settings.key_prefix))

    assert start(backup) == [0, 1]


def test_a_home_that_was_copied_with_its_embedded_redis_becomes_its_own(own_redis: RedisServer) -> None:
    settings = own_redis.settings
    assert settings.is_embedded
    start(settings)
    original = record(own_redis.client, settings).home_of[0]
    path = Home(settings.home).own / "home.json"
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    copy.replace(path)

    assert start(settings) == [0]
    assert record(own_redis.client, settings).home_of[0] != original


def test_a_worker_that_is_refused_ends_with_the_reason(settings: Settings, tmp_path: Path) -> None:
    start(settings)
    worker = worker_process(with_home(settings, "second"), tmp_path / "worker", "worker")
    worker.start()

    wait_until(lambda: not worker.is_running, "the worker's end")

    assert worker.returncode == 1
    assert "other homes serve all shards of the deployment" in worker.logs()


def test_a_home_that_no_longer_serves_a_shard_claims_nothing(settings: Settings, redis: Redis) -> None:
    """Its worker was paused while the shard was moved."""
    start(settings)
    former = record(redis, settings).home_of[0]
    mailbox = Mailbox(redis, settings, 0, former)
    assert mailbox.claim() == (False, [])
    redis.hset(deployment_key(settings.key_prefix), "home:0", HomeIdentity("new", "1").text)

    with pytest.raises(ResponseError, match="HOME another home serves this shard"):
        mailbox.claim()


async def test_a_home_that_no_longer_serves_a_shard_acknowledges_nothing(settings: Settings, redis: Redis) -> None:
    """Its worker was paused in a batch while the shard was moved, and applied the batch to the files that were left."""
    start(settings)
    mailbox = Mailbox(redis, settings, 0, record(redis, settings).home_of[0])
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        receipt = await append(store, thread_id, message("one"))
        _, claims = mailbox.claim()
        redis.hset(deployment_key(settings.key_prefix), "home:0", HomeIdentity("new", "1").text)

        settled = mailbox.settle(claims, {thread_id: Outcome(OutcomeKind.DONE, receipt.position)})

        keys = ShardKeys(settings.key_prefix, 0)
        assert (settled, redis.xlen(keys.mailbox(thread_id)) > 0, redis.exists(keys.applied(thread_id))) == (
            0,
            True,
            0,
        )


async def test_a_restored_home_is_read_while_redis_is_away(own_settings: Settings, own_redis: RedisServer) -> None:
    settings = own_settings.model_copy(update={"reads": "auto"})
    start(settings)
    backup = with_home(settings, "backup")
    shutil.copytree(settings.home, backup.home)
    own_redis.kill()

    async with open_reader(backup) as reader:
        assert (await reader.list_threads(ListThreadsParams())).items == ()


async def test_a_reader_that_was_opened_while_redis_was_away_learns_the_deployment(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    settings = own_settings.model_copy(update={"reads": "auto"})
    own_redis.kill()
    async with open_reader(with_home(settings, "empty")) as reader:
        own_redis.start()
        with celery_worker(settings):
            async with opened(settings) as store:
                thread_id = await new_thread(store)
                await append(store, thread_id, message("one"))
                await flush(store, thread_id)

            found = await reader.read_thread(ReadThreadParams(thread_id=thread_id))

    assert found.thread_id == thread_id


# -- Redis loses the record --------------------------------------------------------------------------------


async def test_a_client_restores_the_record_before_redis_accepts_more(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    settings = sharded(own_settings, 3)
    start(settings)
    before = record(own_redis.client, settings)
    async with opened(own_settings) as store:
        own_redis.client.flushall()

        await append(store, await new_thread(store), message("one"))

        assert record(own_redis.client, settings) == before


async def test_a_worker_restores_the_record_from_its_home(own_settings: Settings, own_redis: RedisServer) -> None:
    start(sharded(own_settings, 3))
    before = record(own_redis.client, own_settings)
    own_redis.client.flushall()

    start(own_settings)

    assert record(own_redis.client, own_settings) == before


async def test_a_running_worker_restores_the_record(own_settings: Settings, own_redis: RedisServer) -> None:
    with celery_worker(own_settings.model_copy(update={"sweep_interval_s": 0.05})):
        before = record(own_redis.client, own_settings)
        own_redis.client.flushall()

        await eventually(lambda: own_redis.client.hlen(deployment_key(own_settings.key_prefix)) >= 3, "the record")
        async with opened(own_settings) as store:
            thread_id = await new_thread(store)
            await append(store, thread_id, message("one"))
            await flush(store, thread_id)

        assert record(own_redis.client, own_settings) == before


async def test_a_record_that_others_wrote_anew_takes_no_tasks(
    own_settings: Settings, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Until the operator deletes it, the tasks stay queued in the client."""
    settings = sharded(own_settings, 3).model_copy(update={"enqueue_timeout_s": 0.2})
    key = deployment_key(settings.key_prefix)
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        own_redis.client.flushall()
        await open_client(own_settings)

        with pytest.raises(Unavailable, match=r"says 1 shard .* this process knows 3 shards") as refusal:
            await append(store, thread_id, message("two"))

        assert refusal.value.is_queued
        own_redis.client.delete(key)
        await append(store, thread_id, message("three"))
        assert record(own_redis.client, settings).epochs.text == "[[0,3]]"


def test_a_home_keeps_the_record_as_soon_as_its_disk_has_room(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    home = Home(settings.home)
    membership = Membership(redis, home, settings)
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        membership.refresh()
    assert recall_record(home) is None
    assert [path.name for path in home.own.glob(".deployment*")] == []

    membership.refresh()

    assert recall_record(home) == record(redis, settings)
