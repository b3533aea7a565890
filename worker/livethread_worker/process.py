"""The resources of one worker process: Redis, the index, and the sender of task events."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

from celery import Celery
from celery.events.dispatcher import EventDispatcher
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from livethread.errors import InvalidRequest
from livethread.model import utc_now
from livethread.queued.doorbell import send
from livethread.queued.outage import Outage, explain
from livethread_config import Settings, names
from livethread_config.celery_settings import SOCKET_TIMEOUT
from livethread_config.deployment import HomeIdentity
from livethread_worker.drain.drain import Drain
from livethread_worker.drain.mailbox import Mailbox
from livethread_worker.drain.task_events import TaskEvents
from livethread_worker.membership import Membership
from livethread_worker.reads.answers import Answer, Answers
from livethread_worker.serving import Serving
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.read.reader import LocalReader
from livethread_worker.store.upkeep.compress_cold import compress_cold
from livethread_worker.store.upkeep.index_handle import IndexHandle
from livethread_worker.store.upkeep.rebuild import complete_once

logger = logging.getLogger(__name__)

#: New objects after which a pool process searches for reference cycles. Most batches make fewer; a search during a
#: batch would find them all in use. Python's default is 700.
YOUNG_OBJECTS: Final = 100_000

#: How often a worker logs what it serves.
REPORT_INTERVAL: Final = 60.0  # seconds


def collect_garbage_rarely(**_: Any) -> None:
    """Exclude imported modules from garbage collection, and collect rarely.

    A batch makes tens of thousands of objects, and reference counting frees nearly all of them. Searching them for
    cycles took a seventh of a worker's CPU time. Only for processes that run nothing but livethread's tasks.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


class WorkerProcess:
    """Opens each resource on first use: a pool child must not share what its parent opened before the fork."""

    def __init__(self, app: Celery, settings: Settings, serving: Serving) -> None:
        self._app = app
        self.settings = settings
        self._serving = serving
        self.home = Home(settings.home)
        self._handle = IndexHandle(self.home)
        self.reader = LocalReader(self.home, self.open_index)
        self._redis: Redis | None = None
        self._outage = Outage(logger, "drain")
        self._events: TaskEvents | None = None
        #: The index for which this process has requested completion.
        self._asked_for: Index | None = None
        self._report_at = float("-inf")

    def open_index(self) -> Index:
        """Return the index. If it has not read every rollout yet, request a Celery task that completes it.

        Raises:
            IndexUnavailable: it cannot be opened.
        """
        index = self._handle.get()
        if index is not self._asked_for:
            if index.is_complete:
                self._asked_for = index
            elif shards := self._serving.shards(self.membership):
                self._asked_for = index
                self._send(names.COMPLETE_INDEX_TASK, shards[0], {})
        return index

    def complete_index(self) -> dict[str, int]:
        """Read the rollouts that the index does not know, unless that was done or another process is doing it."""
        return complete_once(self.home, self._handle.get())

    def compress_cold(self) -> dict[str, int]:
        """Compress the rollouts that have not changed for ``compress_after_days``, if that is set."""
        days = self.settings.compress_after_days
        return {} if days is None else compress_cold(self.home, self._handle.get(), utc_now() - timedelta(days=days))

    @cached_property
    def membership(self) -> Membership:
        """What this process knows of its deployment.

        Raises:
            InvalidRequest: the home belongs to a deployment with another prefix, or cannot be used.
        """
        return Membership(self._open_redis(), self.home, self.settings)

    def mailbox(self, shard: int, home: HomeIdentity | None = None) -> Mailbox:
        """Return the mailboxes of *shard*, with no claims; only *home* may claim threads."""
        return Mailbox(self._open_redis(), self.settings, shard, home)

    @cached_property
    def answers(self) -> Answers:
        """Where clients on other hosts ask for reads."""
        return Answers(self._open_redis(), self.settings)

    def answer(self, shard: int, read: str, hostname: str, find: Callable[[], Answer]) -> None:
        """Answer *read* as `Answers.answer` does; if Redis does not answer, log that."""
        try:
            self.answers.answer(shard, read, hostname, find)
        except RedisError as error:
            self._begin_outage(error, "a read gets no answer; its caller can read again")
        else:
            self._outage.end()

    def drain(self, shard: int, hostname: str) -> dict[str, int]:
        """Drain *shard* and return the counts; none if the deployment record cannot be read, or contradicts the settings."""
        try:
            shards = self._serving.shards(self.membership)
        except (RedisError, OSError, InvalidRequest) as error:
            self._begin_outage(error, "the next drain continues")
            return {}
        drain = Drain(
            self.mailbox(shard, self.membership.identity),
            self.home,
            self.open_index,
            self.settings,
            ring=lambda: self.ring(shard),
            reads_wait=lambda: self.answers.are_waiting({shard, *shards}),
            serves_others=len(shards) > 1,
            events=self._task_events(hostname),
            outage=self._outage,
        )
        counts = drain.run()
        if counts["batches"]:
            logger.debug("drained shard %d: %s", shard, counts, extra={"action": "drain", "shard": shard, **counts})
        return counts

    def sweep(self, consumer: Any) -> None:
        """Sweep every shard: ring for those with ready threads and no drain, and have cold rollouts compressed.

        First, follow the deployment record; then give a sign of life.
        """
        try:
            shards = self.membership.refresh().shards
            self._serving.follow(self.membership, consumer)
            consumed = self._serving.consumed()
            for shard in shards:
                if self.mailbox(shard).sweep(self.membership.identity if shard in consumed else None):
                    self.ring(shard)
            self.membership.sign(consumer.hostname, consumed)
            # Last, because a full Redis refuses it. The home's first shard tells its workers when they last did it.
            mine = self._serving.shards(self.membership) if self.settings.compress_after_days else []
            if mine and self.mailbox(min(self.membership.served())).reserve_compression():
                self._send(names.COMPRESS_COLD_TASK, mine[0], {})
            self._report(consumed)
        except (RedisError, OSError, InvalidRequest) as error:
            self._begin_outage(error, "the next sweep goes on")
        else:
            self._outage.end()

    def sign_off(self, consumer: Any) -> None:
        """Remove the worker's sign of life; if Redis does not answer, it ages."""
        with suppress(RedisError, OSError, InvalidRequest):
            self.membership.sign_off(consumer.hostname)

    def _report(self, shards: Iterable[int]) -> None:
        """Log what waits in *shards*, once per `REPORT_INTERVAL`: the line says that this worker sweeps."""
        if time.monotonic() < self._report_at or not logger.isEnabledFor(logging.INFO):
            return
        self._report_at = time.monotonic() + REPORT_INTERVAL
        counts = [self.mailbox(shard).count() for shard in shards]
        waiting, parked = (sum(each) for each in zip(*counts, strict=True)) if counts else (0, 0)
        logger.info(
            "serving shard %s of %s: %d threads wait, %d are parked",
            ", ".join(map(str, shards)) or "none",
            self.home.root,
            waiting,
            parked,
            extra={"action": "serve", "shards": list(shards), "waiting": waiting, "parked": parked},
        )

    def ring(self, shard: int) -> None:
        """Publish a doorbell for *shard*. If that fails, the next sweep rings."""
        self._send(names.DRAIN_TASK, shard, {"shard": shard})

    def _begin_outage(self, error: Exception, effect: str) -> None:
        self._outage.begin(error, effect)
        self.mailbox(0).disconnect()
        if self._events is not None:
            self._events.reconnect()

    def _send(self, task: str, shard: int, kwargs: dict[str, Any]) -> None:
        try:
            send(self._app, self.settings, task, shard, kwargs)
        except (OperationalError, RedisError, OSError) as error:
            logger.warning(
                "sending %s to shard %d failed: Redis %s",
                task,
                shard,
                explain(error),
                extra={"action": task, "shard": shard},
            )

    def _open_redis(self) -> Redis:
        if self._redis is None:
            self._redis = Redis.from_url(
                self.settings.client_url,
                socket_connect_timeout=self.settings.connect_timeout_s,
                socket_timeout=SOCKET_TIMEOUT,
                health_check_interval=25,
            )
        return self._redis

    def _task_events(self, hostname: str) -> TaskEvents:
        if self._events is None:
            dispatcher: EventDispatcher | None = None
            if self._app.conf.worker_send_task_events:
                # The dispatcher keeps this connection for the life of the process.
                dispatcher = self._app.events.Dispatcher(self._app.connection_for_write(), hostname=hostname)
            self._events = TaskEvents(dispatcher, self.settings.task_events_per_s)
        return self._events
