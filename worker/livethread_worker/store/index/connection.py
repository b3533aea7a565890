"""`Connection`: one process' connection to the index, with its transactions and its errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlite_utils import Database

from livethread_worker.store.files import Home, locks
from livethread_worker.store.index import database

#: Databases whose file is gone. Dropping the last reference would close them, see `Connection.close`.
_left_open: Final[list[Database]] = []

#: How long to wait for another process that creates the schema.
SCHEMA_WAIT: Final = 30.0  # seconds


class Connection:
    """An open database. Every method raises `IndexUnavailable` if SQLite fails."""

    def __init__(self, home: Home, *, in_memory: bool) -> None:
        """Open the index of *home*, and create it if it is missing; or open a private one *in memory*."""
        self._home = home
        self.in_memory = in_memory
        #: Whether SQLite found the file damaged.
        self.is_damaged = False
        if in_memory:
            self.db = database.in_memory_database()
        else:
            with self.errors_translated(), locks.file_lock(home.index.with_suffix(".lock"), wait_s=SCHEMA_WAIT):
                self.db = database.open_database(home)
        self._identity = None if in_memory else database.identity(home)

    def is_current(self) -> bool:
        """Whether the open file is still the home's index: it may be deleted or replaced at any time."""
        return self.in_memory or self._identity == database.identity(self._home)

    def close(self) -> None:
        """Close the database.

        One whose file was replaced stays open: SQLite would take the new file's companions for its own.
        """
        if self.is_current():
            self.db.close()
        else:
            _left_open.append(self.db)

    def select(self, query: str, **arguments: Any) -> list[sqlite3.Row]:
        """Return the rows of *query*."""
        with self.errors_translated():
            return self.db.conn.execute(query, arguments).fetchall()

    @contextmanager
    def transaction(self, *, is_synced: bool = False) -> Iterator[sqlite3.Connection]:
        """Run a write transaction; if it fails, nothing of it is stored.

        It takes the write lock at once: of two transactions that read first and then write, one would fail. The commit
        survives the death of every process. Only with *is_synced* it waits for the disk, and survives a power cut, too:
        for changes that the rollouts do not hold.
        """
        connection = self.db.conn
        with self.errors_translated():
            if is_synced:
                connection.execute("PRAGMA synchronous = FULL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                if connection.in_transaction:  # else the caller rolled it back
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                if is_synced:
                    connection.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Let all statements in the block read the same rows, even if another process writes."""
        connection = self.db.conn
        with self.errors_translated():
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:  # some errors end it
                    connection.execute("ROLLBACK")  # nothing was written

    @contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        """Wait at most *seconds* for other processes' transactions."""
        connection = self.db.conn
        with self.errors_translated():
            connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")
            try:
                yield
            finally:
                connection.execute(f"PRAGMA busy_timeout = {database.BUSY_TIMEOUT * 1000:.0f}")

    @contextmanager
    def errors_translated(self) -> Iterator[None]:
        """Raise `IndexUnavailable` in place of SQLite's errors, and note damage."""
        try:
            yield
        except sqlite3.Error as error:
            self.is_damaged = self.is_damaged or database.is_damaged(error)
            raise database.IndexUnavailable(f"the index: {error}") from error
        except locks.LockBusy:
            raise database.IndexUnavailable("another process has been creating the index for a long time") from None
