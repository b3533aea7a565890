"""Asks workers for reads. Celery carries the request; the answer comes in pieces, in a Redis list of its own.

A read that ends leaves nothing in Redis, however it ends: see `ReadRequests.ask`.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from livethread import errors
from livethread.position import Position
from livethread.queued import doorbell
from livethread.queued.connection import cancellable, redis_errors_translated
from livethread.queued.delay import START_ONE, circumstances
from livethread.queued.deployment import DeploymentWatch
from livethread.queued.outage import NOT_THE_MASTER, explain
from livethread.queued.scripts import load_script
from livethread_config import Settings, names

if TYPE_CHECKING:
    from celery import Celery

#: Maximum reads of a client that workers have to answer at the same time; later ones wait for their turn.
CONCURRENT_READS: Final = 16

#: How long one call waits for a piece of an answer: Redis' reply must come within a connection's timeout.
POP_TIMEOUT: Final = 2.0  # seconds

#: Wait before Redis is asked again for a piece after the connection was lost.
RETRY_INTERVAL: Final = 0.1  # seconds

#: A read whose last error is not older failed because of it: until Redis answers, it fails each `RETRY_INTERVAL`.
FAILING: Final = 0.5  # seconds

#: After a read timed out: longest wait to learn how far it came, and then to learn why not further.
STATE_TIMEOUT: Final = 0.5  # seconds

T = TypeVar("T")


class ReadAnswer(NamedTuple):
    """What a worker found."""

    body: bytes
    #: Where the next page begins, if the read has pages.
    next: int | None
    #: The position that it shows, if the read is of one thread and has pages.
    position: Position


@dataclass(slots=True)
class _Failure:
    """The last error of a wait for an answer, and its monotonic time."""

    error: Exception | None = None
    at: float = 0.0


class ReadRequests:
    """Sends reads to workers and receives their answers."""

    def __init__(
        self, app: Celery, redis: Redis, settings: Settings, deployment: DeploymentWatch, shard: int = 0
    ) -> None:
        self._app = app
        self._deployment = deployment
        self._shard = shard
        self._redis: Any = redis  # redis-py's types leave open whether replies are bytes; ours are
        self._settings = settings
        self._ask = redis.register_script(load_script("livethread.queued", "ask"))
        self._slots = asyncio.Semaphore(CONCURRENT_READS)
        #: Celery's client blocks and is not thread-safe, so it has a thread of its own.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="livethread-reader")
        self._withdrawals: set[asyncio.Task[bytes | None]] = set()

    async def aclose(self) -> None:
        """Withdraw the reads that were cancelled, and stop the thread that talks to Celery."""
        if self._withdrawals:
            _, late = await asyncio.wait(self._withdrawals, timeout=self._settings.connect_timeout_s)
            for task in late:
                task.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def ask(self, task: str, thread_id: str | None, arguments: dict[str, Any]) -> ReadAnswer:
        """Have a worker run *task*, and return its answer: one of the thread's shard, or without a thread of the reader's.

        A read that is cancelled, or times out, is withdrawn: a worker that has it in its queue drops it.

        Raises:
            ThreadStoreError: the read raised it.
            Unavailable: no worker answered in time (the message says why), or the request could not be sent.
        """
        shard = self._deployment.current.shard_of(thread_id) if thread_id else self._shard
        of, read = names.ShardKeys(self._settings.key_prefix, shard), uuid.uuid4().hex
        limit = self._settings.flush_timeout_s
        withdrawal: asyncio.Task[bytes | None] | None = None
        failure = _Failure()
        try:
            async with asyncio.timeout(limit), self._slots:
                try:
                    with redis_errors_translated(self._settings):
                        await self._announce(of, read)
                    await self._publish(task, thread_id, arguments | {"shard": shard, "read": read})
                    answer = await self._receive(of.answer(read), failure)
                except BaseException:
                    withdrawal = self._withdraw(of, read)
                    raise
        except TimeoutError:
            home = self._deployment.current.home_of.get(shard)
            of_home = f" (home {home})" if home else ""
            if failure.error is not None and time.monotonic() - failure.at < FAILING:
                why = f"Redis {explain(failure.error)}"
            else:
                why = await self._state(shard, withdrawal)
            raise errors.Unavailable(
                f"no worker of shard {shard}{of_home} answered within {limit:g} s: {why}"
            ) from None
        if isinstance(answer, errors.ThreadStoreError):
            raise answer
        return answer

    # -- sending -------------------------------------------------------------------------------------------

    async def _announce(self, of: names.ShardKeys, read: str) -> None:
        """Say in Redis that the read waits; on a new connection if this one leads to a former master."""
        keys = [of.reads, of.read(read), of.drain, of.wake]
        args: list[Any] = [read, int(self._settings.flush_timeout_s * 1000)]
        try:
            await cancellable(self._ask(keys=keys, args=args))
        except NOT_THE_MASTER:
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            await cancellable(self._ask(keys=keys, args=args))

    async def _publish(self, task: str, thread_id: str | None, kwargs: dict[str, Any]) -> None:
        def publish() -> None:
            shown = f"{{'thread': {thread_id!r}}}"
            if not doorbell.send(self._app, self._settings, task, kwargs["shard"], kwargs, kwargsrepr=shown):
                queue = names.queue_name(self._settings.key_prefix, kwargs["shard"])
                raise errors.Unavailable(
                    f"{doorbell.MAX_QUEUED} Celery messages wait in {queue}, and no worker takes them; the read was not "
                    "sent. Start workers (celery --app livethread_worker.entrypoint worker)"
                )

        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, publish)
        except (OperationalError, RedisError, OSError, RuntimeError) as error:
            raise errors.Unavailable(f"asking a worker failed: {type(error).__name__}: {error}") from error

    # -- receiving -----------------------------------------------------------------------------------------

    async def _receive(self, key: str, failure: _Failure) -> ReadAnswer | errors.ThreadStoreError:
        """Return the answer, or the error, once all of its pieces are here."""
        head, _, piece = (await self._pop(key, failure)).partition(b"\n")
        header = json.loads(head)
        if "error" in header:
            return _decode_error(header["error"], header["args"])
        pieces, missing = [piece], header["size"] - len(piece)
        while missing > 0:
            pieces.append(await self._pop(key, failure))
            missing -= len(pieces[-1])
        return ReadAnswer(b"".join(pieces), header["next"], header["position"])

    async def _pop(self, key: str, failure: _Failure) -> bytes:
        """Return the next piece. If Redis is away, wait for it: it keeps the piece for a few seconds."""
        while True:
            try:
                popped = await cancellable(self._redis.blpop([key], timeout=POP_TIMEOUT))
            except (RedisError, OSError) as error:
                failure.error, failure.at = error, time.monotonic()
                if isinstance(error, NOT_THE_MASTER):
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                if popped is not None:
                    return bytes(popped[1])

    # -- giving up -----------------------------------------------------------------------------------------

    def _withdraw(self, of: names.ShardKeys, read: str) -> asyncio.Task[bytes | None]:
        """Remove a read and its answer in the background: its caller may be cancelled."""

        async def withdraw() -> bytes | None:
            async with self._redis.pipeline() as pipeline:
                pipeline.get(of.read(read))
                pipeline.delete(of.read(read), of.answer(read))
                pipeline.zrem(of.reads, read)
                state, *_ = await pipeline.execute()
            return bytes(state) if state is not None else None

        task = asyncio.create_task(_retried(withdraw))
        self._withdrawals.add(task)
        task.add_done_callback(self._withdrawals.discard)
        return task

    async def _state(self, shard: int, withdrawal: asyncio.Task[bytes | None] | None) -> str:
        """Return how far a read came that timed out, and why not further."""
        if withdrawal is None:
            return f"{CONCURRENT_READS} other reads of this process were waiting for their answers all the time"
        await asyncio.wait([withdrawal], timeout=STATE_TIMEOUT)
        state = withdrawal.result() if withdrawal.done() else None
        if state is None:
            return "Redis does not say how far the read came"
        if state:
            worker = state.decode(errors="replace")
            return f"the worker {worker} began the read and did not finish; it may have died. Read again"
        cause = START_ONE
        with suppress(RedisError, OSError):  # among them TimeoutError
            async with asyncio.timeout(STATE_TIMEOUT):
                known = await cancellable(circumstances(self._redis, self._settings.key_prefix, shard))
            cause = known.cause_of_read()
        return f"no worker took the read. {cause}"


async def _retried(call: Callable[[], Awaitable[T]]) -> T | None:
    """Return what *call* returns; call it a second time if the connection was lost, and then give up."""
    for _ in range(2):
        try:
            return await call()
        except (RedisError, OSError):
            await asyncio.sleep(RETRY_INTERVAL)
    return None


def _decode_error(name: str, args: list[Any]) -> errors.ThreadStoreError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.ThreadStoreError):
        return kind(*args)
    return errors.Internal(f"the worker's release has an error that this one does not know: {name}: {args}")
