"""What a scrape reads: the counters in Redis, its memory, and the disk of a home on this host."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from livethread.queued.connection import redis_errors_translated
from livethread.queued.statistics import DeploymentStatistics, StatisticsReader
from livethread.status.collector import home_state
from livethread.status.facts import HomeState, RedisState
from livethread_config import Settings

#: How long a scrape waits for Redis; the whole scrape takes less than a second.
READ_TIMEOUT: Final = 0.8  # seconds


@dataclass(frozen=True, slots=True)
class Reading:
    """All that one scrape shows."""

    statistics: DeploymentStatistics
    #: None: the Redis user may not ask.
    redis: RedisState | None
    #: None: no home is known on this host.
    home: HomeState | None


class MetricsReader:
    """Reads what a scrape shows."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis: Any = redis  # redis-py's types leave open whether replies are bytes; ours are
        self._settings = settings
        self._statistics = StatisticsReader(redis, settings)

    async def read(self) -> Reading:
        """Return what is true now.

        Raises:
            Unavailable: Redis does not answer, or not within `READ_TIMEOUT`.
            InvalidRequest: Redis holds the record of another deployment.
        """
        with redis_errors_translated(self._settings):
            async with asyncio.timeout(READ_TIMEOUT):
                statistics, redis = await self._statistics.read(), await self._server()
        return Reading(statistics, redis, await asyncio.to_thread(home_state, self._settings))

    async def _server(self) -> RedisState | None:
        try:
            return RedisState.of(await self._redis.info("memory"))
        except (NoPermissionError, ResponseError):  # an ACL denies it, or a provider has removed it
            return None
