"""Another Celery application shares the process, the workers or the Redis with ours."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery, shared_task
from tests.nodes.items import append, flush, history, message, new_thread, texts
from tests.nodes.processes import READY, ChildProcess, RedisServer, worker_process
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually, wait_until

from livethread import Settings
from livethread_config.celery_app import deployment_app
from livethread_worker.embedded.processes import settings_env

#: Their program: livethread's tasks and their own in one application.
EMBEDDING = """
from pathlib import Path
from livethread import Settings
from livethread_worker.app import create_app

app = create_app(Settings())

@app.task(name="theirs.write", queue="theirs")
def write(path, text):
    Path(path).write_text(text)
"""

#: Their program limits the time of tasks to less than a batch takes, in each way that Celery has.
LIMITING = f"""
{EMBEDDING}
import time
from livethread_worker.drain import drain

app.conf.task_time_limit = 0.6
app.conf.task_annotations = {{"*": {{"soft_time_limit": 0.3}}}}

@app.task(name="theirs.wait", queue="theirs")
def wait():
    time.sleep(60)

def apply_slowly(*args, apply_batch=drain.apply_batch, **kwargs):
    time.sleep(1)
    return apply_batch(*args, **kwargs)

drain.apply_batch = apply_slowly
"""

#: Their application, with its own broker, to which livethread's tasks are only added.
DEAF = """
from celery import Celery
from livethread import Settings
from livethread_worker import tasks

app = Celery("theirs", broker="memory://")
tasks.register(app, Settings())
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "celery"})


def worker_of(settings: Settings, folder: Path, program: str, *options: str) -> ChildProcess:
    """Return the worker of a program of theirs, not yet started."""
    (folder / "theirs.py").write_text(program, encoding="utf-8")
    worker = worker_process(settings, folder, "worker", *options, app="theirs")
    worker.env["PYTHONPATH"] = f"{folder}:{worker.env.get('PYTHONPATH', '')}"
    return worker


async def assert_served(settings: Settings) -> None:
    """Write and read a thread, over doorbells and Celery."""
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("one"))
        await flush(store, thread_id)
        assert texts(await history(store, thread_id)) == ["one"]


async def test_their_tasks_run_beside_ours_in_one_application(settings: Settings, tmp_path: Path) -> None:
    worker = worker_of(settings, tmp_path, EMBEDDING, "-Q", f"{settings.key_prefix}.0,theirs")
    worker.start()
    await asyncio.to_thread(worker.wait_for_log, READY)
    app = deployment_app("their client", settings)

    app.send_task("theirs.write", [str(tmp_path / "done"), "yes"], queue="theirs")

    await eventually((tmp_path / "done").exists, "their task")
    await assert_served(settings)
    app.close()
    worker.kill()


async def test_time_limits_end_their_tasks_and_no_drain(settings: Settings, tmp_path: Path) -> None:
    queues = f"{settings.key_prefix}.0,theirs"
    worker = worker_of(settings, tmp_path, LIMITING, "-Q", queues, "--soft-time-limit", "0.3", "--time-limit", "0.6")
    worker.start()
    await asyncio.to_thread(worker.wait_for_log, READY)
    app = deployment_app("their client", settings)

    app.send_task("theirs.wait", queue="theirs")

    await asyncio.to_thread(worker.wait_for_log, "Soft time limit (0.3s) exceeded for theirs.wait")
    await assert_served(settings)
    assert "exceeded for livethread" not in worker.logs()
    app.close()
    worker.kill()


def test_an_application_that_would_hear_no_doorbell_is_refused_at_its_workers_start(
    settings: Settings, tmp_path: Path
) -> None:
    worker = worker_of(settings, tmp_path, DEAF)
    worker.start()

    wait_until(lambda: not worker.is_running, "the worker's end")

    assert worker.returncode == 1
    assert "the Celery application 'theirs' would hear no doorbell" in worker.logs()
    assert "livethread_worker.app.create_app()" in worker.logs()


@pytest.fixture
def their_environment(monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer) -> None:
    """Their application's settings; processes that tests start inherit them."""
    theirs = redis_server.settings.redis.for_kombu.replace("virtual_host=0", "virtual_host=5")
    monkeypatch.setenv("CELERY_BROKER_URL", theirs)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", theirs)


@pytest.fixture
def our_worker(their_environment: None, settings: Settings, tmp_path: Path) -> Iterator[ChildProcess]:
    worker = worker_process(settings, tmp_path / "ours", "ours")
    worker.start()
    worker.wait_for_log(READY)
    yield worker
    worker.kill()


async def test_their_environment_affects_neither_our_client_nor_our_worker(
    our_worker: ChildProcess, settings: Settings
) -> None:
    await assert_served(settings)

    assert "ignoring CELERY_BROKER_URL, CELERY_RESULT_BACKEND: for another Celery application" in our_worker.logs()


async def test_an_open_store_leaves_their_tasks_to_their_application(
    our_worker: ChildProcess, settings: Settings, redis_server: RedisServer
) -> None:
    """Their application gets its broker from the environment, as before."""
    theirs = Celery("theirs")

    @shared_task(name="theirs.work")
    def work() -> None:
        raise AssertionError("no worker of theirs runs")

    async with opened(settings):
        work.delay()

    other = redis_server.client.from_url(redis_server.url.replace("db=0", "db=5"))
    assert other.llen("celery") == 1
    other.flushdb()
    other.close()
    theirs.close()


async def test_the_commands_ignore_their_environment(our_worker: ChildProcess, settings: Settings) -> None:
    command = [sys.executable, "-P", "-m", "celery", "--app", "livethread_worker.entrypoint", "inspect", "ping"]
    process = await asyncio.create_subprocess_exec(
        *command, env=settings_env(settings), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()

    assert (process.returncode, b"ours@" in output) == (0, True), output
