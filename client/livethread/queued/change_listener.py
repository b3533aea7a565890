"""Listens on the channels of all shards for the threads that workers have changed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from livethread.changes import Changes
from livethread.queued.deployment import DeploymentWatch
from livethread.queued.outage import Outage
from livethread_config import names

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

logger = logging.getLogger(__name__)

#: Wait before subscribing again after the connection broke.
RETRY_INTERVAL: Final = 0.5  # seconds

#: Longest wait for a message before the connection is checked.
CHECK_INTERVAL: Final = 10.0  # seconds


class ChangeListener:
    """One subscription for all watchers of a store; it subscribes again whenever the connection breaks."""

    def __init__(self, redis: Redis, deployment: DeploymentWatch, prefix: str) -> None:
        self._redis = redis
        #: The subscription of the task that listens.
        self._pubsub: PubSub | None = None
        self._deployment = deployment
        self._prefix = prefix
        deployment.on_more_shards(self._subscribe_to_more)

    async def listen(self, changes: Changes) -> None:
        """Note changes until its task is cancelled; a `Source`."""
        outage, pubsub = Outage(logger, "watch"), self._redis.pubsub()
        self._pubsub = pubsub
        task = asyncio.current_task()
        assert task is not None
        try:
            while not task.cancelling():  # redis-py can swallow a cancellation that arrives together with a message
                try:
                    await self._subscribe(pubsub)
                    while not task.cancelling():
                        message = await pubsub.get_message(timeout=CHECK_INTERVAL)
                        outage.end()
                        if message is not None:
                            self._take(message["type"], message["data"], changes)
                except (RedisError, OSError) as error:
                    outage.begin(error, "watchers of threads wait for it")
                    await asyncio.sleep(RETRY_INTERVAL)
        finally:
            if self._pubsub is pubsub:
                self._pubsub = None
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated

    def _take(self, kind: str, data: object, changes: Changes) -> None:
        if kind == "subscribe":
            changes.note_all()  # what was published before is lost
        elif isinstance(data, bytes):
            for thread_id in data.decode(errors="replace").split():
                changes.note(thread_id)

    async def _subscribe(self, pubsub: PubSub) -> None:
        shards = self._deployment.current.shards
        await pubsub.subscribe(*(names.ShardKeys(self._prefix, number).changes for number in shards))

    async def _subscribe_to_more(self) -> None:
        if self._pubsub is not None:
            with suppress(RedisError, OSError):  # then `listen` subscribes again
                await self._subscribe(self._pubsub)
