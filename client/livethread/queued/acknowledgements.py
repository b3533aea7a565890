"""Hears from the workers which of a client's tasks are durable, and which threads are parked.

Publications may be lost: whoever waits asks Redis as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

logger = logging.getLogger(__name__)

#: Wait before listening again after the connection broke.
RETRY_INTERVAL: Final = 0.5  # seconds


class AppliedListener:
    """Subscribes to the *channels* on which one client is told, again and again where the connection breaks."""

    def __init__(
        self,
        redis: Redis,
        channels: list[str],
        on_message: Callable[[str], None],
        on_return: Callable[[], Awaitable[None]],
    ) -> None:
        self._pubsub: PubSub = redis.pubsub(ignore_subscribe_messages=True)
        self._channels = channels
        self._on_message = on_message
        #: Called when Redis is back: what was published meanwhile is lost.
        self._on_return = on_return
        #: Whether the connection stands; while it does not, it is for the listener alone to mend.
        self._is_connected = False
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect.

        Raises:
            RedisError: Redis does not answer.
        """
        await self._pubsub.subscribe(*self._channels)
        self._is_connected = True

    def start(self) -> None:
        """Start listening; where `connect` failed, as soon as Redis answers."""
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Stop listening."""
        # A cancellation that meets a message can be lost on its way through redis-py.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=RETRY_INTERVAL)
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated

    async def _listen(self) -> None:
        level = logging.WARNING
        while True:
            try:
                if not self._is_connected:
                    await self.connect()
                    await self._on_return()
                async for message in self._pubsub.listen():
                    level = logging.WARNING
                    self._on_message(message["data"].decode())
            except (RedisError, OSError) as error:
                self._is_connected = False
                logger.log(level, "listening failed", extra={"action": "listen", "error": type(error).__name__})
                level = logging.DEBUG
                await asyncio.sleep(RETRY_INTERVAL)
