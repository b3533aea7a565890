"""A caller's trace, from the session over Redis to the worker's spans."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from tests.nodes.items import append, flush, message, new_thread, said
from tests.nodes.processes import READY, RedisServer, worker_process
from tests.nodes.spans import TRACER, exporter, traceparent
from tests.nodes.stores import opened
from tests.nodes.waiting import eventually
from tests.nodes.workers import HandWorker

from livethread import AppendThreadItemsParams, QueuedThreadStore, Settings
from livethread.metadata import MetadataUpdate, ThreadMetadataPatch
from livethread.rollout.item import parse_items
from livethread_config import names
from livethread_worker.embedded.processes import settings_env


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"reads": "local"})


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[QueuedThreadStore]:
    async with opened(settings) as store:
        yield store


@pytest.fixture(autouse=True)
def provider() -> Iterator[None]:
    exporter()
    yield
    exporter().clear()


@pytest.fixture
def entries(redis_server: RedisServer, settings: Settings) -> Any:
    """Return the fields of each entry in the mailbox of a thread."""

    def entries(thread_id: str) -> list[dict[bytes, bytes]]:
        found: Any = redis_server.client.xrange(names.ShardKeys(settings.key_prefix, 0).mailbox(thread_id))
        return [fields for _, fields in found]

    return entries


async def test_a_worker_shows_in_the_callers_trace_when_its_append_became_durable(
    store: QueuedThreadStore, hand_worker: HandWorker
) -> None:
    thread_id = await new_thread(store)

    with TRACER.start_as_current_span("turn") as turn:
        receipt = await append(store, thread_id, message("one"))
    assert receipt is not None
    hand_worker.drain()

    spans = {span.name: span for span in exporter().get_finished_spans()}
    span = spans["append_items " + hand_worker.mailbox().queue]
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == turn.get_span_context()[:2]
    assert (span.attributes or {})["livethread.position"] == receipt.position
    assert span.start_time == int(receipt.position.partition("-")[0]) * 1_000_000
    # The creation, the append, and their batch.
    assert len(spans) == 4


async def test_the_creation_and_the_append_carry_the_trace_and_the_derived_patch_does_not(
    store: QueuedThreadStore, entries: Any
) -> None:
    thread_id = await new_thread(store)
    update = MetadataUpdate(patch=ThreadMetadataPatch(title="T"), only_if_unset=frozenset({"title"}))
    params = AppendThreadItemsParams(thread_id=thread_id, items=parse_items([said("T")]), metadata=update)

    with TRACER.start_as_current_span("turn") as turn:
        await store.append_items(params)
    await append(store, thread_id, message("without a span"))

    expected = traceparent(turn).encode()
    assert [fields.get(b"traceparent") for fields in entries(thread_id)] == [expected, expected, None, None]


async def test_a_task_that_redis_lost_is_sent_again_with_its_first_trace(
    store: QueuedThreadStore, redis_server: RedisServer, settings: Settings, entries: Any
) -> None:
    thread_id = await new_thread(store)
    with TRACER.start_as_current_span("first") as first:
        await append(store, thread_id, message("one"))
    keys = names.ShardKeys(settings.key_prefix, 0)
    redis_server.client.delete(keys.mailbox(thread_id), keys.writers(thread_id))

    with TRACER.start_as_current_span("second") as second:
        await append(store, thread_id, message("two"))

    expected = [traceparent(span).encode() for span in (first, first, second)]
    assert [fields[b"traceparent"] for fields in entries(thread_id)] == expected


async def test_the_trace_does_not_reach_the_rollout(store: QueuedThreadStore, hand_worker: HandWorker) -> None:
    thread_id = await new_thread(store)

    with TRACER.start_as_current_span("turn") as turn:
        await append(store, thread_id, message("one"))
    hand_worker.drain()

    rollout = hand_worker.home.require_rollout(thread_id).read_text()
    assert '"one"' in rollout
    assert trace.format_trace_id(turn.get_span_context().trace_id) not in rollout


#: A session and a drain where OpenTelemetry is not installed.
WITHOUT = """
import asyncio, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"{name} is missing", name=name)

sys.meta_path.insert(0, Missing())

from livethread import CreateThreadParams, LiveThread, Settings, open_store
from tests.nodes.items import message
from tests.nodes.workers import HandWorker

async def play():
    worker = HandWorker(Settings())
    async with open_store() as store:
        thread = await LiveThread.create(store, CreateThreadParams(cwd="/repo"))
        await thread.append_items([message("one")])
        print(worker.drain()["tasks"])
    worker.close()

asyncio.run(play())
"""


async def test_sessions_and_workers_do_without_opentelemetry(settings: Settings) -> None:
    environment = settings_env(settings)
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)

    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", WITHOUT], env=environment, check=False, capture_output=True, timeout=60
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"2\n", b"")


#: A worker of theirs, with a provider that is set up before Celery forks.
TRACED_WORKER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from livethread_worker.entrypoint import app

exporter = ConsoleSpanExporter(out=open("spans.jsonl", "a"), formatter=lambda span: span.to_json(indent=None) + "\\n")
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=100))
trace.set_tracer_provider(provider)
"""


async def test_spans_leave_the_processes_of_a_prefork_worker(
    store: QueuedThreadStore, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "traced_worker.py").write_text(TRACED_WORKER)
    worker = worker_process(settings, tmp_path, "worker", app="traced_worker")
    worker.env["PYTHONPATH"] = f"{tmp_path}:{worker.env.get('PYTHONPATH', '')}"
    worker.start()
    try:
        await asyncio.to_thread(worker.wait_for_log, READY)
        thread_id = await new_thread(store)

        with TRACER.start_as_current_span("turn") as turn:
            await append(store, thread_id, message("one"))
        await flush(store, thread_id)

        exported = tmp_path / "spans.jsonl"
        await eventually(lambda: exported.read_text().count("\n") >= 3, "the spans of two tasks and their batch")
        spans = [json.loads(line) for line in exported.read_text().splitlines()[:3]]
        [span] = [span for span in spans if span["attributes"]["messaging.operation.name"] == "append_items"]
        assert span["parent_id"] == f"0x{trace.format_span_id(turn.get_span_context().span_id)}"
    finally:
        worker.kill()
