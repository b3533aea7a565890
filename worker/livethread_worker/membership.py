"""A worker's part of its deployment: the record as it knows it, and the shards that its home serves."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from livethread.errors import InvalidRequest
from livethread.queued.deployment import READ_INTERVAL, Change, reconcile
from livethread.queued.scripts import load_script
from livethread.queued.shards import UNSEEN
from livethread_config import Settings, names
from livethread_config.deployment import Deployment, HomeIdentity, home_field
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.identity import identify, recall_deployment, remember_deployment

logger = logging.getLogger(__name__)

#: How long the sign of a killed worker is kept, so that an operator sees where it ran.
SIGNS_KEPT_MS: Final = 600_000

#: A time before all others.
NEVER: Final = float("-inf")


class Membership:
    """The deployment as one worker process knows it, and the home that it brings.

    Raises:
        InvalidRequest: the home belongs to a deployment with another prefix, or cannot be used.
    """

    def __init__(self, redis: Redis, home: Home, settings: Settings) -> None:
        self._redis: Any = redis  # redis-py's types cover both synchronous and asynchronous results
        self._home = home
        self._settings = settings
        self._key = names.deployment_key(settings.key_prefix)
        self._change = redis.register_script(load_script("livethread.queued", "record"))
        self._workers = names.workers_key(settings.key_prefix)
        self._sign = redis.register_script(load_script("livethread_worker", "sign"))
        self._read_at = NEVER
        try:
            self.identity: HomeIdentity = identify(home, settings.key_prefix)
        except OSError as error:
            raise InvalidRequest(f"the home {home.root} cannot be used: {error}") from None
        self._known = recall_deployment(home, self.identity)
        #: What the home keeps of the record.
        self._remembered = self._known

    @property
    def deployment(self) -> Deployment:
        """The deployment, not older than `READ_INTERVAL`; older if Redis does not answer.

        Raises:
            InvalidRequest: the record contradicts the settings, the home or this release.
            RedisError, OSError: Redis does not answer, and never has.
        """
        if time.monotonic() - self._read_at > READ_INTERVAL:
            try:
                return self.refresh()
            except (RedisError, OSError):
                if self._known is None:
                    raise
        assert self._known is not None
        return self._known

    def refresh(self) -> Deployment:
        """Read the record; create or restore it if Redis has none.

        Raises:
            InvalidRequest: the record contradicts the settings, the home or this release.
            RedisError, OSError: Redis does not answer.
        """
        while isinstance(found := reconcile(self._redis.hgetall(self._key), self._settings, self._known), list):
            self._put(found)
        if found != self._remembered:
            with suppress(OSError):  # a full disk is no reason not to serve; the next read tries again
                remember_deployment(self._home, found)
                self._remembered = found
        self._known, self._read_at = found, time.monotonic()
        return found

    def is_mine(self, shard: int) -> bool:
        """Whether the record says that this home serves *shard*."""
        return self.deployment.home_of.get(shard) == self.identity

    def may_serve(self, shard: int) -> bool:
        """Whether this home serves *shard*, or may: no home does, or the home of which this is a copy.

        A copy replaces its original if it brought the original's embedded Redis along.
        """
        holder = self.deployment.home_of.get(shard)
        is_own = self._settings.is_embedded and holder is not None and holder.id == self.identity.id
        return holder is None or holder == self.identity or is_own

    def served(self) -> list[int]:
        """Return the shards that this home serves."""
        return [shard for shard, home in self.deployment.home_of.items() if home == self.identity]

    def claim(self, shards: Iterable[int]) -> None:
        """Have this home serve *shards*.

        Raises:
            InvalidRequest: another home serves one of them.
            RedisError, OSError: Redis does not answer.
        """
        for shard in shards:
            while (holder := self.refresh().home_of.get(shard)) != self.identity:
                if holder is not None and not self.may_serve(shard):
                    raise InvalidRequest(self._refusal(shard, holder))
                # Redis may have lost the record since.
                now = b"" if holder is None else self._redis.hget(self._key, home_field(shard)) or b""
                self._put([Change(home_field(shard), now.decode(), self.identity.text)])

    def sign(self, worker: str, shards: list[int]) -> None:
        """Note that *worker*, a Celery node of this home, lives and serves *shards*.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        # A worker with the solo pool gives no sign during a drain.
        interval_s = self._settings.sweep_interval_s
        valid_s = max(UNSEEN, 3 * interval_s, self._settings.drain_max_s + interval_s)
        known = {"host": self.identity.host, "home": self.identity.path, "shards": shards, "valid_s": valid_s}
        self._sign(keys=[self._workers], args=[worker, json.dumps(known), SIGNS_KEPT_MS])

    def sign_off(self, worker: str) -> None:
        """Remove the sign of *worker*, which ends.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        self._redis.hdel(self._workers, worker)

    def _put(self, changes: list[Change]) -> None:
        self._change(keys=[self._key], args=[part for change in changes for part in change])

    def _refusal(self, shard: int, holder: HomeIdentity) -> str:
        what = "a copy of it" if holder.id == self.identity.id else f"the home {self.identity.id}"
        return (
            f"shard {shard} of the deployment {self._settings.key_prefix!r} is served by the home {holder}, and this worker "
            f"has {what} ({self.identity.host}:{self.identity.path}). Use that home, serve other shards (-Q), or stop the "
            f"workers of that home, bring its files here, and run livethread shards move {shard}"
        )
