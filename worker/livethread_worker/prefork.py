"""Celery's pool of processes, changed so that a lost connection does not cost it a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from celery.concurrency import asynpool, prefork


class ResultHandler(asynpool.ResultHandler):
    """Reads the results of the pool's processes.

    A result of over 4 KB, such as an error with its traceback, arrives in pieces. If Celery 5.7.0 loses the connection to
    the broker in between, its event loop forgets those that have arrived, and takes the next one for the beginning of
    another result. It then waits for bytes that never come, and the process gets no more tasks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: For each process, the result of which only a part has arrived.
        self._partial: WeakKeyDictionary[Any, Iterator[None]] = WeakKeyDictionary()

    def _recv_message(
        self, add_reader: Callable[..., None], fd: int, callback: Callable[[Any], None], **options: Any
    ) -> Iterator[None]:
        """Read one result, or the rest of it; yield whenever a piece is missing, and in the end call *callback*."""
        process = self.fileno_to_outq[fd]  # type: ignore[attr-defined]  # celery-types lacks it
        reading = self._partial.pop(process, None)
        if reading is None:
            reading = super()._recv_message(add_reader, fd, callback, **options)  # type: ignore[misc]  # see above
        for _ in reading:
            self._partial[process] = reading
            yield  # the event loop may never come back
            del self._partial[process]


class AsynPool(asynpool.AsynPool):
    """The pool of a worker with an event loop."""

    ResultHandler = ResultHandler


class TaskPool(prefork.TaskPool):
    """A worker's pool of processes; the setting ``worker_pool`` names this class."""

    Pool = AsynPool
