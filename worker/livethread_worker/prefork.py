"""Celery's pool of processes, changed so that a lost connection does not cost it a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from celery.concurrency import asynpool, prefork

_ResultHandler: Any = asynpool.ResultHandler  # celery-types lacks most of it


class ResultHandler(_ResultHandler):  # type: ignore[misc]
    """Reads the results of the pool's processes.

    A result of over 4 KB, such as an error with its traceback, arrives in pieces. If Celery 5.7.0 loses the connection to
    the broker in between, its event loop forgets those that have arrived, and takes the next one for the beginning of
    another result. It then waits for bytes that never come: the process gets no more tasks, and the worker cannot stop.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The result of each process that is read in part.
        self._partial: WeakKeyDictionary[Any, Iterator[None]] = WeakKeyDictionary()

    def _recv_message(
        self, add_reader: Callable[..., None], fd: int, callback: Callable[[Any], None], **options: Any
    ) -> Iterator[None]:
        """Read one result, or the rest of it; yield whenever a piece is missing, and in the end call *callback*."""
        process = self.fileno_to_outq[fd]
        reading = self._partial.pop(process, None) or super()._recv_message(add_reader, fd, callback, **options)
        for _ in reading:
            self._partial[process] = reading
            yield  # the event loop may never come back
            del self._partial[process]

    def _finish_partial_read(self, fd: int, process: Any) -> bool:
        """Read the rest of a result before the worker stops; return whether that is impossible."""
        if process in self._partial and fd not in self._hub.readers:  # the worker has no connection
            rest = self._recv_message(self._hub.add_reader, fd, self.on_state_change)
            self._hub.add_reader(fd, rest)
        return bool(super()._finish_partial_read(fd, process))


class AsynPool(asynpool.AsynPool):
    """The pool of a worker with an event loop."""

    ResultHandler = ResultHandler


class TaskPool(prefork.TaskPool):
    """A worker's pool of processes; the setting ``worker_pool`` names this class."""

    Pool = AsynPool
