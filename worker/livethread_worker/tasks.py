"""The Celery tasks: decode, one call, encode."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, Task

from livethread import errors, types
from livethread.model import Model, Result
from livethread_config import Settings, names
from livethread_worker.process import WorkerProcess
from livethread_worker.reads.answers import Answer
from livethread_worker.serving import Serving
from livethread_worker.start_check import check_at_start
from livethread_worker.store.read.reader import LocalReader
from livethread_worker.sweeper import sweep_regularly

#: Reads whose answer is one model: Celery task -> its parameters, the reader's operation.
_READS: Final[dict[str, tuple[type[Model], Callable[[LocalReader, Any], Result]]]] = {
    names.READ_THREAD_TASK: (types.ReadThreadParams, LocalReader.read_thread),
    names.READ_THREAD_BY_ROLLOUT_PATH_TASK: (
        types.ReadThreadByRolloutPathParams,
        LocalReader.read_thread_by_rollout_path,
    ),
    names.LIST_THREADS_TASK: (types.ListThreadsParams, LocalReader.list_threads),
    names.SEARCH_THREADS_TASK: (types.SearchThreadsParams, LocalReader.search_threads),
    names.SEARCH_OCCURRENCES_TASK: (types.SearchOccurrencesParams, LocalReader.search_occurrences),
    names.LIST_TURNS_TASK: (types.ListTurnsParams, LocalReader.list_turns),
    names.LIST_ITEMS_TASK: (types.ListItemsParams, LocalReader.list_items),
    names.PREPARE_FORK_TASK: (types.PrepareForkParams, LocalReader.prepare_fork),
    names.FIND_THREAD_BY_NAME_TASK: (types.FindThreadByNameParams, LocalReader.find_thread_by_name),
    names.CONTEXT_START_TASK: (types.LoadThreadHistoryParams, LocalReader.context_start),
}


def register(app: Celery, settings: Settings) -> None:
    """Register the tasks on *app*, and on no other: each works for one home."""
    serving = Serving(app, settings)
    process = WorkerProcess(app, settings, serving)
    exclusive = _exclusive_base()

    @app.task(name=names.DRAIN_TASK, base=exclusive, bind=True, shared=False)
    def drain(self: Task[..., Any], shard: int = 0) -> dict[str, int]:
        return process.drain(shard, self.request.hostname or "")

    @app.task(name=names.COMPLETE_INDEX_TASK, base=exclusive, shared=False)
    def complete_index() -> dict[str, int]:
        return process.complete_index()

    @app.task(name=names.COMPRESS_COLD_TASK, base=exclusive, shared=False)
    def compress_cold() -> dict[str, int]:
        return process.compress_cold()

    _register_reads(app, process, exclusive)
    check_at_start(app, settings, exclusive, lambda: serving.begin(process.membership))

    sweep_regularly(app, process.sweep, settings.sweep_interval_s, end=process.sign_off)


def _exclusive_base() -> type[Task[..., Any]]:
    """Return a base class for Celery tasks that a process runs one at a time, whatever its pool.

    They share the process's connection to the index, and so its transactions.
    """
    lock = threading.Lock()

    class Exclusive(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with lock:
                return self.run(*args, **kwargs)

    return Exclusive


def _register_reads(app: Celery, process: WorkerProcess, exclusive: type[Task[..., Any]]) -> None:
    # The store's errors are answers for the client, not faults of the worker, so they are not logged as faults.
    options: dict[str, Any] = {
        "base": exclusive,
        "bind": True,
        "shared": False,
        "throws": (errors.ThreadStoreError,),
    }

    @app.task(name=names.LOAD_HISTORY_TASK, **options)
    def load_history(
        self: Task[..., Any], *, shard: int, read: str, params: dict[str, Any], start: int, max_bytes: int
    ) -> None:
        def find() -> Answer:
            return Answer(*process.reader.read_lines(types.LoadThreadHistoryParams(**params), start, max_bytes))

        process.answer(shard, read, self.request.hostname or "", find)

    def register_read(name: str, params_type: type[Model], operation: Callable[[LocalReader, Any], Result]) -> None:
        def answer(self: Task[..., Any], *, shard: int, read: str, params: dict[str, Any]) -> None:
            def find() -> Answer:
                result = operation(process.reader, params_type.model_validate(params))
                return Answer(json.dumps(result.model_dump(mode="json")).encode())

            process.answer(shard, read, self.request.hostname or "", find)

        decorate: Any = app.task(name=name, **options)  # celery-types lacks a decorator whose name is a variable
        decorate(answer)

    for name, (params_type, operation) in _READS.items():
        register_read(name, params_type, operation)
