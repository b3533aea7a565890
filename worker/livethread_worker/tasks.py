"""The Celery tasks: decode, one call, encode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from celery.signals import worker_process_init, worker_ready

from livethread import types
from livethread.errors import ThreadStoreError, Unavailable
from livethread.model import Model
from livethread_config import Settings, names
from livethread_worker.process import WorkerProcess, collect_garbage_rarely
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.read import threads as read
from livethread_worker.store.read.list_items import list_items
from livethread_worker.store.read.list_turns import list_turns
from livethread_worker.store.upkeep.refresh import Refresh, of_all, of_none, of_thread

if TYPE_CHECKING:
    from celery import Celery, Task


#: Reads whose answer is one model: Celery task -> parameters, operation.
_READS: Final[dict[str, tuple[type[Model], Callable[[Home, Index, Any], Model]]]] = {
    names.READ_THREAD_TASK: (types.ReadThreadParams, read.read_thread),
    names.READ_THREAD_BY_ROLLOUT_PATH_TASK: (types.ReadThreadByRolloutPathParams, read.read_thread_by_rollout_path),
    names.LIST_THREADS_TASK: (types.ListThreadsParams, read.list_threads),
    names.SEARCH_THREADS_TASK: (types.SearchThreadsParams, read.search_threads),
    names.LIST_TURNS_TASK: (types.ListTurnsParams, list_turns),
    names.LIST_ITEMS_TASK: (types.ListItemsParams, list_items),
}


def register(app: Celery, settings: Settings) -> None:
    """Register the tasks on *app*, and on no other: each works for one home."""
    process = WorkerProcess(app, settings)

    @app.task(name=names.DRAIN_TASK, bind=True, shared=False)
    def drain(self: Task[..., Any], shard: int = 0) -> dict[str, int]:
        return process.drain(shard, self.request.hostname or "")

    @app.task(name=names.SWEEP_TASK, shared=False, send_events=False)  # it would fill Flower's list with itself
    def sweep() -> None:
        process.sweep()

    @app.task(name=names.COMPLETE_INDEX_TASK, shared=False)
    def complete_index() -> dict[str, int]:
        return process.complete_index()

    @app.task(name=names.COMPRESS_COLD_TASK, shared=False)
    def compress_cold() -> dict[str, int]:
        return process.compress_cold()

    # What a reader asks in vain is no fault of the worker: it is answered, and not logged as an error. Answers
    # hold contents, which no log line and no event may show.
    answers: dict[str, Any] = {
        "shared": False,
        "ignore_result": False,
        "throws": (ThreadStoreError,),
        "resultrepr_maxsize": 0,
    }

    @app.task(name=names.LOAD_HISTORY_TASK, **answers)
    def load_history(params: dict[str, Any], start: int, max_bytes: int) -> dict[str, Any]:
        parsed = types.LoadThreadHistoryParams.model_validate(params)
        with _translated():
            index = process.fresh_index(of_thread(parsed.thread_id))
            lines, following = read.read_lines(process.home, index, parsed, start, max_bytes)
        return {"lines": lines, "next": following}

    for name, (params_type, operation) in _READS.items():
        decorate: Any = app.task(name=name, **answers)  # celery-types knows no decorator of a variable's name
        decorate(_answer(process, params_type, operation))

    # Sent in each process of a pool, and nowhere else.
    worker_process_init.connect(collect_garbage_rarely, weak=False)

    @worker_ready.connect(weak=False)
    def sweep_at_start(sender: Any, **_: Any) -> None:
        if sender.app is app:
            process.sweep()


def _answer(
    process: WorkerProcess, params_type: type[Model], operation: Callable[[Home, Index, Any], Model]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def answer(params: dict[str, Any]) -> dict[str, Any]:
        parsed = params_type.model_validate(params)
        with _translated():
            result = operation(process.home, process.fresh_index(_refresh(process.home, parsed)), parsed)
        return result.model_dump(mode="json")

    return answer


def _refresh(home: Home, params: Model) -> Refresh:
    """Return what to bring up to date before a read."""
    match params:
        case types.ListThreadsParams(use_state_db_only=True):
            return of_none
        case types.ListThreadsParams() | types.SearchThreadsParams():
            return of_all
        case types.ReadThreadByRolloutPathParams():
            return of_thread(home.thread_of(Path(params.rollout_path)))
        case _:
            return of_thread(getattr(params, "thread_id", None))


@contextmanager
def _translated() -> Iterator[None]:
    """Say it in the words of the contract: a client may not have the worker's classes."""
    try:
        yield
    except (IndexUnavailable, OSError) as error:
        raise Unavailable(f"the worker cannot read its home now: {error}") from None
