"""``livethread status`` against a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.nodes.items import append, message, new_thread
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import wait_until
from tests.nodes.workers import HandWorker

from livethread import QueuedThreadStore
from livethread.cli import main
from livethread.model import utc_now
from livethread.ordered_tasks import AppendItems, OrderedTask
from livethread.queued.writer import Submission
from livethread.status import collector
from livethread.status.collector import SHOWN, open_status
from livethread.status.findings import Sentence
from livethread.status.status import Status
from livethread_config import Settings, names


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for a Redis that answers: other tests may load the machine."""
    monkeypatch.setattr(collector, "REDIS_TIMEOUT", 30.0)
    monkeypatch.setattr(collector, "FRESH", 0)


@pytest.fixture
async def store(own_settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(own_settings) as store:
        yield store


async def status_of(settings: Settings) -> Status:
    async with open_status(settings, "here") as reader:
        return await reader.read()


def invoke(settings: Settings, *options: str, **env: str | None) -> Result:
    """Run ``livethread status``."""
    deployment = {
        "LIVETHREAD_REDIS_URL": settings.redis_url,
        "LIVETHREAD_HOME": str(settings.home),
        "LIVETHREAD_KEY_PREFIX": settings.key_prefix,
    }
    return CliRunner().invoke(main, ["status", *options], env={**deployment, **env})


async def cli(settings: Settings, *options: str, **env: str | None) -> Result:
    """Run ``livethread status`` beside this test's event loop."""
    return await asyncio.to_thread(invoke, settings, *options, **env)


async def threads(store: QueuedThreadStore, count: int) -> list[str]:
    """Return threads, each with a waiting task, in the order of their tasks."""
    found = []
    for _ in range(count):
        found.append(await new_thread(store))
        await append(store, found[-1], message("hello"))
    return found


async def poisoned_thread(store: QueuedThreadStore, worker: HandWorker) -> str:
    """Return a parked thread."""
    thread_id = await new_thread(store)
    task = OrderedTask(AppendItems(at=utc_now()), (b'{"poison": 1}',)).encode()
    await store._submit(store._threads.require(thread_id), Submission(task))
    await asyncio.to_thread(worker.drain)
    return thread_id


def said(status: Status) -> list[Sentence]:
    return [finding.sentence for finding in status.findings]


async def test_without_a_worker_tasks_wait(store: QueuedThreadStore, own_settings: Settings) -> None:
    [thread_id] = await threads(store, 1)

    status = await status_of(own_settings)

    assert said(status) == [Sentence.NO_WORKER]
    assert status.findings[0].detail.startswith("2 unapplied tasks, the oldest for ")
    assert [(thread.thread_id, thread.tasks) for thread in status.waiting] == [(thread_id, 2)]
    figures = dict(status.figures)
    assert (figures["threads waiting"], figures["workers"]) == ("1", "0 of 0")


async def test_of_many_waiting_threads_the_oldest_are_named(store: QueuedThreadStore, own_settings: Settings) -> None:
    found = await threads(store, SHOWN + 5)

    status = await status_of(own_settings)

    assert [thread.thread_id for thread in status.waiting] == found[:SHOWN]
    assert dict(status.figures)["threads waiting"] == str(SHOWN + 5)


async def test_a_parked_thread_is_named_with_its_reason(
    store: QueuedThreadStore, own_worker: HandWorker, own_settings: Settings
) -> None:
    thread_id = await poisoned_thread(store, own_worker)

    status = await status_of(own_settings)

    assert Sentence.PARKED in said(status)
    assert [(thread.thread_id, thread.reason[:8]) for thread in status.waiting] == [(thread_id, "parked: ")]


async def test_what_is_applied_between_two_looks_makes_the_rates(
    store: QueuedThreadStore, own_worker: HandWorker, own_settings: Settings
) -> None:
    async with open_status(own_settings, "here") as reader:
        before = await reader.read()
        await threads(store, 3)
        await asyncio.to_thread(own_worker.drain)
        after = await reader.read()

    assert (before.facts.rates and before.facts.rates.applied_per_s) == 0
    assert after.facts.rates is not None
    assert round(after.facts.rates.over_s * after.facts.rates.accepted_per_s) == 6
    assert round(after.facts.rates.over_s * after.facts.rates.applied_per_s) == 6
    assert "lag p50 / p99" in dict(after.figures)


async def test_a_running_worker_makes_all_well(served: Settings) -> None:
    await asyncio.to_thread(wait_until, lambda: invoke(served).exit_code == 0, "the worker's first sweep")
    result = await cli(served, "--json")
    shown = json.loads(result.stdout)

    assert result.exit_code == 0

    assert (shown["state"], shown["is_well"], shown["sentence"]) == ("well", True, "all is well")
    assert [worker["home"] for worker in shown["workers"] if worker["is_live"]] == [str(served.home)]
    assert shown["home"]["path"] == str(served.home)
    assert shown["redis"]["has_append_only_file"] is True


async def test_a_client_without_a_home_sees_the_same(store: QueuedThreadStore, own_settings: Settings) -> None:
    await threads(store, 1)

    result = await cli(own_settings, LIVETHREAD_HOME="")

    assert result.exit_code == 1
    assert "STUCK: no worker answers: 2 unapplied tasks" in result.stdout
    assert "not on this host" in result.stdout
    assert f"do: {Sentence.NO_WORKER.advice}" in result.stdout


@pytest.mark.parametrize("options", [[], ["--once"], ["--json"]])
async def test_a_redis_that_hangs_is_not_waited_for(
    own_redis: RedisServer, own_settings: Settings, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(collector, "REDIS_TIMEOUT", 0.1)
    own_redis.pause()

    result = await cli(own_settings, *options)

    own_redis.go_on()
    assert (result.exit_code, "Redis does not answer: " in result.stdout) == (1, True)


async def test_a_redis_that_stops_between_two_looks_is_away_and_comes_back(
    own_redis: RedisServer, own_settings: Settings
) -> None:
    async with open_status(own_settings, "here") as reader:
        before = said(await reader.read())
        own_redis.kill()
        gone = said(await reader.read())
        own_redis.start()
        after = said(await reader.read())

    assert (before, gone, after) == ([Sentence.NO_WORKER], [Sentence.REDIS_AWAY], [Sentence.NO_WORKER])


async def test_a_redis_that_hung_between_two_looks_is_read_again(
    own_redis: RedisServer, own_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "REDIS_TIMEOUT", 3.0)
    async with open_status(own_settings, "here") as reader:
        await reader.read()
        own_redis.pause()
        gone = said(await reader.read())
        own_redis.go_on()
        after = said(await reader.read())

    assert (gone, after) == ([Sentence.REDIS_AWAY], [Sentence.NO_WORKER])


async def test_a_home_whose_redis_does_not_run_is_left_alone(tmp_path: Any) -> None:
    home = tmp_path / "home"
    status = await status_of(Settings(home=home))

    assert (status.headline, home.exists()) == ("IDLE: nothing runs here now", False)
    assert status.figures == [("home", "does not exist yet"), ("index", "-")]


async def test_an_embedded_redis_that_is_gone_but_did_not_end_is_named(tmp_path: Any) -> None:
    settings = Settings(home=tmp_path)
    settings.embedded_socket.parent.mkdir(parents=True)
    settings.embedded_socket.touch()

    assert said(await status_of(settings)) == [Sentence.EMBEDDED_AWAY]


async def test_a_full_redis_is_named(own_redis: RedisServer, own_settings: Settings) -> None:
    own_redis.client.config_set("maxmemory", 1)

    assert said(await status_of(own_settings))[0] is Sentence.REDIS_FULL


async def test_a_redis_of_another_deployment_is_refused(own_redis: RedisServer, own_settings: Settings) -> None:
    own_redis.client.hset(names.deployment_key(own_settings.key_prefix), "wire", "99")

    [finding] = (await status_of(own_settings)).findings

    assert finding.sentence is Sentence.REDIS_UNFIT
    assert "version 99 of the wire" in finding.detail


async def test_rights_may_be_few(own_redis: RedisServer, own_settings: Settings) -> None:
    own_redis.client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    without_info = await status_of(own_settings)
    own_redis.client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-time"])
    without_time = await status_of(own_settings)

    assert dict(without_info.figures)["Redis memory"] == "-"
    assert said(without_info) == [Sentence.NO_WORKER]
    assert said(without_time) == [Sentence.REDIS_ERROR]
    assert without_time.findings[0].detail.startswith("NOPERM")


async def test_pages_that_are_open_share_a_look(own_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "FRESH", 3600)
    async with open_status(own_settings, "here") as reader:
        statuses = await asyncio.gather(*(reader.read() for _ in range(10)))

    assert {id(status) for status in statuses} == {id(statuses[0])}
