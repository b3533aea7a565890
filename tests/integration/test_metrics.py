"""``livethread metrics`` as Prometheus uses it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.nodes.items import append, flush, new_thread, said
from tests.nodes.processes import ChildProcess, RedisServer
from tests.nodes.promtool import needs_promtool, promtool
from tests.nodes.waiting import eventually
from tests.nodes.workers import HandWorker, celery_worker

from livethread import open_store
from livethread_config import Settings
from livethread_config.deployment import EPOCHS_FIELD
from livethread_config.names import deployment_key
from livethread_worker.embedded.processes import settings_env

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"
STARTED = re.compile(r"http://127\.0\.0\.1:(\d+)/metrics")


class Exporter:
    """A running ``livethread metrics``."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "livethread", "metrics", "--port", "0"]
        self.process = ChildProcess(command, settings_env(settings), folder, "metrics")
        self.process.start()
        self.process.wait_for_log("/metrics")
        started = STARTED.search(self.process.logs())
        assert started is not None
        self._port = int(started[1])

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the text of an answer."""
        connection = HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def counters(self) -> dict[str, float]:
        """Return the counters, and the histogram's samples."""
        _, text = self.get("/metrics")
        lines = (
            line.rpartition(" ") for line in text.splitlines() if re.match(r"\w+_(total|bucket|sum|count)\b", line)
        )
        return {sample: float(value) for sample, _, value in lines}


@pytest.fixture
def exporter(own_settings: Settings, tmp_path: Path) -> Iterator[Exporter]:
    exporter = Exporter(own_settings, tmp_path)
    yield exporter
    exporter.process.kill()


async def test_every_documented_metric_is_exported_and_no_other(
    exporter: Exporter, own_settings: Settings, own_redis: RedisServer
) -> None:
    own_redis.client.config_set("maxmemory", "1gb")
    with celery_worker(own_settings):
        async with open_store(own_settings) as store:
            thread_id = await new_thread(store)
            await append(store, thread_id, said("hello"))
            await flush(store, thread_id)
        await eventually(lambda: "\nlivethread_last_sweep" in exporter.get("/metrics")[1], "a sweep")

        status, text = exporter.get("/metrics")

    documented = dict(re.findall(r"^\| `(livethread_\w+)` \| (\w+) \|", REFERENCE.read_text(), re.MULTILINE))
    sampled = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)}
    assert status == 200
    assert dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)) == documented
    assert set(re.findall(r"^# HELP (\w+) .", text, re.MULTILINE)) == documented.keys()
    assert sampled == documented.keys()


async def test_counters_go_on_after_worker_and_exporter_have_restarted(
    own_settings: Settings, tmp_path: Path
) -> None:
    readings: list[dict[str, float]] = []
    async with open_store(own_settings) as store:
        thread_id = await new_thread(store)
        for run in ("first", "second"):
            await append(store, thread_id, said(run))
            worker = HandWorker(own_settings)
            worker.drain()
            worker.close()
            exporter = Exporter(own_settings, tmp_path / run)
            readings.append(exporter.counters())
            exporter.process.kill()

    before, after = readings
    applied = 'livethread_tasks_applied_total{shard="0"}'
    assert [name for name, value in before.items() if after[name] < value] == []
    assert after[applied] > before[applied] > 0


def test_without_redis_only_that_is_known(exporter: Exporter, own_redis: RedisServer) -> None:
    before = exporter.get("/health")
    own_redis.pause()
    silent = exporter.get("/metrics")
    own_redis.kill()
    gone = exporter.get("/metrics")
    health, reason = exporter.get("/health")

    assert before == (200, "Redis answers\n")
    for status, text in (silent, gone):
        assert status == 200
        assert [line for line in text.splitlines() if not line.startswith("#")] == ["livethread_redis_up 0.0"]
    assert health == 503
    assert "does not answer" in reason


def test_the_record_of_another_deployment_is_an_error(
    exporter: Exporter, own_settings: Settings, own_redis: RedisServer
) -> None:
    own_redis.client.hset(deployment_key(own_settings.key_prefix), mapping={"wire": "99", EPOCHS_FIELD: "[[0,1]]"})

    status, reason = exporter.get("/metrics")

    assert status == 500
    assert "version 99 of the wire" in reason


def test_another_path_says_what_there_is(exporter: Exporter) -> None:
    assert [exporter.get(path)[0] for path in ("/", "/metric")] == [200, 404]
    assert exporter.get("/metric")[1] == exporter.get("/")[1]


def test_it_ends_in_order_on_sigterm(exporter: Exporter) -> None:
    exporter.process.stop()

    assert exporter.process.returncode == 0


@needs_promtool
def test_promtool_has_no_objections(exporter: Exporter) -> None:
    assert promtool("check", "metrics", given=exporter.get("/metrics")[1]) == ""
