"""Before a worker serves: refuses one that could not keep the promises, and logs lesser faults."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from celery import Celery, Task
from celery.concurrency import get_implementation, prefork, solo
from celery.signals import worker_init
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from livethread.errors import InvalidRequest
from livethread.queued.outage import Outage, may_pass
from livethread.queued.server_check import log_faults
from livethread_config import Settings
from livethread_config.celery_app import ignored_variables
from livethread_config.celery_settings import SOCKET_TIMEOUT, celery_settings

logger = logging.getLogger(__name__)

#: How long a starting worker waits before it asks Redis again.
RETRY_INTERVAL: Final = 0.5  # seconds


def check_at_start(app: Celery, settings: Settings, ours: type[Task[..., Any]], join: Callable[[], None]) -> None:
    """Have *app*'s workers check at their start what they need, and *join* the deployment.

    A worker that cannot work ends with the reason. *ours* is the base class of livethread's tasks.
    """

    @worker_init.connect(weak=False)
    def check(sender: Any, **_: Any) -> None:
        if sender.app is not app:
            return
        try:
            _require_doorbells(app, settings)
            _until_redis_answers(partial(_require_server, settings), join)
        except InvalidRequest as error:
            raise SystemExit(str(error)) from None
        _warn_about_pool(sender.pool_cls)
        _lift_time_limits(sender, ours)
        if ignored := ignored_variables():
            names = ", ".join(ignored)
            logger.warning("ignoring %s: for another Celery application", names, extra={"action": "start"})


def _require_doorbells(app: Celery, settings: Settings) -> None:
    """Check that *app* consumes from the Redis in which clients ring.

    Raises:
        InvalidRequest: it does not.
    """
    ours, redis = celery_settings(settings), settings.redis
    with app.connection_for_read() as connection, app.connection_for_read(redis.for_kombu) as expected:
        wrong = [
            name
            for name in ("hostname", "port", "virtual_host", "userid")
            if getattr(connection, name) != getattr(expected, name)
        ]
        prefix = (connection.transport_options or {}).get("global_keyprefix")
    if wrong or prefix != ours["broker_transport_options"]["global_keyprefix"]:
        raise InvalidRequest(
            f"the Celery application {app.main!r} would hear no doorbell: its broker, or the broker's global_keyprefix, "
            "is not livethread's. Register your tasks with the application that "
            "livethread_worker.app.create_app() returns, or run celery --app livethread_worker.entrypoint worker beside it"
        )


def _require_server(settings: Settings) -> None:
    """Check that Redis can keep our promises.

    Raises:
        InvalidRequest: it cannot.
        RedisError, OSError: it does not answer.
    """
    with Redis.from_url(
        settings.client_url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=SOCKET_TIMEOUT,
    ) as redis:
        try:
            info: Any = redis.info()
        except ResponseError as error:
            if may_pass(error) and not isinstance(error, NoPermissionError):
                raise
            # An ACL denies it, or a provider has removed it.
            logger.info("Redis does not say how it is set up: %s", error, extra={"action": "start"})
        else:
            log_faults(settings, info)


def _until_redis_answers(*steps: Callable[[], None]) -> None:
    """Run each of *steps*, again and again until Redis answers: Celery waits for it in the same way.

    Raises:
        InvalidRequest: the worker cannot serve.
    """
    outage = Outage(logger, "start")
    for step in steps:
        while True:
            try:
                step()
            except (RedisError, OSError) as error:
                outage.begin(error, "the worker waits for it before it serves")
                time.sleep(RETRY_INTERVAL)
            else:
                break
    outage.end()


def _warn_about_pool(pool: Any) -> None:
    """Warn if *pool* runs livethread's tasks one at a time, as threads and greenlets do."""
    implementation = get_implementation(pool)
    if not issubclass(implementation, (prefork.TaskPool, solo.TaskPool)):
        logger.warning(
            "the pool %s shares one index between its tasks, so livethread's run one at a time; the pool prefork runs them "
            "in parallel",
            implementation.__module__.rpartition(".")[2],
            extra={"action": "start"},
        )


def _lift_time_limits(worker: Any, ours: type[Task[..., Any]]) -> None:
    """Have time limits of *worker*, of its application and of its annotations apply only to tasks that are not *ours*.

    They would interrupt a long drain again and again. A longer limit for ours would not help: for each doorbell,
    Celery's timer would keep an entry until the limit.
    """
    limits = {"time_limit": worker.time_limit, "soft_time_limit": worker.soft_time_limit}
    # The pool applies its own limits to every task that has none.
    worker.time_limit = worker.soft_time_limit = None
    for task in worker.app.tasks.values():
        for name, limit in limits.items():
            setattr(task, name, None if isinstance(task, ours) else getattr(task, name) or limit)
