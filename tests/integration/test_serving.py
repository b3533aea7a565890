"""Which shards a worker serves while it runs, and what it does for its home."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from redis import Redis
from tests.nodes.items import append, message
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened

from livethread import CreateThreadParams, Settings, new_thread_id
from livethread_config import names
from livethread_config.deployment import HomeIdentity, ShardEpochs
from livethread_worker import start_check
from livethread_worker.app import create_app
from livethread_worker.process import WorkerProcess
from livethread_worker.serving import Serving


class Worker:
    """A worker that has begun to serve, with ``-Q`` *queues* if there are any; its consumer only selects queues."""

    def __init__(self, settings: Settings, *shards: int) -> None:
        self.settings = settings
        self.hostname = f"{settings.home.name}@test"
        self.app = create_app(settings)
        self.app.amqp.queues.select([names.queue_name(settings.key_prefix, shard) for shard in shards])
        self.serving = Serving(self.app, settings)
        self.process = WorkerProcess(self.app, settings, self.serving)
        self.serving.begin(self.process.membership)

    def cancel_task_queue(self, queue: str) -> None:
        self.app.amqp.queues.deselect([queue])

    def add_task_queue(self, queue: str) -> None:
        self.app.amqp.queues.select_add(self.app.amqp.queues[queue])

    def sweep(self) -> list[int]:
        """Sweep, and return the shards that it consumes afterwards."""
        self.process.membership._read_at = float("-inf")
        self.process.sweep(self)
        return self.serving.consumed()


Start = Callable[..., Worker]


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    return redis_server.client


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"shards": 3})


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(*shards: int, **changes: Any) -> Worker:
            worker = Worker(settings.model_copy(update=changes), *shards)
            stack.enter_context(closing(worker.app))
            stack.callback(worker.process._handle.close)
            return worker

        yield begin


def give(redis: Redis, settings: Settings, shard: int, home: HomeIdentity) -> None:
    redis.hset(names.deployment_key(settings.key_prefix), f"home:{shard}", home.text)


def sent(redis: Redis, settings: Settings, task: str) -> int:
    """Return how many Celery tasks of this name wait in the queues."""
    prefix = settings.key_prefix
    client: Any = redis  # its types leave open whether replies come at once
    queues = [f"{prefix}:celery:{names.queue_name(prefix, shard)}" for shard in range(3)]
    return sum(f'"task": "{task}"'.encode() in each for queue in queues for each in client.lrange(queue, 0, -1))


def test_a_shard_of_a_queue_that_moved_away_and_back_is_served_again(
    start: Start, settings: Settings, redis: Redis
) -> None:
    worker = start(1)

    give(redis, settings, 1, HomeIdentity("new", "1"))
    without = worker.sweep()
    give(redis, settings, 1, worker.process.membership.identity)

    assert (without, worker.sweep()) == ([], [1])


async def test_a_read_of_a_shard_of_another_worker_does_not_end_a_drain(
    start: Start, settings: Settings, redis: Redis
) -> None:
    start(0, 1, 2)
    worker = start(1, claim_threads=1)
    shard_of = ShardEpochs.of((0, 3)).shard_of
    async with opened(settings) as store:
        for thread_id in [id_ for id_ in (new_thread_id() for _ in range(100)) if shard_of(id_) == 1][:3]:
            await store.create_thread(CreateThreadParams(thread_id=thread_id))
            await append(store, thread_id, message("one"))
        redis.zadd(names.ShardKeys(settings.key_prefix, 0).reads, {"a read": 0})

        assert worker.process.drain(1, "")["batches"] == 3


def test_a_contradicting_record_ends_a_drain_with_the_reason(
    start: Start, settings: Settings, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    worker = start()
    redis.hset(names.deployment_key(settings.key_prefix), "epochs", "[]")
    worker.process.membership._read_at = float("-inf")

    assert worker.process.drain(0, "") == {}
    assert "the deployment record in Redis" in caplog.text


def test_a_home_without_a_shard_sends_no_task(start: Start, settings: Settings, redis: Redis) -> None:
    worker = start(1)
    give(redis, settings, 1, HomeIdentity("new", "1"))
    worker.sweep()

    worker.process.open_index()

    assert sent(redis, settings, names.COMPLETE_INDEX_TASK) == 0


def test_a_home_is_compressed_once_however_many_shards_it_serves(
    start: Start, settings: Settings, redis: Redis
) -> None:
    for worker in (start(0, 1, compress_after_days=1), start(2, compress_after_days=1)):
        worker.sweep()

    assert sent(redis, settings, names.COMPRESS_COLD_TASK) == 1


def test_a_worker_waits_while_redis_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its errors are errors of the operating system."""
    monkeypatch.setattr(start_check, "RETRY_INTERVAL", 0.0)
    errors = [OSError("timed out")]

    def join() -> None:
        if errors:
            raise errors.pop()

    start_check._until_redis_answers(join)

    assert errors == []
