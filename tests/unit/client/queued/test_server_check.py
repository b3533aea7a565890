from __future__ import annotations

import logging
from typing import Any

import pytest

from livethread import InvalidRequest, Settings
from livethread.queued.server_check import examine, log_faults

GOOD = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
}


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"redis_version": "7.0.15"},
        {"redis_version": "10.1"},
        {"maxmemory": 1_000_000},
        {"maxmemory_policy": "allkeys-lru"},  # without a limit, nothing is dropped
    ],
)
def test_a_server_that_keeps_everything_has_no_fault(info: dict[str, Any]) -> None:
    assert examine(GOOD | info) == []


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"redis_version": "6.2.14"}, "leads to Redis 6.2.14; it must be Redis 7.0 or newer, or Valkey"),
        ({"redis_mode": "cluster"}, "leads to a Redis Cluster, which is not supported; use one server"),
        ({"server_mode": "cluster", "redis_mode": ""}, "leads to a Redis Cluster"),
        ({"redis_mode": "sentinel"}, "leads to a Sentinel, which holds no data; use the URL of the master"),
        (
            {"maxmemory": 1, "maxmemory_policy": "allkeys-lfu"},
            r"\(maxmemory-policy allkeys-lfu\), and accepted tasks",
        ),
    ],
)
def test_a_server_that_cannot_keep_a_promise_is_refused_with_advice(info: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        examine(GOOD | info)


def test_lesser_faults_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    info = GOOD | {"maxmemory": 1, "maxmemory_policy": "volatile-lru", "aof_enabled": 0}

    for _ in range(2):
        log_faults(Settings(redis_url="redis://of-this-test"), info)

    assert [(record.levelno, record.message.partition(" (")[0].partition(":")[0]) for record in caplog.records] == [
        (logging.WARNING, "this Redis may drop writers' counters and fences when its memory is full"),
        (logging.WARNING, "this Redis writes no append-only file"),
    ]
