"""A URL leads client, workers, Flower and commands to the same Redis, with the same certificates and rights."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from flower.utils.broker import Broker
from tests.nodes.items import append, flush, message, new_thread, texts
from tests.nodes.processes import RedisServer
from tests.nodes.proxy import RedisProxy
from tests.nodes.stores import opened
from tests.nodes.tls import Certificates
from tests.nodes.workers import celery_worker

from livethread import LoadThreadHistoryParams, Settings, Unavailable, open_store
from livethread_config.celery_app import deployment_app
from livethread_worker.embedded.processes import settings_env


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates.make(tmp_path_factory.mktemp("certificates"))
    if made is None and os.environ.get("CI"):
        pytest.fail("CI needs openssl")
    return made or pytest.skip("openssl is not installed")


@pytest.fixture
def tls_port(redis_server: RedisServer, certificates: Certificates) -> Iterator[int]:
    with RedisProxy(redis_server, tls=certificates.context()) as proxy:
        yield proxy.port


def settings_of(url: str, tmp_path: Path) -> Settings:
    prefix = f"t{uuid.uuid4().hex[:12]}"
    return Settings(redis_url=url, home=tmp_path / "home", key_prefix=prefix, reads="celery", connect_timeout_s=5.0)


async def assert_all_reach_the_same_redis(settings: Settings) -> None:
    """Write, read over Celery, and have Flower and a command look."""
    with celery_worker(settings):
        async with opened(settings) as store:
            thread_id = await new_thread(store)
            await append(store, thread_id, message("one"))
            await flush(store, thread_id)
            items = (await store.load_history(LoadThreadHistoryParams(thread_id=thread_id))).items
        assert texts(list(items[1:])) == ["one"]
    app = deployment_app("flower", settings)
    app.send_task("unknown", queue="other")
    with app.connection() as connection:  # as Flower does it
        uri = connection.as_uri(include_password=True)
    options = {"broker_options": app.conf.broker_transport_options, "broker_use_ssl": app.conf.broker_use_ssl}
    assert await Broker(uri, **options).queues(["other"]) == [{"name": "other", "messages": 1}]
    app.close()
    command = [sys.executable, "-m", "livethread", "parked", "--json"]
    listed = await asyncio.to_thread(
        subprocess.run, command, env=settings_env(settings), capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr


async def test_rediss_verifies_the_certificate_for_all(
    tls_port: int, certificates: Certificates, tmp_path: Path
) -> None:
    url = f"rediss://localhost:{tls_port}/0?ssl_ca_certs={certificates.authority}"

    await assert_all_reach_the_same_redis(settings_of(url, tmp_path))


async def test_rediss_without_verification_works_for_all(tls_port: int, tmp_path: Path) -> None:
    await assert_all_reach_the_same_redis(
        settings_of(f"rediss://localhost:{tls_port}/0?ssl_cert_reqs=CERT_NONE", tmp_path)
    )


@pytest.mark.parametrize("problem", ["unknown authority", "another host's"])
async def test_a_certificate_that_proves_nothing_is_refused_by_client_and_celery(
    tls_port: int, certificates: Certificates, tmp_path: Path, problem: str
) -> None:
    known = f"?ssl_ca_certs={certificates.authority}"
    url = (
        f"rediss://localhost:{tls_port}/0"
        if problem == "unknown authority"
        else f"rediss://127.0.0.1:{tls_port}{known}"
    )
    settings = settings_of(url, tmp_path)
    app = deployment_app("test", settings)

    with pytest.raises(Unavailable, match="certificate verify failed"):
        async with open_store(settings):
            pytest.fail("it opened")
    with pytest.raises(Exception, match="certificate verify failed"), app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=5)
    app.close()
