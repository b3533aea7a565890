"""Reads and writes the index. Every write of a batch is one transaction."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlite_utils import Database

from livethread_worker.store.home import FILE_MODE
from livethread_worker.store.index.list_threads import list_rows
from livethread_worker.store.index.migrations import migrations
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.index.rows import SAVE_THREAD, from_row, to_row
from livethread_worker.store.locking import file_lock
from livethread_worker.store.state import ThreadState, WriterMark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from livethread.metadata import StoredThread
    from livethread.types import ListThreadsParams
    from livethread_worker.store.home import Home

#: How long a statement waits for another process' transaction.
BUSY_TIMEOUT: Final = 5.0  # seconds

#: How long we wait for another process that migrates the schema.
_MIGRATION_WAIT: Final = 30.0  # seconds


class IndexUnavailable(Exception):
    """The index cannot be used now: locked by somebody for long, or out of disk."""


class Index:
    """An open index. Not thread-safe: one thread at a time uses it."""

    def __init__(self, home: Home) -> None:
        """Open the index of *home*, creating and migrating it where needed.

        Raises:
            IndexUnavailable: it is locked for long, or no database.
        """
        self._home = home
        with _translated(), file_lock(home.index.with_suffix(".lock"), wait_s=_MIGRATION_WAIT):
            os.close(os.open(home.index, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
            # Autocommit: transactions are begun where they are meant to begin.
            connection = sqlite3.connect(
                home.index, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            self.db = Database(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit survives a crash of the process; after one of the machine the index may be behind its
            # files, and the tail check brings it up again.
            connection.execute("PRAGMA synchronous = NORMAL")
            migrations.apply(self.db)
        self._identity = _identity(home)

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def is_current(self) -> bool:
        """Whether the file that is open is still the home's index: it may be deleted or replaced at any time."""
        return self._identity == _identity(self._home)

    # -- writing -------------------------------------------------------------------------------------------

    def load_states(self, writers: dict[str, set[str]]) -> dict[str, ThreadState]:
        """Return the states of those threads that the index knows, each with the counters of the writers named."""
        arguments = {
            "thread_ids": json.dumps(list(writers)),
            "writers": json.dumps(sorted(set().union(*writers.values()))),
        }
        states: dict[str, ThreadState] = {}
        with _translated():
            for row in self.db.conn.execute(QUERIES["load_states"], arguments):
                states[row["thread_id"]] = _state(row, from_row(row, self._home.root / row["path"]))
            for row in self.db.conn.execute(QUERIES["load_writers"], arguments):
                if state := states.get(row["thread_id"]):
                    state.writers[row["writer"]] = WriterMark(row["n"], row["lines"])
        return states

    def commit(self, changes: Iterable[tuple[ThreadState, StoredThread | None]]) -> None:
        """Store the states, each given with the thread as it was loaded, in one transaction.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        threads, rollouts, writers = [], [], []
        for state, loaded in changes:
            if state.thread is None:
                continue
            if state.thread is not loaded:
                threads.append(to_row(state.thread))
            rollouts.append(_rollout_row(state))
            writers += [
                {"thread_id": state.thread_id, "writer": writer, "n": mark.n, "lines": mark.lines}
                for writer, mark in state.writers.items()
            ]
        with self.transaction() as connection:
            connection.executemany(SAVE_THREAD, threads)
            connection.executemany(QUERIES["save_rollout"], rollouts)
            connection.executemany(QUERIES["save_writer"], writers)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a write transaction. It takes the write lock at once: upgrading a read fails where two meet.

        Raises:
            IndexUnavailable: the transaction could not be made; nothing of it is stored.
        """
        connection = self.db.conn
        with _translated():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    # -- reading -------------------------------------------------------------------------------------------

    def read_thread(self, thread_id: str) -> StoredThread | None:
        """Return a thread, or None where the index does not know it."""
        with _translated():
            row = self.db.conn.execute(QUERIES["read_thread"], {"thread_id": thread_id}).fetchone()
        return from_row(row, self._home.root / row["path"]) if row else None

    def list_threads(self, params: ListThreadsParams) -> list[StoredThread]:
        """Return one page of threads and one more, where there is one."""
        with _translated():
            rows = list_rows(self.db.conn, params)
        return [from_row(row, self._home.root / row["path"]) for row in rows]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise IndexUnavailable(f"the index: {error}") from error


def _identity(home: Home) -> tuple[int, int] | None:
    try:
        stat = home.index.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def _state(row: sqlite3.Row, thread: StoredThread) -> ThreadState:
    return ThreadState(
        thread_id=row["thread_id"],
        thread=thread,
        path=row["path"],
        rollout_bytes=row["rollout_bytes"],
        next_ordinal=row["next_ordinal"],
        meta_offset=row["meta_offset"],
        meta_bytes=row["meta_bytes"],
        applied=row["applied"],
        observed=json.loads(row["observed"]),
    )


def _rollout_row(state: ThreadState) -> dict[str, Any]:
    return {
        "thread_id": state.thread_id,
        "path": state.path,
        "rollout_bytes": state.rollout_bytes,
        "next_ordinal": state.next_ordinal,
        "meta_offset": state.meta_offset,
        "meta_bytes": state.meta_bytes,
        "applied": state.applied,
        "observed": json.dumps(state.observed),
    }
