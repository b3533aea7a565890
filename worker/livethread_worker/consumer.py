"""Celery's consumer, changed so that a worker survives the loss of Redis."""

from __future__ import annotations

import logging

from celery.worker.consumer import Consumer as CeleryConsumer

logger = logging.getLogger(__name__)


class Consumer(CeleryConsumer):
    """A worker's consumer of messages; the setting ``worker_consumer`` names this class."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the lost connection; Celery opens another one afterwards, even if closing fails.

        Celery 5.7.0 closes it twice. If the first attempt fails on a channel with a waiting message (Redis is away, and a
        proxy ends the next connection at once), the second attempt returns the message through a transport without an
        address: ``'NoneType' object has no attribute 'hostname'``. Celery does not treat that as a connection error and
        ends the worker. The message is a doorbell, which may be lost.
        """
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:  # noqa: BLE001 - the connection is lost anyway
            logger.warning("closing the lost connection failed", extra={"error": repr(error)})
