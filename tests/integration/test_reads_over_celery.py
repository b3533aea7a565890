"""Reads of clients without a home: what they leave in Redis, what they wait for, and how they fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from tests.nodes.items import append, flush, history, message, new_thread, texts
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import celery_worker

from livethread import (
    ListItemsParams,
    LoadThreadHistoryParams,
    QueuedThreadStore,
    ReadThreadParams,
    Settings,
    ThreadNotFound,
    Unavailable,
)
from livethread.errors import Internal
from livethread.position import Position
from livethread.queued import doorbell
from livethread_config import names
from livethread_worker.drain import drain as drain_module
from livethread_worker.reads import answers as answers_module
from livethread_worker.reads.answers import Answer, Answers
from livethread_worker.store.read.reader import LocalReader

UNKNOWN = "019a93b9-f380-7600-98ff-000000000000"


@pytest.fixture
def settings(own_settings: Settings) -> Settings:
    return own_settings.model_copy(update={"reads": "celery"})


@pytest.fixture
def redis(own_redis: RedisServer) -> Redis:
    return own_redis.client


@pytest.fixture
def worker(settings: Settings) -> Iterator[None]:
    with celery_worker(settings):
        yield


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings) as store:
        yield store


class Gate:
    """Holds up a worker's reads of histories."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_reached, self.is_open, self.reads = threading.Event(), threading.Event(), 0
        read_lines = LocalReader.read_lines

        def wait(reader: LocalReader, *args: Any) -> tuple[bytes, int | None, Position]:
            self.reads += 1
            self.is_reached.set()
            assert self.is_open.wait(20)
            return read_lines(reader, *args)

        monkeypatch.setattr(LocalReader, "read_lines", wait)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.is_open.set()


def keys_of_reads(redis: Any) -> list[str]:
    """Return the keys of reads and answers."""
    return [str(key, "ascii") for name in ("reads", "read:*", "answer:*") for key in redis.keys(f"*}}:{name}")]


def queue_of(settings: Settings, shard: int = 0) -> str:
    return f"{settings.key_prefix}:celery:{names.queue_name(settings.key_prefix, shard)}"


def load_history(store: QueuedThreadStore, thread_id: str) -> asyncio.Task[Any]:
    return asyncio.create_task(store.load_history(LoadThreadHistoryParams(thread_id=thread_id)))


async def cancel(read: asyncio.Task[Any]) -> None:
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read


# -- what reads leave --------------------------------------------------------------------------------------


async def test_reads_leave_no_key_and_no_memory_in_redis(
    worker: None, store: QueuedThreadStore, redis: Redis
) -> None:
    thread_id = await new_thread(store)
    for n in range(6):
        await append(store, thread_id, message(f"{n} " + "x" * 1_000_000))
    await flush(store, thread_id)
    await history(store, thread_id)  # opens the connections
    keys, memory = set(redis.keys()), int(redis.info("memory")["used_memory"])

    for _ in range(8):
        assert [text[0] for text in texts(await history(store, thread_id))] == list("012345")
        with pytest.raises(ThreadNotFound):
            await store.read_thread(ReadThreadParams(thread_id=UNKNOWN))

    await eventually(lambda: set(redis.keys()) <= keys, "the end of the last Celery message")
    assert int(redis.info("memory")["used_memory"]) - memory < 6_000_000, "at most one of the 48 MB that were read"


async def test_a_read_that_is_cancelled_before_a_worker_takes_it_is_not_done(
    settings: Settings, store: QueuedThreadStore, redis: Redis, gate: Gate
) -> None:
    read = load_history(store, UNKNOWN)
    await eventually(lambda: redis.llen(queue_of(settings)), "the request")

    await cancel(read)

    await eventually(lambda: not keys_of_reads(redis), "its end")
    with celery_worker(settings):
        await eventually(lambda: not redis.exists(queue_of(settings)), "a worker that takes the request")
        with pytest.raises(ThreadNotFound):  # answered after the first one
            await store.read_thread(ReadThreadParams(thread_id=UNKNOWN))
    assert gate.reads == 0
    assert keys_of_reads(redis) == []


async def test_a_read_that_is_cancelled_while_a_worker_reads_leaves_no_answer(
    worker: None, store: QueuedThreadStore, redis: Redis, gate: Gate
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await flush(store, thread_id)
    read = load_history(store, thread_id)
    await eventually(gate.is_reached.is_set, "the worker")

    await cancel(read)

    await eventually(lambda: not keys_of_reads(redis), "its end")
    gate.is_open.set()
    await store.read_thread(ReadThreadParams(thread_id=thread_id))  # answered after the cancelled one
    assert keys_of_reads(redis) == []


async def test_a_store_that_closes_withdraws_its_reads(settings: Settings, redis: Redis) -> None:
    async with opened(settings) as store:
        read = load_history(store, UNKNOWN)
        await eventually(lambda: redis.llen(queue_of(settings)), "the request")
        await cancel(read)

    assert keys_of_reads(redis) == []


async def test_reads_that_no_worker_takes_are_refused_beyond_a_bound(
    settings: Settings, store: QueuedThreadStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell, "MAX_QUEUED", 3)
    for n in range(3):
        read = load_history(store, UNKNOWN)
        await eventually(lambda n=n: redis.llen(queue_of(settings)) == n + 1, "the request")  # type: ignore[misc]
        await cancel(read)

    with pytest.raises(Unavailable, match=f"3 Celery messages wait in {settings.key_prefix}.0"):
        await load_history(store, UNKNOWN)

    assert redis.llen(queue_of(settings)) == 3
    await eventually(lambda: not keys_of_reads(redis), "the end of all reads")


# -- answers in pieces -------------------------------------------------------------------------------------


async def test_an_answer_of_many_pieces_arrives_whole(
    worker: None, store: QueuedThreadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PIECE_BYTES", 1_000)
    thread_id = await new_thread(store)
    await append(store, thread_id, *(message(f"{n} " + "é" * 700) for n in range(10)))
    await flush(store, thread_id)

    page = await store.list_items(ListItemsParams(thread_id=thread_id, page_size=100))

    assert texts(list(page.items[1:])) == [f"{n} " + "é" * 700 for n in range(10)]


class Asked:
    """A read that a client has asked for, as a worker sees it."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        of = names.ShardKeys(settings.key_prefix, 0)
        self.redis, self.id, self.read, self.pieces = redis, "r1", of.read("r1"), of.answer("r1")
        self.answers = Answers(redis, settings)
        redis.set(self.read, "", px=20_000)
        redis.zadd(of.reads, {self.id: 9e15})

    def answer(self, find: Callable[[], Answer]) -> None:
        self.answers.answer(0, self.id, "w1", find)


@pytest.fixture
def asked(redis: Redis, settings: Settings) -> Asked:
    return Asked(redis, settings)


async def test_redis_holds_a_few_pieces_of_an_answer_at_a_time(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "PIECE_BYTES", 10)
    body = bytes(250)
    sending = asyncio.create_task(asyncio.to_thread(asked.answer, lambda: Answer(body)))
    received = b""
    while len(received) < len(body):
        held = min(4, (len(body) - len(received)) // 10)
        await eventually(lambda held=held: asked.redis.llen(asked.pieces) == held)  # type: ignore[misc]
        piece = asked.redis.lpop(asked.pieces)
        assert isinstance(piece, bytes)
        received += piece.partition(b"\n")[2] if not received else piece
    await sending

    assert received == body
    assert keys_of_reads(asked.redis) == []


async def test_a_worker_stops_answering_once_the_read_is_withdrawn(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PIECE_BYTES", 10)
    sending = asyncio.create_task(asyncio.to_thread(asked.answer, lambda: Answer(bytes(250))))
    await eventually(lambda: asked.redis.llen(asked.pieces) == 4, "a full list")

    asked.redis.delete(asked.read)

    await sending
    assert keys_of_reads(asked.redis) == []


def test_an_answer_that_its_caller_does_not_receive_expires(asked: Asked) -> None:
    """Its caller was killed: it withdraws nothing."""
    asked.answer(lambda: Answer(b"x"))

    assert keys_of_reads(asked.redis) == [asked.pieces]
    assert 0 < int(asked.redis.pttl(asked.pieces)) <= 10_000


def test_a_worker_drops_a_long_answer_that_its_caller_does_not_receive(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PATIENCE", 0.05)
    monkeypatch.setattr(answers_module, "PIECE_BYTES", 10)

    asked.answer(lambda: Answer(bytes(250)))

    assert keys_of_reads(asked.redis) == []


def test_a_read_is_done_once_though_its_message_arrives_twice(asked: Asked) -> None:
    found: list[int] = []

    for _ in range(2):
        asked.answer(lambda: found.append(1) or Answer(b"x"))  # type: ignore[func-returns-value]

    assert found == [1]
    assert asked.redis.llen(asked.pieces) == 1


def test_an_error_of_the_worker_itself_is_an_answer_too(asked: Asked) -> None:
    def fail() -> Answer:
        raise ZeroDivisionError("one by none")

    with pytest.raises(ZeroDivisionError):
        asked.answer(fail)

    [answer] = asked.redis.lrange(asked.pieces, 0, -1)
    assert json.loads(answer)["error"] == Internal.__name__
    assert "ZeroDivisionError: one by none" in json.loads(answer)["args"][0]


# -- failures ----------------------------------------------------------------------------------------------


async def test_a_read_that_no_worker_takes_says_so(settings: Settings, redis: Redis) -> None:
    async with opened(settings.model_copy(update={"flush_timeout_s": 0.2})) as store:
        with pytest.raises(
            Unavailable, match=r"no worker took the read\. 1 message waits in the queue .* Is a worker running"
        ):
            await load_history(store, UNKNOWN)

        assert keys_of_reads(redis) == []


async def test_a_read_whose_answer_redis_refuses_says_so(settings: Settings, redis: Redis) -> None:
    redis.acl_setuser("default", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-blpop"])
    async with opened(settings.model_copy(update={"flush_timeout_s": 2.0})) as store:
        with pytest.raises(Unavailable, match=r"Redis answers NOPERM .*blpop"):
            await load_history(store, UNKNOWN)


async def test_a_worker_that_dies_in_the_middle_of_its_answer_is_named(settings: Settings, redis: Redis) -> None:
    async with opened(settings.model_copy(update={"flush_timeout_s": 1.0})) as store:
        read = load_history(store, UNKNOWN)
        await eventually(lambda: redis.keys("*:read:*"), "the request")
        [key] = [key for key in keys_of_reads(redis) if ":read:" in key]
        read_id = key.rpartition(":")[2]
        redis.set(key, "w7@host", keepttl=True)
        redis.rpush(names.ShardKeys(settings.key_prefix, 0).answer(read_id), b'{"size":100,"next":null}\nthe begi')

        with pytest.raises(Unavailable, match="w7@host began the read and did not finish"):
            await read

        assert keys_of_reads(redis) == []


async def test_a_read_outlives_lost_connections(
    worker: None, store: QueuedThreadStore, redis: Redis, gate: Gate
) -> None:
    thread_id = await new_thread(store)
    await append(store, thread_id, message("one"))
    await flush(store, thread_id)
    read = load_history(store, thread_id)
    await eventually(gate.is_reached.is_set, "the worker")
    waiting = [each for each in redis.client_list() if each["cmd"] == "blpop"]

    for client in waiting:
        redis.client_kill_filter(_id=client["id"])
    gate.is_open.set()

    assert waiting
    assert texts(list((await read).items[1:])) == ["one"]


# -- a worker of one process that is always busy -----------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_read_waits_for_a_batch_and_not_for_the_end_of_the_writes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    """The drain has the worker's only process, and would never end by itself."""
    monkeypatch.setattr(drain_module, "MAX_SHARD_DRAIN", 3600.0)
    settings = settings.model_copy(update={"shards": shards, "drain_max_s": 3600.0, "drain_linger_ms": 500})
    with celery_worker(settings):
        async with opened(settings) as store:
            quiet, busy = await new_thread(store), await new_thread(store)
            while shards > 1 and names.shard_of(busy, shards) == names.shard_of(quiet, shards):
                busy = await new_thread(store)
            await append(store, quiet, message("read me"))
            await flush(store, quiet)
            written, is_over = 0, False

            async def write() -> None:
                nonlocal written
                while not is_over:
                    await append(store, busy, message("again"))
                    await flush(store, busy)
                    written += 1

            writing = asyncio.create_task(write())
            for _ in range(3):
                before = written
                await eventually(lambda before=before: written > before, "writes")  # type: ignore[misc]
                assert texts(await history(store, quiet)) == ["read me"]
            is_over = True
            await writing
