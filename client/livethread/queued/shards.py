"""The shards of a deployment, as an operator sees and changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from redis.asyncio import Redis

from livethread.errors import Conflict, InvalidRequest
from livethread.queued.deployment import READ_INTERVAL, Change, DeploymentWatch
from livethread.units import counted
from livethread_config import Settings, names
from livethread_config.deployment import AHEAD_FIELD, EPOCHS_FIELD, HomeIdentity, ShardEpochs, home_field, made_at
from livethread_config.settings import MAX_SHARDS

#: How long after it is written a shard epoch begins: clients know it by then, and a home can be there for it.
EPOCH_DELAY_MS: Final = 60_000

#: The latest begin of a shard epoch, if a thread's id is ahead of the clock.
MOST_AHEAD_MS: Final = 3_600_000

#: How long after a shard was moved every client has read the record again.
KNOWN_AFTER: Final = READ_INTERVAL + 1.0  # seconds

#: How long a home must not have been seen before a shard is moved away from it; also at least three sweeps.
UNSEEN: Final = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class ShardState:
    """What an operator sees of a shard."""

    shard: int
    #: When it began, or begins, to take new threads; None: with the deployment.
    since: datetime | None
    home: HomeIdentity | None
    #: When a worker that serves the shard was last seen.
    seen_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON."""
        home = self.home and {"id": self.home.id, "host": self.home.host, "path": self.home.path}
        return {"shard": self.shard, "since": self.since, "home": home, "seen_at": self.seen_at}


class Shards:
    """Lists, adds and moves the shards of the deployment in *redis*."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis: Any = redis  # redis-py's types leave open whether replies are bytes; ours are
        self._settings = settings
        self._watch = DeploymentWatch(redis, settings)
        self._key = names.deployment_key(settings.key_prefix)

    async def states(self) -> list[ShardState]:
        """Return the state of each shard."""
        deployment = await self._watch.look()
        served = await self._redis.mget([self._keys(shard).served for shard in deployment.shards])
        return [
            ShardState(
                shard,
                _time(begin) if (begin := deployment.epochs.begin_of(shard)) else None,
                deployment.home_of.get(shard),
                None if sign is None else _time(int(sign.partition(b" ")[0])),
            )
            for shard, sign in zip(deployment.shards, served, strict=True)
        ]

    async def add(self, count: int) -> tuple[datetime, ShardEpochs]:
        """Add *count* shards; return when they begin to take new threads, and all shard epochs.

        They begin `EPOCH_DELAY_MS` from now by Redis' clock, or after the latest time in a thread's id that was ahead of it:
        no thread changes its shard.

        Raises:
            InvalidRequest: there would be too many, or they would begin more than `MOST_AHEAD_MS` from now.
        """
        while True:
            epochs = (await self._watch.refresh()).epochs
            total = epochs.shards + count
            if total > MAX_SHARDS:
                raise InvalidRequest(f"{epochs.shards} + {count} shards are more than {MAX_SHARDS}")
            now, ahead = await self._now_ms(), (await self._redis.hget(self._key, AHEAD_FIELD) or b"").decode()
            begin = max(now + EPOCH_DELAY_MS, made_at(ahead) + 1, epochs.epochs[-1][0] + 1)
            if begin > now + MOST_AHEAD_MS:
                raise InvalidRequest(
                    f"the id of thread {ahead} holds a time {(begin - now) / 3_600_000:.0f} h ahead of Redis' clock, and new "
                    f"shards would begin after it. Delete the thread, and then the field {AHEAD_FIELD} of {self._key}"
                )
            longer = ShardEpochs.of(*epochs.epochs, (begin, total))
            changes = [Change(EPOCHS_FIELD, epochs.text, longer.text), Change(AHEAD_FIELD, ahead, ahead)]
            if await self._watch.change(changes):
                return _time(begin), longer

    async def move(self, shard: int, home: HomeIdentity, stored: Iterable[str] | None = None) -> HomeIdentity | None:
        """Have *home* serve *shard* from now on; return the home that served it before.

        Return only when all clients know of it: until then, one on the former home's host reads the files that are left
        there. Workers of *home* should start after that.

        *stored* are the threads that *home* stores. None: it may store none of the shard's.

        Raises:
            InvalidRequest: there is no such shard, *home* serves it already, or the shard has been served and none of its
                threads is *stored*.
            Conflict: a worker of the former home was seen a moment ago, or holds threads.
        """
        deployment = await self._watch.refresh()
        former = deployment.home_of.get(shard)
        if shard not in deployment.shards:
            raise InvalidRequest(f"there is no shard {shard}: the deployment has {deployment.epochs.shards}")
        if former == home:
            raise InvalidRequest(f"shard {shard} is served by this home already: {home}")
        is_empty = stored is not None and not any(deployment.shard_of(thread_id) == shard for thread_id in stored)
        if former is not None and is_empty:
            raise InvalidRequest(
                f"the home {home} stores no thread of shard {shard}, which the home {former} serves: bring the files of that "
                "home here first. If the shard has no threads, or they are lost, run livethread shards move --empty"
            )
        raw = (await self._redis.hget(self._key, home_field(shard)) or b"").decode()
        await self._require_idle(shard, home)
        if not await self._watch.change([Change(home_field(shard), raw, home.text)]):
            raise Conflict(f"another process moved shard {shard} at the same time; look at livethread shards list")
        if former is not None:
            await asyncio.sleep(KNOWN_AFTER)
        return former

    async def _require_idle(self, shard: int, home: HomeIdentity) -> None:
        of, now = self._keys(shard), await self._now_ms()
        seen_ms, _, seen_home = (await self._redis.get(of.served) or b"0 ").decode().partition(" ")
        ago, wait = (now - int(seen_ms)) / 1000, max(UNSEEN, 3 * self._settings.sweep_interval_s)
        if seen_home != home.sign and ago < wait:
            raise Conflict(
                f"a worker of the home {seen_home.partition(' ')[0]} served shard {shard} {ago:.0f} s ago: stop all workers "
                f"of that home, bring its files here, and move the shard {wait:g} s later"
            )
        if held := await self._redis.zcount(of.claims, f"({now}", "+inf"):
            raise Conflict(f"a worker still holds {counted(held, 'thread')} of shard {shard}: stop it, and try again")

    async def _now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _keys(self, shard: int) -> names.ShardKeys:
        return names.ShardKeys(self._settings.key_prefix, shard)


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
