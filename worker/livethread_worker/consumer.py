"""Celery's consumer, made to outlive the loss of Redis."""

from __future__ import annotations

import logging

from celery.worker.consumer import Consumer as CeleryConsumer

logger = logging.getLogger(__name__)


class Consumer(CeleryConsumer):
    """What a worker takes its messages with; the setting ``worker_consumer`` names it."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the lost connection; another one is made after this, whatever becomes of the old one.

        Celery 5.7.0 closes it twice. Where the first attempt failed on a channel in which a message waits (Redis is away,
        and the next connection ends at once, as behind a proxy), the second one tries to give the message back by a
        transport that no longer knows its address: ``'NoneType' object has no attribute 'hostname'``. To Celery that
        is no error of a connection, and it ends the worker for good. The message is a doorbell, and may be lost.
        """
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:  # noqa: BLE001 - whatever it is, that connection is gone
            logger.warning("closing the lost connection failed", extra={"error": repr(error)})
