"""The proxy that other tests put before Redis does to a connection what they ask for, and nothing else."""

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
    """A client that reports a failure instead of trying again."""
    with Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def key() -> str:
    return new_thread_id()


def test_what_is_said_passes_whole_and_in_both_directions(client: Redis, own_redis: RedisServer, key: str) -> None:
    large = bytes(range(256)) * 4096

    client.set(key, large)

    assert own_redis.client.get(key) == large
    assert client.get(key) == large


def test_each_answer_comes_late_and_its_request_was_carried_out(
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


def test_all_connections_are_cut_and_new_ones_are_welcome(proxy: RedisProxy, own_redis: RedisServer) -> None:
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
def test_a_reply_is_cut_after_some_bytes_and_its_request_was_carried_out(
    proxy: RedisProxy, client: Redis, own_redis: RedisServer, key: str, after: int
) -> None:
    own_redis.client.set(key, "x" * 5000)
    client.ping()

    cut = proxy.cut_reply(after, to=b"GETDEL")
    assert client.ping()  # not what it waits for
    with pytest.raises(RedisConnectionError):
        client.getdel(key)

    assert cut.is_set()
    assert own_redis.client.get(key) is None
    assert client.ping()


def test_a_swallowed_reply_is_one_and_the_next_comes(
    proxy: RedisProxy, client: Redis, own_redis: RedisServer, key: str
) -> None:
    first, second = proxy.swallow_reply(to=b"INCR"), proxy.swallow_reply(to=b"INCR")

    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            client.incr(key)

    assert first.is_set()
    assert second.is_set()
    assert client.incr(key) == 3


def test_connections_are_closed_while_redis_is_away_and_serve_when_it_is_back(
    client: Redis, own_redis: RedisServer
) -> None:
    client.ping()
    own_redis.kill()
    with pytest.raises(RedisConnectionError):
        client.ping()
    with pytest.raises(RedisConnectionError):
        client.ping()

    own_redis.start()

    assert client.ping()
