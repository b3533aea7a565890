"""Celery messages are sent although the connection breaks, and stores that open and close leave nothing in the process."""

from __future__ import annotations

from typing import Any

import pytest
from billiard import get_context
from tests.nodes.processes import RedisServer
from tests.nodes.proxy import RedisProxy

from livethread.queued.broker import Broker
from livethread.queued.doorbell import send
from livethread_config import Settings, names
from livethread_config.celery_app import deployment_app


@pytest.mark.parametrize("command", [b"LLEN", b"SADD", b"LPUSH"], ids=["looking", "declaring", "sending"])
def test_a_message_is_sent_though_the_connection_breaks(
    own_settings: Settings, own_redis: RedisServer, proxy: RedisProxy, command: bytes
) -> None:
    settings = own_settings.model_copy(update={"redis_url": proxy.url})
    with deployment_app("test", settings, Broker) as app:
        broken = proxy.swallow_reply(command)

        was_sent = send(app, settings, names.DRAIN_TASK, 0, {"shard": 0})

    prefix = settings.key_prefix
    sent = own_redis.client.llen(f"{names.celery_key_prefix(prefix)}{names.queue_name(prefix, 0)}")
    assert (was_sent, broken.is_set(), sent) == (True, True, 2 if command == b"LPUSH" else 1)


def test_applications_of_one_broker_share_its_producers(own_settings: Settings) -> None:
    producers = []
    for _ in range(3):
        with deployment_app("test", own_settings, Broker) as app:
            send(app, own_settings, names.DRAIN_TASK, 0, {"shard": 0})
            pool: Any = app.amqp.producer_pool
            producers.append(len(pool._resource.queue))

    assert producers == [10, 10, 10]


def test_a_process_that_is_forked_later_sends_too(own_settings: Settings, own_redis: RedisServer) -> None:
    with deployment_app("test", own_settings, Broker) as app:
        send(app, own_settings, names.DRAIN_TASK, 0, {"shard": 0})
        context: Any = get_context("fork")  # billiard has no types
        child = context.Process(target=send, args=(app, own_settings, names.DRAIN_TASK, 0, {"shard": 0}))
        child.start()
        child.join(30)

    prefix = own_settings.key_prefix
    assert child.exitcode == 0
    assert own_redis.client.llen(f"{names.celery_key_prefix(prefix)}{names.queue_name(prefix, 0)}") == 2
