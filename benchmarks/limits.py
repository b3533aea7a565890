"""Measures the bare operations: in Redis only, in files only, in SQLite only."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
from redis import Redis

from benchmarks import load, timing

#: Commands of one pipeline; the client joins as many into a call.
_PIPELINED: Final = 1_000

_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE threads (id TEXT PRIMARY KEY, title TEXT, updated_at TEXT, bytes INTEGER);
CREATE VIRTUAL TABLE messages USING fts5 (text, thread_id UNINDEXED, role UNINDEXED);
"""
_UPSERT: Final = """
INSERT INTO threads (id, title, updated_at, bytes) VALUES (?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET title = excluded.title, updated_at = excluded.updated_at, bytes = excluded.bytes
"""


def xadds(redis: Redis, shape: load.Shape) -> float:
    """Return the seconds that pipelined XADDs of the operations of *shape* take, with a stream for each thread."""
    lines = list(_lines(shape))

    def add() -> None:
        for begin in range(0, len(lines), _PIPELINED):
            pipeline = redis.pipeline(transaction=False)
            for thread, line in lines[begin : begin + _PIPELINED]:
                pipeline.xadd(f"bench:{thread}", {"writer": "w", "n": begin, "task": "{}", "lines": line})
            pipeline.execute()

    taken = timing.seconds(add)
    redis.delete(*(f"bench:{thread}" for thread in range(shape.threads)))
    return taken


def files(folder: Path, shape: load.Shape, at_a_time: int) -> float:
    """Return the seconds to write the lines into a file for each thread, synced after every *at_a_time* lines.

    The files stay in *folder*: deleting them would slow down the next creation of files.
    """
    folder.mkdir(exist_ok=True)
    run = tempfile.mkdtemp(dir=folder)
    paths = [f"{run}/{thread}.jsonl" for thread in range(shape.threads)]
    lines = _by_thread(shape)
    sync = os.fdatasync if sys.platform == "linux" else os.fsync

    def write() -> None:
        for begin in range(0, len(lines[0]), at_a_time):
            for path, content in zip(paths, lines, strict=True):
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.write(file, b"".join(content[begin : begin + at_a_time]))
                sync(file)
                os.close(file)

    return timing.seconds(write)


def sqlite(folder: Path, shape: load.Shape, at_a_time: int) -> float:
    """Return the seconds to write the operations into rows and full text, in transactions of this many operations."""
    folder.mkdir(exist_ok=True)
    path = folder / "bare.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(_SCHEMA)
    lines = list(_lines(shape))
    records = [(str(thread), "agent_message", line.decode()) for thread, line in lines]

    def insert() -> None:
        for begin in range(0, len(records), at_a_time):
            batch = records[begin : begin + at_a_time]
            rows = {thread: (thread, text[:20], "2026-11-22", begin) for thread, _, text in batch}
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_UPSERT, rows.values())
            connection.executemany("INSERT INTO messages (thread_id, role, text) VALUES (?, ?, ?)", batch)
            connection.execute("COMMIT")

    taken = timing.seconds(insert)
    connection.close()
    for each in folder.glob("bare.sqlite*"):
        each.unlink()
    return taken


def _by_thread(shape: load.Shape) -> list[list[bytes]]:
    """Return one line for each operation of each thread."""
    operations = shape.operations // shape.threads
    return [
        [orjson.dumps(item) + b"\n" for item in load.items(thread, operations)] for thread in range(shape.threads)
    ]


def _lines(shape: load.Shape) -> Iterator[tuple[int, bytes]]:
    """Yield the operations of all threads in turn."""
    for lines in zip(*_by_thread(shape), strict=True):
        yield from enumerate(lines)
