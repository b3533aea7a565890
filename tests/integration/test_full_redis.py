"""At its memory limit, Redis still takes what workers need to empty it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import NoPermissionError
from tests.nodes.processes import RedisServer

from livethread.queued.broker import MESSAGES_BEYOND_THE_LIMIT
from livethread_config import Settings, names
from livethread_worker.app import create_app
from livethread_worker.embedded.redis_server import answers


@pytest.fixture
def app(own_settings: Settings) -> Iterator[Celery]:
    app = create_app(own_settings)
    yield app
    app.close()


def ring(app: Celery, settings: Settings) -> None:
    queue = names.queue_name(settings.key_prefix, 0)
    app.send_task(names.DRAIN_TASK, queue=queue, ignore_result=True, retry=False)


def test_doorbells_pass_the_memory_limit_up_to_a_bound(
    app: Celery, own_settings: Settings, own_redis: RedisServer
) -> None:
    own_redis.client.config_set("maxmemory", 1)

    for _ in range(MESSAGES_BEYOND_THE_LIMIT):
        ring(app, own_settings)
    with pytest.raises(OperationalError, match="the queue is full, and so is Redis"):
        ring(app, own_settings)

    own_redis.client.config_set("maxmemory", 0)
    ring(app, own_settings)


def test_a_server_that_answers_with_an_error_counts_as_running(own_redis: RedisServer) -> None:
    """If its disk is full, Redis answers PING with MISCONF; `livethread up` must not take that for a crash."""
    assert answers(own_redis.settings)
    own_redis.client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-ping"])
    with pytest.raises(NoPermissionError):
        own_redis.client.ping()

    assert answers(own_redis.settings)
