"""The connection to Redis, and the errors raised if Redis does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from livethread.errors import Unavailable
from livethread.queued.outage import NOT_THE_MASTER, explain
from livethread.queued.server_check import log_faults
from livethread_config import Settings
from livethread_config.redis_url import without_password

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Maximum number of a client's connections, not counting the one per shard on which it sends.
CONNECTIONS: Final = 64

#: Longest wait for a reply.
REPLY_TIMEOUT: Final = 5.0  # seconds


def connect(settings: Settings) -> Redis:
    """Return a client of *settings*' Redis that reports a failure at once: the outbox retries."""
    return Redis.from_url(
        settings.client_url,
        max_connections=CONNECTIONS,
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=REPLY_TIMEOUT,
        health_check_interval=25,
        retry=Retry(NoBackoff(), 0),
    )


async def cancellable(call: Awaitable[T]) -> T:
    """Return what *call*, which awaits redis-py, returns.

    Until Python 3.12, `asyncio.wait_for`, which redis-py sends with, can swallow a cancellation, and with it a timeout. Here it
    only reaches a task that nothing waits for any more; that one ends at the latest when Redis replies.
    """
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise
    return task.result()


class ScriptConnection:
    """A connection that runs one script, one call at a time.

    redis-py's pool, its timeouts of every write and read, and its packing in Python would double the time of a call.
    """

    def __init__(self, redis: Redis, script: AsyncScript) -> None:
        self._pool = redis.connection_pool
        self._script = script
        self._connection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's
        self._connection.socket_timeout = None

    async def call(self, keys: list[str], args: list[Any]) -> Any:
        """Run the script.

        Raises:
            RedisError, OSError: Redis does not answer in time, or refuses.
        """
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                await self._pool.ensure_connection(self._connection)
                try:
                    return await self._run("EVALSHA", self._script.sha, len(keys), *keys, *args)
                except NoScriptError:
                    return await self._run("EVAL", self._script.script, len(keys), *keys, *args)
        except NOT_THE_MASTER:
            await self.disconnect()
            raise
        except TimeoutError:
            raise RedisTimeoutError("no reply in time") from None

    async def disconnect(self) -> None:
        """Close the connection; a later call opens it again."""
        await self._connection.disconnect()

    async def _run(self, *command: Any) -> Any:
        await self._connection.send_packed_command(pack_command(command))
        return await self._connection.read_response()


async def check_server(redis: Redis, settings: Settings) -> None:
    """Check that *redis* answers and can keep our promises; log its lesser faults.

    Raises:
        InvalidRequest: it cannot.
        RedisError, OSError: it does not answer.
    """
    await redis.ping()
    try:
        info = await redis.info()
    except (NoPermissionError, ResponseError):  # an ACL denies it, or a provider has removed it
        logger.info("Redis does not say how it is set up", extra={"action": "open"})
    else:
        log_faults(settings, info)


async def require_redis(settings: Settings) -> None:
    """Check that Redis answers and can keep our promises.

    Raises:
        InvalidRequest: it cannot.
        Unavailable: it does not answer.
    """
    redis = connect(settings)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await check_server(redis, settings)
    except (RedisError, OSError) as error:
        raise no_redis(settings, error) from None
    finally:
        await redis.aclose()


@contextmanager
def redis_errors_translated(settings: Settings) -> Iterator[None]:
    """Raise `Unavailable` if Redis does not answer, or answers with an error."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise no_redis(settings, error) from error


def no_redis(settings: Settings, error: Exception) -> Unavailable:
    """Return the error that says what to do if Redis does not answer, or answers with an error."""
    remedy = (
        "Set LIVETHREAD_REDIS_URL, or run livethread up with the same LIVETHREAD_HOME, which needs the worker extra"
        if settings.is_embedded
        else "Start it, correct LIVETHREAD_REDIS_URL, or unset it to use an embedded server"
    )
    if isinstance(error, ResponseError):
        remedy = "Try again later"
    return Unavailable(f"Redis at {without_password(settings.client_url)} {explain(error)}. {remedy}")
