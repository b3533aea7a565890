"""What a worker writes at INFO."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.nodes.items import append, flush, message, new_thread
from tests.nodes.processes import READY, worker_process
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import celery_worker

from livethread import Settings
from livethread_worker import process
from livethread_worker.drain.mailbox import Mailbox

SWEEPS_PER_MINUTE = 30


class Clock:
    """Shows a worker that each sweep comes two seconds after the last."""

    sweeps = 0

    def monotonic(self) -> float:
        return self.sweeps * 60 / SWEEPS_PER_MINUTE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock, sweep = Clock(), Mailbox.sweep

    def counted(*args: object) -> bool:
        clock.sweeps += 1
        return sweep(*args)  # type: ignore[arg-type]  # what it was called with

    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(Mailbox, "sweep", counted)
    return clock


async def test_an_idle_worker_writes_one_line_a_minute(
    settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with celery_worker(settings.model_copy(update={"sweep_interval_s": 0.01}), loglevel="INFO"):
        await eventually(lambda: clock.sweeps > 1, "the first sweeps")
        begin, before = clock.sweeps, len(caplog.records)
        await eventually(lambda: clock.sweeps >= begin + 3 * SWEEPS_PER_MINUTE, "sweeps of three minutes")
        written = caplog.records[before:]

    minutes = [record for record in written if getattr(record, "action", "") == "serve"]
    assert written == minutes
    assert 3 <= len(minutes) <= 1 + (clock.sweeps - begin) // SWEEPS_PER_MINUTE
    assert minutes[0].getMessage() == f"serving shard 0 of {settings.home}: 0 threads wait, 0 are parked"
    assert (vars(minutes[0])["shards"], vars(minutes[0])["waiting"], vars(minutes[0])["parked"]) == ([0], 0, 0)


@pytest.mark.parametrize(("level", "is_shown"), [("INFO", False), ("DEBUG", True)])
async def test_doorbells_are_debug_lines(
    settings: Settings, caplog: pytest.LogCaptureFixture, level: str, *, is_shown: bool
) -> None:
    with celery_worker(settings, level):
        async with opened(settings.model_copy(update={"reads": "local"})) as store:
            thread_id = await new_thread(store)
            await append(store, thread_id, message("secret"))
            await flush(store, thread_id)

    assert any("livethread.drain" in text for text in caplog.messages) is is_shown, caplog.text
    assert any("serving shard" in text for text in caplog.messages)
    assert "secret" not in caplog.text


async def test_a_worker_writes_json_lines_if_the_settings_say_so(settings: Settings, tmp_path: Path) -> None:
    worker = worker_process(settings.model_copy(update={"log_format": "json"}), tmp_path, "worker")
    worker.start()
    await asyncio.to_thread(worker.wait_for_log, READY)
    worker.stop()

    lines = [json.loads(line) for line in worker.logs().splitlines() if line.startswith("{")]
    [served] = [line for line in lines if line.get("action") == "serve"]
    assert served["message"] == f"serving shard 0 of {settings.home}: 0 threads wait, 0 are parked"
    assert (served["level"], served["logger"], served["shards"]) == ("INFO", "livethread_worker.process", [0])
