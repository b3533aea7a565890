"""Refused: a Redis that cannot keep our promises, and a store in another loop or process. No call hangs."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import append, message, new_thread
from tests.nodes.processes import RedisServer, worker_process
from tests.nodes.stores import opened
from tests.nodes.waiting import wait_until

from livethread import (
    InvalidRequest,
    QueuedThreadStore,
    Settings,
    ThreadMetadataPatch,
    Unavailable,
    open_store,
    types,
)
from livethread.changes import Changes
from livethread.composition import open_reader
from livethread.fresh_reader import FreshReader
from livethread.rollout.item import parse_items
from livethread_worker.embedded.processes import settings_env

#: How long a refused call may take.
AT_ONCE = 2.0  # seconds


def arguments(operation: str, thread_id: str) -> Any:
    """Return valid parameters of a public operation of a store."""
    annotation = inspect.signature(getattr(QueuedThreadStore, operation)).parameters["params"].annotation
    params_type = getattr(types, annotation.removeprefix("types."))
    values = {
        "thread_id": thread_id,
        "thread_ids": (thread_id,),
        "items": parse_items([message("one")]),
        "rollout_path": "sessions/x.jsonl",
        "search_term": "one",
        "patch": ThreadMetadataPatch(name="x"),
        "name": "x",
    }
    required = {name for name, field in params_type.model_fields.items() if field.is_required()}
    return params_type(**{name: values[name] for name in required})


OPERATIONS = [
    name
    for name, operation in vars(QueuedThreadStore).items()
    if inspect.iscoroutinefunction(operation) and not name.startswith("_")
]


READS = [name for name in OPERATIONS if hasattr(FreshReader, name)]


def test_there_are_operations_to_try() -> None:
    assert {"append_items", "flush_thread", "list_threads", "delete_thread"} <= set(OPERATIONS)
    assert len(OPERATIONS) >= 18
    assert {"read_thread", "list_threads", "search_threads"} <= set(READS)


# -- servers -----------------------------------------------------------------------------------------------


@pytest.fixture
def evicting_redis(own_redis: RedisServer) -> RedisServer:
    own_redis.client.config_set("maxmemory", "100mb")
    own_redis.client.config_set("maxmemory-policy", "allkeys-lru")
    return own_redis


@pytest.mark.parametrize("open_", [open_store, open_reader])
async def test_a_redis_that_drops_keys_is_refused_on_opening(
    evicting_redis: RedisServer, own_settings: Settings, open_: Callable[[Settings], Any]
) -> None:
    with pytest.raises(InvalidRequest, match="maxmemory-policy allkeys-lru"):
        async with asyncio.timeout(AT_ONCE), open_(own_settings.model_copy(update={"reads": "celery"})):
            pytest.fail("it opened")


def test_a_worker_does_not_start_on_a_redis_that_drops_keys(
    evicting_redis: RedisServer, own_settings: Settings, tmp_path: Path
) -> None:
    worker = worker_process(own_settings, tmp_path / "worker", "worker")
    worker.start()

    wait_until(lambda: not worker.is_running, "the worker's end")

    assert worker.returncode == 1
    assert "set maxmemory-policy to noeviction" in worker.logs()


def test_a_worker_that_starts_before_its_redis_checks_it_too(tmp_path: Path) -> None:
    with contextlib.closing(RedisServer("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")) as server:
        settings = Settings(redis_url=server.url, home=tmp_path / "home")
        worker = worker_process(settings, tmp_path / "worker", "worker")
        worker.start()
        worker.wait_for_log("waits for it before it serves")
        server.start()

        wait_until(lambda: not worker.is_running, "the worker's end")

        assert worker.returncode == 1
        assert "set maxmemory-policy to noeviction" in worker.logs()


async def test_a_cluster_is_refused_on_opening(tmp_path: Path) -> None:
    server = RedisServer("--cluster-enabled", "yes").start()
    try:
        with pytest.raises(InvalidRequest, match="a Redis Cluster, which is not supported"):
            async with open_store(Settings(redis_url=server.url, home=tmp_path / "home")):
                pytest.fail("it opened")
    finally:
        server.close()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_call_ends_on_a_redis_without_persistence(
    own_redis: RedisServer, own_settings: Settings, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    """There is no worker either."""
    own_redis.client.config_set("appendonly", "no")
    settings = own_settings.model_copy(update={"flush_timeout_s": 0.2, "enqueue_timeout_s": 0.2})
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("zero"))
        ended = asyncio.ensure_future(getattr(store, operation)(arguments(operation, thread_id)))

        await asyncio.wait([ended], timeout=AT_ONCE)

        assert ended.done()
        assert isinstance(ended.exception(), Exception | None)
    assert [record.levelno for record in caplog.records if "append-only file" in record.message] == [logging.WARNING]


# -- loops and processes -----------------------------------------------------------------------------------


async def refusal(call: Awaitable[object]) -> InvalidRequest:
    async with asyncio.timeout(AT_ONCE):
        with pytest.raises(InvalidRequest) as refused:
            await call
    return refused.value


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_call_of_a_store_in_another_loop_is_refused(settings: Settings, operation: str) -> None:
    async with opened(settings.model_copy(update={"reads": "local"})) as store:
        thread_id = await new_thread(store)
        call = getattr(store, operation)(arguments(operation, thread_id))

        error = await asyncio.to_thread(asyncio.run, refusal(call))

    assert "opened in another event loop" in str(error)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_call_of_a_store_that_was_never_opened_is_refused(settings: Settings, operation: str) -> None:
    async with opened(settings.model_copy(update={"reads": "local"})) as other:
        store = QueuedThreadStore(other._mailboxes, settings, other._reader, Changes())

        error = await refusal(getattr(store, operation)(arguments(operation, str(uuid.uuid4()))))

    assert "is not open" in str(error)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_call_of_a_closed_store_is_refused(settings: Settings, operation: str) -> None:
    async with opened(settings.model_copy(update={"reads": "local"})) as store:
        thread_id = await new_thread(store)

    async with asyncio.timeout(AT_ONCE):
        with pytest.raises(Unavailable, match="the store was closed, and nothing was stored"):
            await getattr(store, operation)(arguments(operation, thread_id))


@pytest.mark.parametrize("operation", READS)
async def test_every_call_of_a_reader_in_another_loop_or_after_its_end_is_refused(
    settings: Settings, operation: str
) -> None:
    async with open_reader(settings.model_copy(update={"reads": "local"})) as reader:
        read = getattr(reader, operation)
        wanted = arguments(operation, str(uuid.uuid4()))
        error = await asyncio.to_thread(asyncio.run, refusal(read(wanted)))

        with pytest.raises(InvalidRequest):
            await asyncio.to_thread(reader.watch_thread, types.WatchThreadParams(thread_id=str(uuid.uuid4())))

    assert "this reader was opened in another event loop, and nothing was read" in str(error)
    with pytest.raises(Unavailable, match="the reader was closed, and nothing was read"):
        await read(wanted)


FORK = """
import asyncio, os, sys
from livethread import InvalidRequest, Settings, ThreadMetadataPatch, Unavailable, open_store
from livethread.composition import open_reader
from livethread_worker.store import LocalThreadStore
sys.path.insert(0, {root!r})
from tests.integration.test_refusals import OPERATIONS, READS, arguments

async def main():
    async with (
        open_store(Settings()) as queued, LocalThreadStore(Settings()) as local, open_reader(Settings()) as reader
    ):
        if child := os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        refused = 0
        try:
            for opened, operations in (queued, OPERATIONS), (local, OPERATIONS), (reader, READS):
                for operation in operations:
                    try:
                        await getattr(opened, operation)(arguments(operation, "019ad3f0-0000-7000-8000-000000000000"))
                    except InvalidRequest as error:
                        refused += "after a fork, open a" in str(error)
        finally:
            os._exit(0 if refused == 2 * len(OPERATIONS) + len(READS) else 1)

asyncio.run(main())
"""


def test_every_call_in_a_forked_process_is_refused(settings: Settings) -> None:
    env = settings_env(settings.model_copy(update={"reads": "local"}))
    script = FORK.format(root=str(Path(__file__).parents[2]))

    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
