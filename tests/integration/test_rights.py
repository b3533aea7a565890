"""The rights that docs/reference.md lists suffice for clients, workers, Flower and commands."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, texts, update
from tests.nodes.processes import READY, ChildProcess, RedisServer, worker_process
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually, wait_until

from livethread import (
    ArchiveThreadParams,
    DeleteThreadParams,
    ListThreadsParams,
    LiveThread,
    ReadThreadParams,
    ResumeThreadParams,
    Settings,
    ThreadMetadataPatch,
)
from livethread.queued.celery_reader import CeleryReader
from livethread.queued.merged_reader import MergedReader
from livethread.queued.statistics import StatisticsReader
from livethread_config.names import ShardKeys
from livethread_worker.embedded.processes import settings_env

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference.md"
PREFIX = "of-this-test"


def documented_rights() -> list[str]:
    """Return the rules of the reference, for the test's prefix and database."""
    [rules] = re.findall(
        r"^ACL SETUSER livethread (.*?)\n```", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    words = rules.replace("\\\n", " ").replace("livethread:", f"{PREFIX}:").split()
    return [word for word in words if not word.startswith(">")]


@pytest.fixture
def restricted(own_redis: RedisServer, tmp_path: Path) -> Settings:
    """Settings of a user with the documented rights and no others."""
    own_redis.client.execute_command("ACL", "SETUSER", "least", "reset", ">secret", *documented_rights())  # type: ignore[no-untyped-call]  # redis-py
    url = own_redis.url.replace("unix://", "unix://least:secret@")
    return Settings(redis_url=url, home=tmp_path / "home", key_prefix=PREFIX, reads="local", drain_linger_ms=1)


async def run(settings: Settings, *command: str) -> str:
    """Run ``python -m`` *command*; return its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", *command),
        env=settings_env(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.fixture
def worker(restricted: Settings, tmp_path: Path) -> Iterator[ChildProcess]:
    """A worker with gossip and mingle, too."""
    worker = worker_process(restricted, tmp_path / "worker", "worker", "--task-events")
    worker.command = [word for word in worker.command if not word.startswith("--without")]
    worker.start()
    worker.wait_for_log(READY)
    yield worker
    worker.kill()


@pytest.fixture
def flower_port(restricted: Settings, tmp_path: Path) -> Iterator[int]:
    """The port of a running Flower."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = int(reserved.getsockname()[1])
    command = [
        *(sys.executable, "-P", "-m", "celery", "--app", "livethread_worker.entrypoint", "flower"),
        *(f"--conf={ROOT / 'config' / 'flowerconfig.py'}", f"--port={port}"),
    ]
    flower = ChildProcess(command, settings_env(restricted), tmp_path, "flower")
    flower.start()
    yield port
    flower.kill()


def metrics_of_flower(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read())
    except OSError:
        return ""


async def test_the_documented_rights_suffice(
    worker: ChildProcess, flower_port: int, restricted: Settings, own_redis: RedisServer
) -> None:
    await asyncio.to_thread(wait_until, lambda: metrics_of_flower(flower_port), "Flower")
    async with opened(restricted) as store, opened(restricted.model_copy(update={"reads": "celery"})) as other:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        await update(store, thread_id, ThreadMetadataPatch(name="x"))
        await flush(store, thread_id)
        await LiveThread.resume(other, ResumeThreadParams(thread_id=thread_id, exclusive=True))
        assert texts(await history(other, thread_id)) == ["one"]
        assert len((await other.list_threads(ListThreadsParams(include_without_preview=True, fresh=True))).items) == 1
        await other.read_thread(ReadThreadParams(thread_id=thread_id, fresh=True))
        assert isinstance(other._reader, MergedReader)
        reader = other._reader._remote(0)
        assert isinstance(reader, CeleryReader)
        await reader._requests._withdraw(ShardKeys(PREFIX, 0), "a read that timed out")
        assert (await store._mailboxes.circumstances(thread_id)).looked_at is not None
        statistics = StatisticsReader(store._mailboxes.redis, restricted)
        assert (await statistics.read()).workers
        await statistics.longest_waiting(10)
        path = (await other.read_thread(ReadThreadParams(thread_id=thread_id))).rollout_path
        assert path is not None
        path.rename(path.with_suffix(".away"))
        await other.archive_thread(ArchiveThreadParams(thread_id=thread_id))
        await eventually(lambda: own_redis.client.hlen(f"{PREFIX}:{{0}}:parked"), "the parking")
        path.with_suffix(".away").rename(path)
        listed = await run(restricted, "livethread", "parked", "show", thread_id)
        await run(restricted, "livethread", "parked", "retry", thread_id)
        await other.delete_thread(DeleteThreadParams(thread_id=thread_id))
        await eventually(lambda: not list(restricted.home.rglob(path.name)), "the deletion")
    pong = await run(restricted, "celery", "--app", "livethread_worker.entrypoint", "inspect", "ping")
    await asyncio.to_thread(
        wait_until, lambda: "livethread.append_items" in metrics_of_flower(flower_port), "the task in Flower"
    )
    denied: Any = own_redis.client.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call]  # redis-py
    assert denied == []
    assert "pong" in pong
    assert thread_id in listed
