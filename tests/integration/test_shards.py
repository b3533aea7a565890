"""Shards are added and moved while the deployment runs; no thread changes its shard."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis
from tests.nodes.items import append, flush, history, message, new_thread, texts
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import DEADLINE, eventually
from tests.nodes.workers import celery_worker
from tests.unit.config.test_deployment import id_made_at

from livethread import Conflict, CreateThreadParams, InvalidRequest, Settings
from livethread.cli import main
from livethread.queued import outbox as outbox_module
from livethread.queued import shards as shards_module
from livethread.queued.connection import connect
from livethread.queued.shards import Shards
from livethread_config.deployment import HomeIdentity, ShardEpochs, home_field
from livethread_config.names import ShardKeys, deployment_key
from livethread_worker.embedded.processes import settings_env

NEW = HomeIdentity("new", "1", "there", "/srv/new")
NEWER = HomeIdentity("newer", "2", "elsewhere", "/srv/newer")


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    return redis_server.client


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "celery", "sweep_interval_s": 0.1})


@pytest.fixture(autouse=True)
def known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "KNOWN_AFTER", 0.0)


@asynccontextmanager
async def shards_of(settings: Settings) -> AsyncIterator[Shards]:
    connection = connect(settings)
    try:
        yield Shards(connection, settings)
    finally:
        await connection.aclose()


def epochs(redis: Redis, settings: Settings) -> ShardEpochs:
    text: Any = redis.hget(deployment_key(settings.key_prefix), "epochs")
    return ShardEpochs(text.decode())


def begin_now(redis: Redis, settings: Settings, shards: int) -> None:
    """Let a shard epoch begin at once, as a client sees it that has slept for a minute."""
    begin = int(time.time() * 1000)
    longer = ShardEpochs.of(*epochs(redis, settings).epochs, (begin, shards))
    redis.hset(deployment_key(settings.key_prefix), "epochs", longer.text)


def places(redis: Redis, settings: Settings) -> dict[str, list[int]]:
    """Return in which shards each thread has a mailbox."""
    found: dict[str, list[int]] = {}
    for shard in range(16):
        prefix = ShardKeys(settings.key_prefix, shard).mailbox("")
        for key in redis.scan_iter(f"{prefix}*", count=1_000):
            found.setdefault(key.decode().removeprefix(prefix), []).append(shard)
    return found


# -- adding ------------------------------------------------------------------------------------------------


async def test_new_shards_begin_a_minute_later(settings: Settings, redis: Redis) -> None:
    async with shards_of(settings) as shards:
        before = time.time() * 1000
        begin, longer = await shards.add(2)

    assert longer == epochs(redis, settings) == ShardEpochs.of((0, 1), (round(begin.timestamp() * 1000), 3))
    assert begin.timestamp() * 1000 >= before + 59_000


async def test_operators_who_add_shards_at_once_all_get_theirs(settings: Settings, redis: Redis) -> None:
    async with shards_of(settings) as one, shards_of(settings) as two:
        await asyncio.gather(one.add(2), two.add(3))

    assert sorted(shards for _, shards in epochs(redis, settings).epochs) in ([1, 3, 6], [1, 4, 6])


async def test_a_deployment_has_a_bounded_number_of_shards(settings: Settings) -> None:
    async with shards_of(settings) as shards:
        with pytest.raises(InvalidRequest, match=r"1 \+ 4096 shards are more than 4096"):
            await shards.add(4096)


async def test_a_thread_whose_id_is_ahead_of_the_clock_keeps_its_shard(settings: Settings, redis: Redis) -> None:
    """The clock of its client was wrong."""
    made_at = int(time.time() * 1000) + 600_000
    ids = [id_made_at(made_at + n) for n in range(10)]
    async with opened(settings.model_copy(update={"reads": "local"})) as store:
        for id_ in ids:
            await store.create_thread(CreateThreadParams(thread_id=id_))
            await append(store, id_, message("one"))
        async with shards_of(settings) as shards:
            _, longer = await shards.add(7)

    assert [longer.shard_of(id_) for id_ in ids] == [0] * 10
    assert longer.epochs[-1][0] == made_at + 10


async def test_no_shard_is_added_while_an_id_is_far_ahead_of_the_clock(settings: Settings) -> None:
    far = "ffffffff-ffff-7fff-8fff-ffffffffffff"
    async with opened(settings.model_copy(update={"reads": "local"})) as store:
        await store.create_thread(CreateThreadParams(thread_id=far))
        await append(store, far, message("one"))
    async with shards_of(settings) as shards:
        with pytest.raises(InvalidRequest, match=f"the id of thread {far} holds a time"):
            await shards.add(1)


@pytest.mark.parametrize("opened_before", [True, False])
async def test_a_client_that_knows_too_few_shards_puts_no_thread_into_a_wrong_one(
    settings: Settings, redis: Redis, opened_before: bool
) -> None:
    async with opened(settings) as store:
        old = [await new_thread(store) for _ in range(5)]
        if opened_before:
            await asyncio.gather(*(append(store, id_, message("one")) for id_ in old))
        await asyncio.sleep(0.002)  # an id holds milliseconds
        begin_now(redis, settings, 8)

        new = [await new_thread(store) for _ in range(30)]
        await asyncio.gather(*(append(store, id_, message("two")) for id_ in old + new))
        await asyncio.gather(*(append(store, id_, message("three")) for id_ in new))

    known = epochs(redis, settings)
    assert places(redis, settings) == {id_: [known.shard_of(id_)] for id_ in old + new}
    assert {known.shard_of(id_) for id_ in old} == {0}
    assert len({known.shard_of(id_) for id_ in new}) > 1


async def test_a_batch_after_the_one_that_learns_of_new_shards_goes_into_the_right_one(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "BATCH_TASKS", 1)
    async with opened(settings) as store:
        old = await new_thread(store)
        await asyncio.sleep(0.002)  # an id holds milliseconds
        begin_now(redis, settings, 8)

        ids = [old, *[await new_thread(store) for _ in range(10)]]
        await asyncio.gather(*(append(store, id_, message("one")) for id_ in ids))

    known = epochs(redis, settings)
    assert places(redis, settings) == {id_: [known.shard_of(id_)] for id_ in ids}


async def test_a_client_that_slept_while_shards_were_added_asks_and_fences_in_the_right_one(
    settings: Settings, redis: Redis
) -> None:
    async with opened(settings) as reading, opened(settings) as fencing, opened(settings) as listing:
        begin_now(redis, settings, 8)
        ids = [id_made_at(int(time.time() * 1000) + 1_000 + n) for n in range(10)]
        async with opened(settings) as store:
            for id_ in ids:
                store._open(id_, epoch=0)
                await append(store, id_, message("one"))

        backlogs = await reading._mailboxes.backlogs(ids)
        fences = [await fencing._mailboxes.fence(id_) for id_ in ids]

        assert set(await listing._mailboxes.waiting_threads()) == set(ids)
        assert all(backlogs[id_].tail for id_ in ids)
        assert [await reading._mailboxes.epoch(id_) for id_ in ids] == fences


async def test_a_running_worker_serves_new_shards_that_no_other_home_takes(settings: Settings, redis: Redis) -> None:
    with celery_worker(settings):
        async with opened(settings) as store:
            begin_now(redis, settings, 8)
            ids = [await new_thread(store) for _ in range(10)]

            await asyncio.gather(*(append(store, id_, message("one")) for id_ in ids))
            await asyncio.gather(*(flush(store, id_) for id_ in ids))

            assert [texts(await history(store, id_)) for id_ in ids] == [["one"]] * 10
            assert len({store._mailboxes.place(id_).shard for id_ in ids}) > 1
        async with shards_of(settings) as shards:
            assert len({state.home for state in await shards.states()}) == 1


# -- moving ------------------------------------------------------------------------------------------------


async def test_a_shard_is_not_moved_while_its_home_is_served(settings: Settings, redis: Redis) -> None:
    async with shards_of(settings) as shards:
        with celery_worker(settings):
            await eventually(lambda: is_seen(redis, settings), "the sweep")
            with pytest.raises(Conflict, match=r"a worker of the home \w+ served shard 0 \d s ago: stop all workers"):
                await shards.move(0, NEW)


def is_seen(redis: Redis, settings: Settings) -> bool:
    return bool(redis.exists(ShardKeys(settings.key_prefix, 0).served))


async def test_a_shard_is_not_moved_while_a_worker_holds_threads(settings: Settings, redis: Redis) -> None:
    now = time.time() * 1000
    redis.zadd(ShardKeys(settings.key_prefix, 0).claims, {"expired": now - 1, "held": now + 60_000})
    async with shards_of(settings) as shards:
        with pytest.raises(Conflict, match="still holds 1 thread of shard 0"):
            await shards.move(0, NEW)


@pytest.mark.parametrize("shard", [1, 7])
async def test_a_shard_that_does_not_exist_is_not_moved(settings: Settings, shard: int) -> None:
    async with shards_of(settings) as shards:
        with pytest.raises(InvalidRequest, match=f"there is no shard {shard}: the deployment has 1"):
            await shards.move(shard, NEW)


async def test_a_move_ends_when_clients_have_read_the_record_again(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then, a client on the former home's host reads the files that are left there."""

    def home() -> object:
        return redis.hget(deployment_key(settings.key_prefix), home_field(0))

    async with shards_of(settings) as shards:
        await shards.move(0, NEW)
        monkeypatch.setattr(shards_module, "KNOWN_AFTER", 3600.0)
        moving = asyncio.create_task(shards.move(0, NEWER))
        await eventually(lambda: home() == NEWER.text.encode(), "the new home in the record")

        assert not moving.done()
        moving.cancel()


async def test_a_worker_whose_shard_was_moved_serves_it_no_more(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was paused for so long that it counted as stopped."""
    monkeypatch.setattr(shards_module, "UNSEEN", -1.0)
    never_seen = settings.model_copy(update={"sweep_interval_s": 0.000_001})
    async with shards_of(never_seen) as shards, opened(settings) as store:
        with celery_worker(settings):
            await eventually(lambda: is_seen(redis, settings), "the sweep")
            former = await shards.move(0, NEW)
            await eventually(lambda: "is served by the home new" in caplog.text, "the end of its service")
            thread_id = await new_thread(store)
            await append(store, thread_id, message("one"))
            keys = ShardKeys(settings.key_prefix, 0)
            await eventually(
                lambda: redis.llen(f"{settings.key_prefix}:celery:{settings.key_prefix}.0"), "a doorbell"
            )

            assert former is not None
            assert redis.zscore(keys.ready, thread_id) is not None


async def test_a_shard_goes_on_in_the_home_to_which_it_was_moved(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its files; the former home is refused from then on."""
    moved = settings.model_copy(update={"home": settings.home.with_name("moved")})
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        with celery_worker(settings):
            await append(store, thread_id, message("one"))
            await flush(store, thread_id)
        shutil.copytree(settings.home, moved.home)
        monkeypatch.setattr(shards_module, "UNSEEN", 0.0)

        async with asyncio.timeout(DEADLINE):
            while (await run(moved, "move", "0"))[0] != 0:
                pass  # until no worker was seen for some sweeps

        with celery_worker(moved):
            await append(store, thread_id, message("two"))
            await flush(store, thread_id)

            assert texts(await history(store, thread_id)) == ["one", "two"]
    with (
        pytest.raises(SystemExit, match="other homes serve all shards"),
        celery_worker(settings),
    ):
        pytest.fail("it started")


# -- the command -------------------------------------------------------------------------------------------


async def run(settings: Settings, *args: str) -> tuple[int, str]:
    env = {name: value for name, value in settings_env(settings).items() if name.startswith("LIVETHREAD_")}
    result = await asyncio.to_thread(CliRunner(env=env).invoke, main, ["shards", *args])
    return result.exit_code, result.output


async def test_the_command_lists_adds_and_moves(settings: Settings, redis: Redis) -> None:
    code, added = await run(settings, "add", "2", "--json")
    assert (code, json.loads(added)["shards"]) == (0, 3)

    code, moved = await run(settings, "move", "2", "--json")
    assert (code, json.loads(moved)["former"]) == (0, None)

    code, listed = await run(settings, "list", "--json")
    states = json.loads(listed)
    assert code == 0
    assert [state["shard"] for state in states] == [0, 1, 2]
    assert [state["home"] and state["home"]["path"] for state in states] == [None, None, str(settings.home)]
    assert [state["since"] for state in states][1:] == [json.loads(added)["begin"]] * 2
    assert [state["seen_at"] for state in states] == [None] * 3

    code, again = await run(settings, "move", "2")
    assert (code, "is served by this home already" in again) == (1, True)
    assert "the beginning" in (await run(settings))[1]


async def test_a_shard_moves_to_a_home_without_its_files_only_on_request(settings: Settings, redis: Redis) -> None:
    other = settings.model_copy(update={"home": settings.home.with_name("other")})
    assert (await run(settings, "move", "0"))[0] == 0

    code, refusal = await run(other, "move", "0")
    assert (code, "stores no thread of shard 0" in refusal, "shards move --empty" in refusal) == (1, True, True)

    assert (await run(other, "move", "0", "--empty"))[0] == 0


async def test_a_shard_moves_to_a_home_that_is_named(settings: Settings, tmp_path: Path) -> None:
    env = {"LIVETHREAD_REDIS_URL": settings.client_url, "LIVETHREAD_KEY_PREFIX": settings.key_prefix}
    result = await asyncio.to_thread(CliRunner(env=env).invoke, main, ["shards", "move", "0"])

    assert result.exit_code == 1
    assert "LIVETHREAD_HOME" in result.output
