"""What a scrape reads: the counters in Redis, its memory, and the disk of a home on this host."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from livethread.queued.connection import redis_errors_translated
from livethread.queued.statistics import DeploymentStatistics, StatisticsReader
from livethread_config import Settings

#: How long a scrape waits for Redis; the whole scrape takes less than a second.
READ_TIMEOUT: Final = 0.8  # seconds


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """What Redis says about its memory."""

    #: What counts towards the limit.
    used_bytes: int
    #: None: it has no limit.
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class HomeSpace:
    """The disk of a home on this host."""

    free_bytes: int
    #: None: there is no index yet.
    index_bytes: int | None

    @classmethod
    def of(cls, home: Path, index: Path) -> Self | None:
        """Measure *home*; return None if it is not there."""
        try:
            free = shutil.disk_usage(home).free
        except OSError:
            return None
        try:
            return cls(free, index.stat().st_size)
        except OSError:
            return cls(free, None)


@dataclass(frozen=True, slots=True)
class Reading:
    """All that one scrape shows."""

    statistics: DeploymentStatistics
    #: None: the Redis user may not ask.
    memory: RedisMemory | None
    #: None: no home is on this host.
    home: HomeSpace | None


class MetricsReader:
    """Reads what a scrape shows."""

    def __init__(self, redis: Redis, settings: Settings, *, has_home: bool) -> None:
        self._redis: Any = redis  # redis-py's types leave open whether replies are bytes; ours are
        self._settings = settings
        self._has_home = has_home
        self._statistics = StatisticsReader(redis, settings)

    async def read(self) -> Reading:
        """Return what is true now.

        Raises:
            Unavailable: Redis does not answer, or not within `READ_TIMEOUT`.
            InvalidRequest: Redis holds the record of another deployment.
        """
        with redis_errors_translated(self._settings):
            async with asyncio.timeout(READ_TIMEOUT):
                statistics, memory = await self._statistics.read(), await self._memory()
        home = HomeSpace.of(self._settings.home, self._settings.own_dir / "index.sqlite") if self._has_home else None
        return Reading(statistics, memory, home)

    async def _memory(self) -> RedisMemory | None:
        try:
            info = await self._redis.info("memory")
        except (NoPermissionError, ResponseError):  # an ACL denies it, or a provider has removed it
            return None
        used = info["used_memory"] - info.get("mem_not_counted_for_evict", 0)
        return RedisMemory(used, info.get("maxmemory") or None)
