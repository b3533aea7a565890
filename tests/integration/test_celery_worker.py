"""A real Celery worker in this process: doorbells, and the events that Flower shows."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, Self

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, texts, update
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import celery_worker

from livethread import (
    CreateThreadParams,
    LiveThread,
    QueuedThreadStore,
    ReadThreadParams,
    Settings,
    ThreadMetadataPatch,
    ThreadParked,
)
from livethread.queued.scripts import load_script
from livethread_config import names
from livethread_config.celery_app import deployment_app


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "local"})


@pytest.fixture
def worker(settings: Settings) -> Iterator[None]:
    with celery_worker(settings):
        yield


@pytest.fixture
async def store(worker: None, settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings) as store:
        yield store


class Watcher:
    """Receives Celery's events as Flower does."""

    def __init__(self, settings: Settings) -> None:
        self.events: list[dict[str, Any]] = []
        self._app = deployment_app("watcher", settings)
        self._is_listening = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._app.close()

    def of(self, kind: str, thread_id: str) -> list[dict[str, Any]]:
        """Return the events of *kind* about the thread's tasks."""
        uuids = {
            event["uuid"]
            for event in tuple(self.events)
            if event["type"] == "task-received" and thread_id in (event.get("kwargs") or "")
        }
        return [event for event in tuple(self.events) if event["type"] == kind and event.get("uuid") in uuids]

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self.events.append})
            with receiver.consumer_context() as (consuming, _, _):  # Celery opens a separate connection
                self._is_listening.set()
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        consuming.drain_events(timeout=0.2)


async def test_a_thread_is_written_and_read_end_to_end(store: QueuedThreadStore) -> None:
    thread = await LiveThread.create(store, CreateThreadParams(cwd="/repo"))
    for n in range(20):
        await thread.append_items([message(f"{n}")])
    await thread.shutdown()

    assert texts(await history(store, thread.thread_id)) == [f"{n}" for n in range(20)]


async def test_a_lost_doorbell_loses_no_task(settings: Settings, redis_server: RedisServer) -> None:
    """The doorbell is deleted from the queue before a worker takes it."""
    queue = f"{settings.key_prefix}:celery:{names.queue_name(settings.key_prefix, 0)}"
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        await eventually(lambda: redis_server.client.llen(queue), "the doorbell")
        assert redis_server.client.delete(queue) == 1

        with celery_worker(settings.model_copy(update={"sweep_interval_s": 3600.0})):
            await flush(store, thread_id, timeout_s=15)

        assert texts(await history(store, thread_id)) == ["one"]


async def test_a_burst_on_many_threads_is_applied(store: QueuedThreadStore) -> None:
    threads = [await new_thread(store) for _ in range(20)]
    await asyncio.gather(*(append(store, id_, message(f"{n}")) for n in range(10) for id_ in threads))

    await asyncio.gather(*(flush(store, thread_id) for thread_id in threads))

    assert [texts(await history(store, id_)) for id_ in threads] == [[f"{n}" for n in range(10)]] * 20


async def test_every_task_has_celery_events_without_contents(settings: Settings, store: QueuedThreadStore) -> None:
    with Watcher(settings) as watcher:
        thread_id = await new_thread(store, cwd="/secret")
        receipts = [
            await append(store, thread_id, message("secret"), message("secret")),
            await update(store, thread_id, ThreadMetadataPatch(name="secret")),
        ]
        await flush(store, thread_id)
        await eventually(lambda: len(watcher.of("task-succeeded", thread_id)) == 3, "the events")

        received = watcher.of("task-received", thread_id)
        kwargs = [ast.literal_eval(event["kwargs"]) for event in received]

    assert [event["name"] for event in received] == [
        "livethread.create_thread",
        "livethread.append_items",
        "livethread.update_thread_metadata",
    ]
    assert [sorted(each) for each in kwargs] == [["bytes", "items", "position", "thread"]] * 3
    assert {each["thread"] for each in kwargs} == {thread_id}
    assert [each["items"] for each in kwargs] == [0, 2, 0]
    assert kwargs[1]["bytes"] > 2 * len("secret")
    assert [each["position"] for each in kwargs[1:]] == [receipt.position for receipt in receipts]
    assert len(watcher.of("task-started", thread_id)) == 3
    assert "secret" not in repr(watcher.events)


async def test_every_read_has_celery_events_without_contents(worker: None, settings: Settings) -> None:
    with Watcher(settings) as watcher:
        async with opened(settings.model_copy(update={"reads": "celery"})) as store:
            thread_id = await new_thread(store, cwd="/secret")
            await append(store, thread_id, message("secret"))
            await flush(store, thread_id)
            await history(store, thread_id)
            await store.read_thread(ReadThreadParams(thread_id=thread_id))

        def succeeded() -> list[str]:
            done = {event["uuid"] for event in watcher.of("task-succeeded", thread_id)}
            return [event["name"] for event in watcher.of("task-received", thread_id) if event["uuid"] in done]

        reads = ["livethread.load_history", "livethread.read_thread"]
        await eventually(lambda: [name for name in succeeded() if name in reads] == reads, "the events")

    assert "secret" not in repr(watcher.events)


async def test_a_poisoned_task_fails_in_celery_events(settings: Settings, store: QueuedThreadStore) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await flush(store, thread_id)
    path = (await store.read_thread(ReadThreadParams(thread_id=thread_id))).rollout_path
    assert path is not None
    path.rename(path.with_suffix(".away"))
    with Watcher(settings) as watcher:
        receipt = await append(store, thread_id, message("secret"))
        with pytest.raises(ThreadParked):
            await flush(store, thread_id)
        [failed] = await eventually(lambda: watcher.of("task-failed", thread_id), "the failure")
        # The events of the tasks before may come late, and arrive here, too.
        [received] = [event for event in watcher.of("task-received", thread_id) if event["uuid"] == failed["uuid"]]

    assert received["name"] == "livethread.append_items"
    assert ast.literal_eval(received["kwargs"])["position"] == receipt.position
    assert "ThreadNotFound" in failed["exception"]
    assert "secret" not in repr(watcher.events)


async def test_an_entry_that_is_not_a_task_fails_in_celery_events(
    settings: Settings, store: QueuedThreadStore, redis_server: RedisServer
) -> None:
    with Watcher(settings) as watcher:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        await flush(store, thread_id)
        mailbox = names.ShardKeys(settings.key_prefix, 0).mailbox(thread_id)
        redis_server.client.xadd(mailbox, {"junk": "secret"}, id="99999999999999-0")
        await store._mailboxes.poke(thread_id)
        [failed] = await eventually(lambda: watcher.of("task-failed", thread_id), "the failure")

    assert failed["uuid"] == f"{thread_id}-99999999999999-0"
    assert failed["exception"].startswith("the entry at 99999999999999-0 is not a task")
    assert "secret" not in repr(watcher.events)


async def test_tasks_of_a_plain_redis_client_are_applied(
    settings: Settings, redis_server: RedisServer, store: QueuedThreadStore
) -> None:
    """A client in any language can call the shipped script with EVAL."""
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    keys = names.ShardKeys(settings.key_prefix, 0)
    shard = [keys.ready, keys.claims, keys.tokens, keys.parked, keys.bell, keys.drain, keys.wake, keys.deleted]
    shard += [keys.waiting, keys.stats, names.deployment_key(settings.key_prefix)]
    thread_keys = [
        keys.mailbox(thread_id),
        keys.writers(thread_id),
        keys.applied(thread_id),
        keys.idempotency_keys(thread_id),
    ]
    task = '{"op":"append_items","at":"2026-01-02T03:04:05Z"}'
    line = '{"timestamp":"2026-01-02T03:04:05.678Z","type":"response_item","payload":{"type":"message","content":[{"type":"output_text","text":"two"}]}}'
    arguments: list[str | int] = [2000, 604800, 10000, "[[0,1]]", thread_id, "another-writer", 0, "", 1]
    arguments += [1, "", "", "", task, line, ""]

    reply: Any = redis_server.client.eval(
        load_script("livethread.queued", "enqueue"), 15, *shard, *thread_keys, *arguments
    )

    ring, [status, last, position, tail, fresh] = reply
    assert (status, last, position, fresh) == (b"ok", 1, tail, 1)
    assert ring in {0, 1}
    await append(store, thread_id, message("three"))
    await flush(store, thread_id)
    assert texts(await history(store, thread_id)) == ["one", "two", "three"]


async def test_workers_compress_cold_rollouts_if_configured(settings: Settings, redis_server: RedisServer) -> None:
    settings = settings.model_copy(update={"compress_after_days": 1, "sweep_interval_s": 0.05})
    with celery_worker(settings):
        async with opened(settings) as store:
            thread_id = await new_thread(store)
            await append(store, thread_id, message("long ago"))
            await update(store, thread_id, ThreadMetadataPatch(updated_at=datetime(2025, 1, 1, tzinfo=UTC)))
            await flush(store, thread_id)
            thread = await store.read_thread(ReadThreadParams(thread_id=thread_id))
            assert thread.rollout_path is not None
            os.utime(thread.rollout_path, (1_700_000_000, 1_700_000_000))

            due = redis_server.client.delete(names.ShardKeys(settings.key_prefix, 0).compressed)

            compressed = thread.rollout_path.with_name(thread.rollout_path.name + ".zst")
            await eventually(compressed.exists, "the compressed rollout")
            assert due == 1  # the sweep at the start had looked already, and would look again in an hour
            assert texts(await history(store, thread_id)) == ["long ago"]
