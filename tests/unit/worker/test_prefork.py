"""The results of pool processes, if the worker loses its broker while it reads one."""

from __future__ import annotations

import os
import pickle
import select
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from billiard.connection import Connection, Pipe
from billiard.pool import READY
from celery.concurrency import get_implementation
from kombu.asynchronous import Hub

from livethread_config import Settings
from livethread_worker.app import create_app
from livethread_worker.prefork import ResultHandler

RESULT = "a long result" * 10


class Process:
    """A process of the pool."""

    def __init__(self, results: Connection) -> None:
        self.outq = SimpleNamespace(_reader=results)

    def _is_alive(self) -> bool:
        return True


class Reader:
    """Reads results from a pipe, in a worker's event loop."""

    def __init__(self) -> None:
        self._results, self._end = Pipe(duplex=False)
        self.pipe = self._results.fileno()
        os.set_blocking(self.pipe, False)
        self.found: list[Any] = []
        self.process_of = {self.pipe: Process(self._results)}
        self._hub: Any = Hub()
        parts = dict.fromkeys((
            *("outqueue", "get", "poll", "join_exited_workers", "putlock", "restart_state", "check_timeouts"),
            *("on_job_ready", "on_process_alive"),
        ))
        self._handler = cast("Any", ResultHandler(cache={}, fileno_to_outq=self.process_of, **parts))
        self._handler.state_handlers[READY] = self.found.append
        self.connect()

    def connect(self) -> None:
        """Begin as after a lost connection: Celery's event loop forgets all, and the pool joins it again."""
        self._hub.reset()
        self._handler.register_with_event_loop(self._hub)
        self._hub.add_reader(self.pipe, self._handler.handle_event, self.pipe)

    def read(self, piece: bytes) -> None:
        """Have *piece* arrive."""
        self.write(piece)
        while select.select([self.pipe], [], [], 0)[0]:
            next(self._hub.create_loop())

    def write(self, piece: bytes) -> None:
        os.write(self._end.fileno(), piece)

    def replace_process(self) -> None:
        """Have the process die, and another one take its place, with the same descriptor for its pipe."""
        self.process_of[self.pipe] = Process(self._results)

    def stop(self) -> bool:
        """Stop without a connection; return whether the result under way was read."""
        self._hub.reset()
        return not self._handler._finish_partial_read(self.pipe, self.process_of[self.pipe])

    def close(self) -> None:
        self._hub.close()
        self._results.close()
        self._end.close()


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


def message(result: str) -> bytes:
    body = pickle.dumps((READY, (result,)))
    return struct.pack(">i", len(body)) + body


@pytest.mark.parametrize("size", [0, 1, 4, 5, 100, len(message(RESULT)) - 1, len(message(RESULT))])
def test_no_piece_of_a_result_is_lost_with_the_connection(reader: Reader, size: int) -> None:
    reader.read(message("first") + message(RESULT)[:size])
    reader.connect()
    reader.read(message(RESULT)[size:] + message("last"))

    assert reader.found == ["first", RESULT, "last"]


def test_the_pieces_of_a_process_end_with_it(reader: Reader) -> None:
    reader.read(message(RESULT)[:9])
    reader.replace_process()
    reader.connect()
    reader.read(message("next"))

    assert reader.found == ["next"]


def test_a_worker_without_a_connection_stops_after_the_rest_of_a_result(reader: Reader) -> None:
    reader.read(message(RESULT)[:9])
    reader.connect()
    reader.write(message(RESULT)[9:])

    assert reader.stop()
    assert reader.found == [RESULT]


def test_workers_use_it(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path))

    pool: Any = get_implementation(app.conf.worker_pool)

    assert pool.Pool.ResultHandler is ResultHandler
