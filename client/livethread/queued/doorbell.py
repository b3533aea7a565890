"""Publishes doorbells: Celery messages that say "this shard has ready threads"."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from livethread.queued.outage import Outage
from livethread_config import Settings, names

if TYPE_CHECKING:
    from celery import Celery


logger = logging.getLogger(__name__)

#: Length of a queue from which on no message is added: returning workers find enough of them. Messages have no expiry,
#: since it would compare two hosts' clocks.
MAX_QUEUED: Final = 1_000


def send(
    app: Celery, settings: Settings, task: str, shard: int, kwargs: dict[str, Any], *, kwargsrepr: str | None = None
) -> bool:
    """Send a Celery task to *shard*'s queue; return whether there was room for it.

    Raises:
        OperationalError, RedisError, OSError: the broker does not answer, or refuses.
    """
    queue = names.queue_name(settings.key_prefix, shard)
    with app.producer_or_acquire() as producer:
        with suppress(RedisError):  # sending connects again, and reports what fails
            if producer.channel.queue_declare(queue).message_count >= MAX_QUEUED:
                return False
        app.send_task(
            task,
            kwargs=kwargs,
            kwargsrepr=kwargsrepr,
            queue=queue,
            producer=producer,
            ignore_result=True,
            # Once, on a new connection: the old one may be lost, or lead to a former master.
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0},
        )
    return True


class Doorbell:
    """Rings from a thread of its own: publishing blocks for about a millisecond.

    A doorbell that cannot be published is dropped: a flush, the sweeper and every later enqueue ring again.
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
            send(self._app, self._settings, names.DRAIN_TASK, shard, {"shard": shard})
        except (OperationalError, RedisError, OSError) as error:
            self._outage.begin(error, f"shard {shard} gets its doorbell later", shard=shard)
        else:
            self._outage.end()
