"""Publishes doorbells: Celery messages that say "this shard has ready threads"."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from livethread.queued.outage import Outage
from livethread_config import Settings, names

if TYPE_CHECKING:
    from celery import Celery


logger = logging.getLogger(__name__)

#: Seconds after which a doorbell that no worker took is dropped; others will have been rung.
DOORBELL_EXPIRES = 60


class Doorbell:
    """Rings from a thread of its own: publishing blocks for about a millisecond.

    A doorbell that cannot be published is given up: a flush, the sweeper and every later enqueue ring again.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._outage = Outage(logger, "ring")
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="livethread-doorbell")

    def ring(self, shard: int) -> None:
        """Publish a doorbell for *shard* soon; do not wait for it."""
        self._executor.submit(self._publish, shard)

    def close(self, *, wait: bool = False) -> None:
        """Stop; with *wait*, first publish what is due, for as long as the broker's timeouts allow."""
        self._executor.shutdown(wait=wait, cancel_futures=not wait)

    def _publish(self, shard: int) -> None:
        try:
            self._app.send_task(
                names.DRAIN_TASK,
                kwargs={"shard": shard},
                queue=names.queue_name(self._settings.key_prefix, shard),
                ignore_result=True,
                # Once, on a new connection: the old one may be lost, or lead to a former master.
                retry=True,
                retry_policy={"max_retries": 1, "interval_start": 0},
                expires=DOORBELL_EXPIRES,
            )
        except (OperationalError, OSError) as error:
            self._outage.begin(error, f"shard {shard} gets its doorbell later", shard=shard)
        else:
            self._outage.end()
