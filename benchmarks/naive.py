"""What one would write without livethread: a Celery task for each operation, applied by the one worker that keeps order.

Done decently: one transaction per task, one open connection, and no result except the last one. It promises less than
livethread does: a redelivered task is applied twice, and with a second worker the order is gone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from celery import Celery
from sqlite_utils import Database

from benchmarks import load
from livethread_config import Settings
from livethread_worker.embedded.processes import settings_env
from livethread_worker.embedded.redis_server import run_dir
from livethread_worker.embedded.supervisor import ProcessSpec

#: How long to wait for the worker's answer to a ping, and for a run.
_PING_TIMEOUT: Final = 0.5  # seconds
_RUN_TIMEOUT: Final = 600  # seconds

_BROKER, _FOLDER = "BENCHMARK_BROKER", "BENCHMARK_FOLDER"

app = Celery("naive", broker=os.environ.get(_BROKER), backend=os.environ.get(_BROKER))
app.conf.task_ignore_result = True


@cache
def _database() -> Database:
    database = Database(Path(os.environ[_FOLDER]) / "naive.sqlite")
    database.enable_wal()
    database.execute("PRAGMA synchronous = FULL")  # as durable as livethread's
    if not database.table("threads").exists():
        database.table("threads").create({"id": str, "title": str, "updated_at": str, "bytes": int}, pk="id")
        messages = database.table("messages")
        messages.create({"id": int, "thread_id": str, "role": str, "text": str}, pk="id")
        messages.enable_fts(["text"], create_triggers=True)
    return database


@app.task
def append(thread_id: str, line: str) -> None:
    """Append *line* to the thread's file and sync it; update its row and the search."""
    record = json.loads(line)
    data = line.encode() + b"\n"
    with (Path(os.environ[_FOLDER]) / f"{thread_id}.jsonl").open("ab") as file:
        file.write(data)
        file.flush()
        (os.fdatasync if sys.platform == "linux" else os.fsync)(file.fileno())
        size = file.tell()
    database, payload = _database(), record["payload"]
    with database.atomic():
        database.table("threads").upsert({"id": thread_id, "updated_at": record["timestamp"], "bytes": size}, pk="id")
        database.table("messages").insert({
            "thread_id": thread_id,
            "role": payload["type"],
            "text": payload["message"],
        })


@app.task
def patch(thread_id: str, title: str) -> None:
    """Set the title in the thread's row."""
    _database().table("threads").upsert({"id": thread_id, "title": title}, pk="id")


def worker_spec(settings: Settings, folder: Path) -> ProcessSpec:
    """Return how to run the worker, with the Redis of *settings*' home and its files in *folder*."""
    folder.mkdir()
    broker = settings.redis.for_kombu.replace("virtual_host=0", "virtual_host=1")
    os.environ |= {_BROKER: broker, _FOLDER: str(folder)}
    app.conf.update(broker_url=broker, result_backend=broker)
    checkout = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "celery", "--quiet", "--app", "benchmarks.naive", "worker"]
    command += ["--concurrency", "1", "--loglevel", "WARNING", "--without-mingle", "--without-gossip"]
    return ProcessSpec(
        "naive",
        [*command, "--hostname", "naive@%h"],
        settings_env(settings) | {"PYTHONPATH": str(checkout)},
        ready=lambda _: bool(app.control.ping(timeout=_PING_TIMEOUT)),
        cwd=run_dir(settings),
    )


def write(shape: load.Shape) -> load.Run:
    """Publish the operations of *shape*, all threads in turn, and wait until the worker has done the last one."""
    threads = [uuid4().hex for _ in range(shape.threads)]
    operations = list(_operations(threads, shape))
    began, cpu = time.perf_counter(), time.process_time()
    for task, arguments in operations[:-1]:
        task.apply_async(arguments)
    last, arguments = operations[-1]
    # The queue is first in, first out, with one consumer.
    last.apply_async(arguments, ignore_result=False).get(timeout=_RUN_TIMEOUT)
    return load.Run(time.perf_counter() - began, time.process_time() - cpu)


def _operations(threads: list[str], shape: load.Shape) -> Iterator[tuple[Any, tuple[str, str]]]:
    contents = [load.items(number, shape.appends) for number in range(shape.threads)]
    for n in range(1, shape.appends + 1):
        for thread_id, content in zip(threads, contents, strict=True):
            line = {"timestamp": datetime.now(UTC).isoformat(timespec="milliseconds")} | next(content)
            yield append, (thread_id, json.dumps(line, ensure_ascii=False))
        if shape.patch_every and n % shape.patch_every == 0:
            yield from ((patch, (thread_id, f"After {n} appends")) for thread_id in threads)
