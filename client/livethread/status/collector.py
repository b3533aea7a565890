"""Reads the state of a deployment from Redis and the disk of a home on this host. Answers soon, even if they are gone."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from livethread.errors import InvalidRequest
from livethread.queued.outage import explain
from livethread.queued.server_check import examine
from livethread.queued.statistics import DeploymentStatistics, StatisticsReader
from livethread.status.facts import Facts, HomeState, Rates, RedisState
from livethread.status.findings import Finding, Sentence
from livethread.status.status import Status
from livethread_config import Settings

#: Longest wait for one reply of Redis, which may be far away, or for a connection to it.
REDIS_TIMEOUT: Final = 0.4  # seconds
#: Between the first two looks, for rates.
FIRST_WINDOW: Final = 0.25  # seconds
#: Rates, and lags, are from looks at most so far apart.
WINDOW: Final = 10.0  # seconds
#: A status younger than this is not read again, because all open pages share a reader.
FRESH: Final = 0.5  # seconds
#: Threads that wait longest.
SHOWN: Final = 10


@asynccontextmanager
async def open_status(settings: Settings, place: str) -> AsyncIterator[StatusReader]:
    """Open the status of *settings*' deployment, shown as *place*. Start nothing; Redis need not answer."""
    redis = Redis.from_url(
        settings.client_url,
        socket_connect_timeout=REDIS_TIMEOUT,
        socket_timeout=REDIS_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        yield StatusReader(redis, settings, place)
    finally:
        await redis.aclose()


class StatusReader:
    """Reads the status of a deployment, as often as it is asked."""

    def __init__(self, redis: Redis, settings: Settings, place: str) -> None:
        self._redis: Any = redis  # redis-py's types leave open whether replies are bytes; ours are
        self._settings = settings
        self._place = place
        self._statistics = StatisticsReader(redis, settings)
        #: By this process's clock, oldest first.
        self._looks: deque[tuple[float, DeploymentStatistics]] = deque()
        self._lock = asyncio.Lock()
        self._last: tuple[float, Status] | None = None

    async def read(self) -> Status:
        """Return the status."""
        async with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > FRESH:
                self._last = (time.monotonic(), Status.of(await self._facts()))
            return self._last[1]

    async def _facts(self) -> Facts:
        home = await asyncio.to_thread(home_state, self._settings)
        while self._looks and self._looks[0][0] < time.monotonic() - WINDOW:
            self._looks.popleft()
        try:
            if not self._looks:
                await self._look()
                await asyncio.sleep(FIRST_WINDOW)
            statistics = await self._look()
            longest, server = await self._statistics.longest_waiting(SHOWN), await self._server()
        except (InvalidRequest, RedisError, OSError) as error:
            return Facts(time.time(), self._place, home=home, silence=_silence(self._settings, error))
        rates = Rates.between(self._looks[0][1], statistics)
        return Facts(statistics.now, self._place, statistics, rates, tuple(longest), server, home)

    async def _look(self) -> DeploymentStatistics:
        statistics = await self._statistics.read()
        self._looks.append((time.monotonic(), statistics))
        return statistics

    async def _server(self) -> RedisState | None:
        try:
            info = await self._redis.info()
        except (NoPermissionError, ResponseError):  # an ACL denies it, or a provider has removed it
            return None
        examine(info)
        return RedisState.of(info)


def _silence(settings: Settings, error: Exception) -> Finding:
    """Return the finding that says why Redis gave no statistics."""
    if isinstance(error, InvalidRequest):
        return Finding(Sentence.REDIS_UNFIT, str(error))
    verb, _, reply = explain(error).partition("answers ")
    if not verb:
        return Finding(Sentence.REDIS_ERROR, reply)
    if settings.is_embedded and not settings.embedded_socket.exists():
        return Finding(Sentence.EMBEDDED_IDLE)
    reason = verb.removeprefix("does not answer: ")
    return Finding(Sentence.EMBEDDED_AWAY if settings.is_embedded else Sentence.REDIS_AWAY, reason)


def home_state(settings: Settings) -> HomeState | None:
    """Return the disk of the home on this host, if the settings name one."""
    if not settings.is_embedded and "home" not in settings.model_fields_set:
        return None
    with suppress(OSError):
        home, index = settings.home, settings.index_file
        disk = shutil.disk_usage(next(folder for folder in (home, *home.parents) if folder.exists()))
        index_bytes = index.stat().st_size if index.exists() else None
        return HomeState(str(home), disk.free, disk.total, index_bytes, home.exists())
    return None
