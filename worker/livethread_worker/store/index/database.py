"""The file of the index: opened, created, and set aside if it is damaged or has a different schema."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Final

from sqlite_utils import Database, Migrations

from livethread_worker.store.files.home import FILE_MODE, Home
from livethread_worker.store.index.search_threads import HOLDS, holds_literally

logger = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096

#: Pages in the write-ahead log at which a commit moves them into the database, unless `Maintenance` did so before:
#: that takes about ten milliseconds.
CHECKPOINT_PAGES: Final = 4_000

#: How long a statement waits for another process' transaction.
BUSY_TIMEOUT: Final = 5.0  # seconds


#: Applies and records the schema. An index is disposable, so a change of ``sql/schema.sql`` needs no migration of rows: it
#: gets the next number here, and indexes with a lower one are rebuilt from the rollouts.
migrations = Migrations("livethread")


@migrations()
def m006_schema(db: Database) -> None:
    """Create everything."""
    # Not executescript(): it would commit the transaction that also records the migration.
    for statement in _statements(resources.files(__package__).joinpath("sql", "schema.sql").read_text("utf-8")):
        db.execute(statement)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


class IndexUnavailable(Exception):
    """The index cannot be used now: it stays locked, is damaged, a newer release made it, or the disk is full."""


class _OldSchema(Exception):
    """The index has an older schema, or one that is not ours."""


def open_database(home: Home) -> Database:
    """Open the index of *home*; create it if it is missing, damaged or older. The caller holds its lock.

    A damaged or older index goes into the quarantine. The new one is empty, and is filled from the rollouts.

    Raises:
        IndexUnavailable: a newer release made the index. It stays as it is: two releases that replaced each other's
            index would rebuild it again and again.
    """
    try:
        return _open(home)
    except sqlite3.DatabaseError as error:
        if not is_damaged(error):
            raise
        set_aside(home, "it is damaged")
    except _OldSchema as error:
        set_aside(home, str(error))
    return _open(home)


def _open(home: Home) -> Database:
    if not home.index.exists() or not home.index.stat().st_size:
        for companion in _companions(home):  # of an index that was deleted without them
            companion.unlink(missing_ok=True)
    os.close(os.open(home.index, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    # Autocommit: `Index` begins each transaction itself.
    connection = sqlite3.connect(home.index, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        # A long read transaction lets the log grow. SQLite cuts it to this size when it next starts over.
        connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * PAGE_BYTES}")
        # A power cut may take the last commits: their changes are in the rollouts, and are read from there again.
        connection.execute("PRAGMA synchronous = NORMAL")
        # A statement may have to undo a new thread's row in many indexes; in memory, that needs no temporary file
        # (see "statement journals" at https://www.sqlite.org/tempfiles.html).
        connection.execute("PRAGMA temp_store = MEMORY")
        database = Database(connection)
        _require_our_schema(database)
        migrations.apply(database)
    except BaseException:
        connection.close()
        raise
    return database


def _require_our_schema(database: Database) -> None:
    """Accept an empty database, or one that exactly our migrations made.

    Raises:
        IndexUnavailable: a newer release made it.
        _OldSchema: it has any other schema.
    """
    with closing(sqlite3.connect(":memory:")) as empty:
        ours = [migration.name for migration in migrations.pending(Database(empty))]
    applied = [migration.name for migration in migrations.applied(database)]
    if newer := [name for name in applied if name > max(ours)]:
        raise IndexUnavailable(
            f"a newer release made the index ({', '.join(newer)}), which stays as it is; upgrade this one"
        )
    if applied != ours and set(database.table_names()) - {migrations.migrations_table}:
        raise _OldSchema("it has an older or unknown schema")


def in_memory_database() -> Database:
    """Open an empty index that ends with the process."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _prepare(connection)
    database = Database(connection)
    migrations.apply(database)
    return database


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.create_function(HOLDS, 2, holds_literally, deterministic=True)


def set_aside(home: Home, reason: str) -> None:
    """Move an index that cannot be used into the quarantine; the next one is built from the rollouts."""
    logger.error("index set aside, to be rebuilt: %s", reason, extra={"action": "open_index"})
    stamp = time.time_ns()
    for path in (home.index, *_companions(home)):
        if path.exists():
            path.rename(home.quarantine / f"{path.name}.{stamp}")


def _companions(home: Home) -> tuple[Path, ...]:
    return tuple(home.index.with_name(home.index.name + suffix) for suffix in ("-wal", "-shm"))


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether *error* says that the file is not, or no longer, a database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def identity(home: Home) -> tuple[int, int] | None:
    """Return device and inode of the current index of *home*; None if it is missing."""
    try:
        stat = home.index.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino
