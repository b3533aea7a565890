"""A worker answers reads after a failover, though no drain comes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from redis import Redis
from tests.nodes.processes import RedisServer
from tests.nodes.proxy import RedisProxy

from livethread_config import Settings, names
from livethread_worker.reads.answers import Answer, Answers


def test_a_read_is_answered_if_the_workers_connection_leads_to_a_former_master(
    own_redis: RedisServer, proxy: RedisProxy, tmp_path: Path
) -> None:
    of = names.ShardKeys("livethread", 0)
    with contextlib.closing(RedisServer().start()) as new, Redis.from_url(proxy.url) as connected:
        answers = Answers(connected, Settings(redis_url=proxy.url, home=tmp_path))
        assert not answers.are_waiting([0])
        proxy.lead_to(new)
        own_redis.client.replicaof("127.0.0.1", "1")
        new.client.set(of.read("read"), "")

        answers.answer(0, "read", "worker", lambda: Answer(b"found"))

        pieces: Any = new.client.lrange(of.answer("read"), 0, -1)
    assert [piece.partition(b"\n")[2] for piece in pieces] == [b"found"]
