"""A client reads the deployment record again and again."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from livethread.queued import deployment
from livethread.queued.deployment import DeploymentWatch
from livethread_config import Settings


class Redis:
    """A server without a record, whose first *broken* replies do not arrive."""

    def __init__(self, broken: int) -> None:
        self.broken = broken
        self.answered = asyncio.Event()

    def register_script(self, _: str) -> None:
        return None

    async def exists(self, _: str) -> int:
        if self.broken:
            self.broken -= 1
            raise RedisConnectionError("Connection closed by server.")
        self.answered.set()
        return 0


@pytest.mark.parametrize(("broken", "is_reported"), [(1, False), (2, True)])
async def test_a_connection_that_broke_while_idle_is_no_outage(
    broken: int, is_reported: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deployment, "READ_INTERVAL", 0.0)
    redis: Any = Redis(broken)

    with caplog.at_level(logging.WARNING):
        async with DeploymentWatch(redis, Settings()):
            await asyncio.wait_for(redis.answered.wait(), 30)

    assert ("Redis does not answer" in caplog.text) is is_reported
