"""Celery's consumer, changed so that a worker survives whatever Redis does."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.common import ignore_errors
from redis.exceptions import ResponseError

from livethread.queued.outage import Outage

logger = logging.getLogger(__name__)

#: First and longest wait after an error reply; a worker that is asked to stop waits, too.
WAIT_FIRST: Final = 0.1  # seconds
WAIT_LONGEST: Final = 2.0  # seconds


class Consumer(CeleryConsumer):
    """A worker's consumer of messages; the setting ``worker_consumer`` names this class.

    The setting ``broker_channel_error_retry`` has Celery treat an error reply as it treats a lost connection.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outage = Outage(logger, "consume")
        self._wait = WAIT_FIRST
        self._refused_at = float("-inf")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait; Celery then tries again."""
        if isinstance(exc, ResponseError):
            self._wait_after(exc)
        else:
            super().on_connection_error_before_connected(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the connection, and wait after an error reply; Celery opens another one afterwards.

        If Redis is away, Celery 5.7.0 closes the connection twice. If the first attempt fails on a channel with a waiting
        message (a proxy ends the next connection at once), the second attempt returns the message through a transport
        without an address: ``'NoneType' object has no attribute 'hostname'``. Celery does not treat that as a connection
        error and ends the worker. The message is a doorbell, which may be lost.
        """
        if isinstance(exc, ResponseError):
            connection, self.connection = self.connection, None
            if connection is not None:
                ignore_errors(connection, connection.close)
            self._wait_after(exc)
            return
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:  # noqa: BLE001 - the connection is lost anyway
            logger.warning("closing the lost connection failed: %r", error, extra={"action": "consume"})

    def _wait_after(self, reply: ResponseError) -> None:
        if time.monotonic() - self._refused_at > 2 * WAIT_LONGEST:
            self._outage.end()
            self._wait = WAIT_FIRST
        self._outage.begin(reply, "the worker waits and tries again")
        time.sleep(self._wait)
        self._wait = min(self._wait * 2, WAIT_LONGEST)
        self._refused_at = time.monotonic()
