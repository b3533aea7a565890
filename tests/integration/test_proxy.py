"""The proxy between a client and Redis delays, cuts and swallows replies on request, and does nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from tests.nodes.processes import RedisServer
from tests.nodes.proxy import RedisProxy
from tests.nodes.waiting import DEADLINE, wait_until

from livethread import new_thread_id


@pytest.fixture
def client(proxy: RedisProxy) -> Iterator[Redis]:
    """A client that reports a failure instead of retrying."""
    with Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def key() -> str:
    return new_thread_id()


def test_data_passes_unchanged_in_both_directions(client: Redis, own_redis: RedisServer, key: str) -> None:
    large = bytes(range(256)) * 4096

    client.set(key, large)

    assert own_redis.client.get(key) == large
    assert client.get(key) == large


def test_a_request_with_a_delayed_answer_is_carried_out(
    proxy: RedisProxy, client: Redis, own_redis: RedisServer, key: str
) -> None:
    hasty = Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0), socket_timeout=0.5)
    hasty.ping()

    proxy.delay_s = DEADLINE
    with pytest.raises(RedisTimeoutError):
        hasty.incr(key)
    proxy.delay_s = 0.0

    hasty.close()
    assert own_redis.client.get(key) == b"1"
    assert client.ping()


def test_new_connections_work_after_all_were_cut(proxy: RedisProxy, own_redis: RedisServer) -> None:
    clients = [Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0), single_connection_client=True) for _ in "ab"]
    for client in clients:
        client.ping()
    assert proxy.connections == 2

    proxy.cut_all()

    wait_until(lambda: proxy.connections == 0, "the cut")
    for client in clients:
        with pytest.raises(RedisConnectionError):
            client.ping()
        assert client.ping()
        client.close()


@pytest.mark.parametrize("after", [0, 2, 1000])
def test_a_request_with_a_cut_reply_is_carried_out(
    proxy: RedisProxy, client: Redis, own_redis: RedisServer, key: str, after: int
) -> None:
    own_redis.client.set(key, "x" * 5000)
    client.ping()

    cut = proxy.cut_reply(after, to=b"GETDEL")
    assert client.ping()  # another command passes
    with pytest.raises(RedisConnectionError):
        client.getdel(key)

    assert cut.is_set()
    assert own_redis.client.get(key) is None
    assert client.ping()


def test_only_the_chosen_replies_are_swallowed(
    proxy: RedisProxy, client: Redis, own_redis: RedisServer, key: str
) -> None:
    first, second = proxy.swallow_reply(to=b"INCR"), proxy.swallow_reply(to=b"INCR")

    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            client.incr(key)

    assert first.is_set()
    assert second.is_set()
    assert client.incr(key) == 3


def test_connections_fail_while_redis_is_down_and_work_afterwards(client: Redis, own_redis: RedisServer) -> None:
    client.ping()
    own_redis.kill()
    with pytest.raises(RedisConnectionError):
        client.ping()
    with pytest.raises(RedisConnectionError):
        client.ping()

    own_redis.start()

    assert client.ping()
