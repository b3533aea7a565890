"""Celery's connections to Redis, changed so that workers can empty a full Redis.

At its memory limit (``noeviction``), Redis refuses each command that may need memory. Only applying tasks frees memory,
and messages start that work, so a few messages may exceed the limit.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any, Final

from celery.app.amqp import AMQP
from kombu import pools
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from redis.exceptions import OutOfMemoryError, RedisError

from livethread.queued.scripts import load_script

#: Maximum number of messages in a queue of a full Redis; one doorbell serves a whole shard.
MESSAGES_BEYOND_THE_LIMIT: Final = 100


class _Channel(kombu_redis.Channel):
    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        try:
            super()._put(queue, message, **kwargs)
        except OutOfMemoryError:
            self._push(keys=[queue], args=[dumps(message), MESSAGES_BEYOND_THE_LIMIT])

    def _queue_bind(self, *args: Any) -> None:
        """Bind a queue; at the memory limit, only in this process, which is enough to consume it."""
        with suppress(OutOfMemoryError):
            super()._queue_bind(*args)  # type: ignore[misc]  # celery-types lacks most of a channel

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        """Put back a message that no worker has begun; if Redis refuses it, it is lost, as a doorbell may be."""
        with suppress(RedisError, OSError):
            super()._restore(message, leftmost)  # type: ignore[call-arg]  # likewise

    def maybe_refresh_binding_expiry(self) -> None:
        """Renew what keeps bindings alive; not at the memory limit."""
        with suppress(OutOfMemoryError):
            super().maybe_refresh_binding_expiry()  # type: ignore[misc]  # likewise

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        """Return how to connect; if the channel is closed, raise what makes kombu publish on another one.

        A declaration that finds the connection lost makes a new one and closes this channel, on which kombu publishes next.
        """
        if self.connection is None:
            raise ConnectionError("the connection was lost while a queue was declared")
        return super()._connparams(*args, **kwargs)  # type: ignore[misc]  # likewise

    @cached_property
    def _push(self) -> Any:
        return self._create_client().register_script(load_script("livethread.queued", "push"))  # type: ignore[attr-defined]


class _Transport(kombu_redis.Transport):
    Channel = _Channel


class _OurTransport:
    def get_transport_cls(self) -> type[_Transport]:
        return _Transport


class _PooledConnection(_OurTransport, PooledConnection):
    pass


class _Pool(ConnectionPool):
    def new(self) -> Any:  # celery-types has no class for pooled connections
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))  # noqa: SLF001 - as kombu does


class _Connection(_OurTransport, Connection):
    def Pool(self, limit: int | None = None, **kwargs: Any) -> _Pool:  # noqa: N802 - kombu's
        return _Pool(self, limit, **kwargs)


class Broker(AMQP):
    """What Celery calls an application's *amqp*; pass it to ``Celery(amqp=...)``."""

    Connection = _Connection

    @property
    def producer_pool(self) -> Any:
        """The process's pool of producers for our broker.

        Celery's keeps the pool, which is closed after a fork, and sets its limit: each time, kombu adds as many producers.
        """
        return pools.producers[self.app.connection_for_write()]
