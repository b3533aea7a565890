"""Which errors of Redis may pass, and how they are logged."""

from __future__ import annotations

import logging

import pytest
from kombu.exceptions import OperationalError
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from livethread.queued.outage import Outage, explain, may_pass


def reply(text: str) -> Exception:
    """Return the error that redis-py raises for the error reply *text*."""
    error: Exception = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py's
    return error


@pytest.mark.parametrize(
    "text",
    [
        "READONLY You can't write against a read only replica.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "NOREPLICAS Not enough good replicas to write.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOPERM User app has no permissions to run the 'xadd' command",
        "ERR ACL failure in script: User app has no permissions to run the 'xadd' command",
        "NOAUTH Authentication required.",
        "BUSY Redis is busy running a script.",
        "A-CODE-OF-A-LATER-REDIS not now",
    ],
)
def test_a_reply_about_the_state_of_redis_may_pass(text: str) -> None:
    error = reply(text)

    assert may_pass(error)
    assert explain(error) == f"answers {text.rstrip('.')}"


@pytest.mark.parametrize(
    "text",
    [
        "ERR unknown command 'EVALSHA'",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "CROSSSLOT Keys in request don't hash to the same slot",
    ],
)
def test_a_reply_about_the_request_does_not_pass(text: str) -> None:
    assert not may_pass(reply(text))


@pytest.mark.parametrize("error", [RedisConnectionError("reset"), RedisTimeoutError(), ConnectionResetError("reset")])
def test_a_lost_connection_may_pass(error: Exception) -> None:
    assert may_pass(error)
    assert explain(error) == f"does not answer: {str(error) or 'it timed out'}"


def test_an_error_of_kombu_is_explained_by_its_cause() -> None:
    error = OperationalError("anything")
    error.__cause__ = reply("OOM command not allowed")

    assert explain(error) == "answers OOM command not allowed"


def test_a_cause_is_logged_once_until_redis_can_be_used_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage(logging.getLogger("test"), "enqueue")

    for error in [reply("OOM full"), reply("OOM full"), RedisConnectionError("gone"), RedisConnectionError("gone")]:
        outage.begin(error, "tasks wait")
    outage.end()
    outage.end()
    outage.begin(RedisConnectionError("gone"), "tasks wait")

    assert caplog.messages == [
        "Redis answers OOM full; tasks wait",
        "Redis does not answer: gone; tasks wait",
        "Redis answers again",
        "Redis does not answer: gone; tasks wait",
    ]
