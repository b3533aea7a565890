"""The Celery tasks: decode, one call, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.signals import worker_ready

from livethread.errors import ThreadStoreError
from livethread.types import ListThreadsParams, LoadThreadHistoryParams, ReadThreadParams
from livethread_config import names
from livethread_worker.process import WorkerProcess
from livethread_worker.store import read

if TYPE_CHECKING:
    from celery import Celery, Task

    from livethread_config import Settings


def register(app: Celery, settings: Settings) -> None:
    """Register the tasks on *app*."""
    process = WorkerProcess(app, settings)

    @app.task(name=names.DRAIN_TASK, bind=True)
    def drain(self: Task[..., Any], shard: int = 0) -> dict[str, int]:
        return process.drain(shard, self.request.hostname or "")

    @app.task(name=names.SWEEP_TASK, send_events=False)  # it would fill Flower's list with itself
    def sweep() -> None:
        process.sweep()

    # What a reader asks in vain is no fault of the worker: it is answered, and not logged as an error. Answers
    # hold contents, which no log line and no event may show.
    answers: dict[str, Any] = {"ignore_result": False, "throws": (ThreadStoreError,), "resultrepr_maxsize": 0}

    @app.task(name=names.READ_THREAD_TASK, **answers)
    def read_thread(params: dict[str, Any]) -> dict[str, Any]:
        thread = read.read_thread(process.home, process.open_index(), ReadThreadParams.model_validate(params))
        return thread.model_dump(mode="json", exclude={"history"})

    @app.task(name=names.LOAD_HISTORY_TASK, **answers)
    def load_history(params: dict[str, Any], start: int, max_bytes: int) -> dict[str, Any]:
        parsed = LoadThreadHistoryParams.model_validate(params)
        lines, following = read.read_lines(process.home, process.open_index(), parsed, start, max_bytes)
        return {"lines": lines, "next": following}

    @app.task(name=names.LIST_THREADS_TASK, **answers)
    def list_threads(params: dict[str, Any]) -> dict[str, Any]:
        return read.list_threads(process.open_index(), ListThreadsParams.model_validate(params)).model_dump(
            mode="json"
        )

    @worker_ready.connect(weak=False)
    def sweep_at_start(sender: Any, **_: Any) -> None:
        if sender.app is app:
            process.sweep()
