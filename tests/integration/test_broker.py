"""Celery messages are sent although the connection breaks."""

from __future__ import annotations

import pytest
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
