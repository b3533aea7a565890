"""Errors of a client that cannot reach Redis: they name the address and a remedy, and no password."""

from __future__ import annotations

import asyncio
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.nodes.items import append, flush, message, new_thread
from tests.nodes.processes import RedisServer
from tests.nodes.stores import opened

from livethread import InvalidRequest, Settings, Unavailable, new_thread_id, open_store
from livethread.composition import open_reader
from livethread.queued.connection import CONNECTIONS, connect
from livethread_config.celery_settings import celery_settings

PASSWORD = "hunter2"


@pytest.fixture
def refusing_port() -> int:
    """A port of this host that refuses connections."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that accepts connections and never answers, like a hung Redis."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield int(listener.getsockname()[1])


def settings_for(url: str, tmp_path: Path) -> Settings:
    return Settings(redis_url=url, home=tmp_path / "home", connect_timeout_s=0.2, reads="local")


async def error_on_opening(settings: Settings) -> str:
    """Return the error of opening a store, which must come within two seconds."""
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable) as failure:
            async with open_store(settings):
                pytest.fail("it opened")
    return str(failure.value)


async def test_a_refused_connection_is_reported_with_its_address_and_setting(
    refusing_port: int, tmp_path: Path
) -> None:
    error = await error_on_opening(settings_for(f"redis://127.0.0.1:{refusing_port}/0", tmp_path))

    assert f"redis://127.0.0.1:{refusing_port}/0" in error
    assert "LIVETHREAD_REDIS_URL" in error


async def test_a_server_that_never_answers_is_reported_after_the_connect_timeout(
    black_hole: int, tmp_path: Path
) -> None:
    error = await error_on_opening(settings_for(f"redis://127.0.0.1:{black_hole}/0", tmp_path))

    assert f"127.0.0.1:{black_hole}" in error


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("LIVETHREAD_REDIS_URL", "LIVETHREAD_REDIS_URL: a Redis URL begins with"),
        ("LIVETHREAD_REDISURL", "LIVETHREAD_REDISURL is not a setting; did you mean LIVETHREAD_REDIS_URL?"),
    ],
)
@pytest.mark.parametrize("open_", [open_store, open_reader])
async def test_a_mistake_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch,
    open_: Callable[[], AbstractAsyncContextManager[object]],
    variable: str,
    reason: str,
) -> None:
    monkeypatch.setenv(variable, "foo:1")

    with pytest.raises(InvalidRequest, match=re.escape(reason)):
        async with open_():
            pytest.fail("it opened")


async def test_a_home_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    error = await error_on_opening(Settings(home=tmp_path / "file"))

    assert f"the folders of the home {tmp_path / 'file'} cannot be created" in error
    assert "LIVETHREAD_HOME" in error


async def test_a_missing_socket_is_reported_with_its_path(tmp_path: Path) -> None:
    error = await error_on_opening(settings_for(f"unix://{tmp_path}/none.sock?db=0", tmp_path))

    assert f"{tmp_path}/none.sock" in error


def test_client_and_broker_use_the_connect_timeout(tmp_path: Path) -> None:
    settings = settings_for("redis://127.0.0.1:1/0", tmp_path)

    ours = connect(settings).connection_pool.connection_kwargs["socket_connect_timeout"]
    brokers = celery_settings(settings)["broker_transport_options"]["socket_connect_timeout"]

    assert (ours, brokers) == (0.2, 0.2)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{password}@127.0.0.1:{port}/0",
        "redis://user:{password}@127.0.0.1:{port}/0",
        "redis://127.0.0.1:{port}/0?password={password}",
        "unix:///no/such.sock?db=0&password={password}",
        "unix://user:{password}@/no/such.sock?db=0",
    ],
)
async def test_an_error_on_opening_contains_no_password(
    url: str, refusing_port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    error = await error_on_opening(settings_for(url.format(password=PASSWORD, port=refusing_port), tmp_path))

    assert PASSWORD not in error
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("where", ["in the address", "in the query"])
async def test_errors_of_appends_and_flushes_contain_no_password(
    where: str, own_redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.client.config_set("requirepass", PASSWORD)
    path = own_redis.url.removeprefix("unix://").partition("?")[0]
    url = (
        f"unix://:{PASSWORD}@{path}?db=0" if where == "in the address" else f"unix://{path}?db=0&password={PASSWORD}"
    )
    settings = settings_for(url, tmp_path).model_copy(
        update={"key_prefix": f"t{uuid.uuid4().hex[:8]}", "enqueue_timeout_s": 0.2}
    )
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        with pytest.raises(Unavailable) as not_flushed:
            await flush(store, thread_id, timeout_s=0.05)
        own_redis.kill()
        with pytest.raises(Unavailable) as not_accepted:
            await append(store, thread_id, message("two"))

    assert PASSWORD not in str(not_flushed.value)
    assert PASSWORD not in str(not_accepted.value)
    assert PASSWORD not in caplog.text


async def test_a_wrong_password_is_reported_without_it(own_redis: RedisServer, tmp_path: Path) -> None:
    own_redis.client.config_set("requirepass", "another")
    path = own_redis.url.removeprefix("unix://").partition("?")[0]

    error = await error_on_opening(settings_for(f"unix://:{PASSWORD}@{path}?db=0", tmp_path))

    assert PASSWORD not in error


async def test_more_threads_than_connections_can_be_created_at_once(settings: Settings) -> None:
    thread_ids = [new_thread_id() for _ in range(10 * CONNECTIONS)]

    async with opened(settings.model_copy(update={"reads": "local"})) as store:
        # With an explicit id, creating a thread asks Redis whether the id is taken.
        created = await asyncio.gather(*(new_thread(store, thread_id=thread_id) for thread_id in thread_ids))

    assert created == thread_ids
