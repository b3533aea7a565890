"""The connection to Redis, and what is said when there is none."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final
from urllib.parse import urlsplit

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import RedisError

from livethread.errors import Unavailable
from livethread_config import Settings

#: Most connections of a client, beside one for what each shard is sent.
CONNECTIONS: Final = 64


def connect(settings: Settings) -> Redis:
    """Return a client of *settings*' Redis that reports a failure at once: the outbox does the retrying."""
    redis = Redis.from_url(
        settings.client_url,
        max_connections=settings.shards + CONNECTIONS,
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=5.0,
        health_check_interval=25,
        retry=Retry(NoBackoff(), 0),
    )
    pool = redis.connection_pool
    pool.connection_class = type("Packing", (_PacksInC, pool.connection_class), {})
    return redis


class _PacksInC:
    """Packs commands with hiredis, as redis-py's blocking connections do and its asyncio ones do not.

    In Python it would take a fifth of what an append costs.
    """

    _serializer: Final = HiredisRespSerializer()

    def pack_command(self, *args: Any) -> Any:
        if args[0] == "EVALSHA":  # of texts, bytes and numbers alone: the serializer looks at each for others
            return [pack_command(args)]
        return self._serializer.pack(*args)


async def require_redis(settings: Settings) -> None:
    """Return if Redis answers.

    Raises:
        Unavailable: it does not.
    """
    redis = connect(settings)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await redis.ping()
    except (RedisError, OSError) as error:
        raise no_redis(settings, error) from None
    finally:
        await redis.aclose()


def no_redis(settings: Settings, error: Exception) -> Unavailable:
    """Return the error that says what to do where Redis does not answer."""
    remedy = (
        "Set LIVETHREAD_REDIS_URL, or run livethread up with the same LIVETHREAD_HOME, which needs the worker extra"
        if settings.is_embedded
        else "Start it, correct LIVETHREAD_REDIS_URL, or unset it to use an embedded server"
    )
    reason = str(error).rstrip(".") or "it timed out"
    return Unavailable(f"Redis at {without_password(settings.client_url)} does not answer: {reason}. {remedy}")


def without_password(url: str) -> str:
    """Return *url* as errors and logs may show it."""
    password = urlsplit(url).password
    hidden = url.replace(f":{password}@", ":***@") if password else url
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", hidden)
