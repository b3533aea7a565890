"""The index's file: opened, migrated, and set aside where it is damaged."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from sqlite_utils import Database

from livethread_worker.store.files.home import FILE_MODE, Home
from livethread_worker.store.index.migrations import migrations

logger = logging.getLogger(__name__)

#: Pages of 4 KB in the write-ahead log at which a commit moves them into the database, where nobody has done so before: it
#: takes some ten milliseconds.
CHECKPOINT_PAGES: Final = 4_000

#: How long a statement waits for another process' transaction.
BUSY_TIMEOUT: Final = 5.0  # seconds


def open_database(home: Home) -> Database:
    """Open the index of *home*, made and migrated where needed. The caller holds its lock."""
    if not home.index.exists() or not home.index.stat().st_size:
        for companion in _companions(home):  # of an index that was deleted without them
            companion.unlink(missing_ok=True)
    os.close(os.open(home.index, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    # Autocommit: transactions are begun where they are meant to begin.
    connection = sqlite3.connect(home.index, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("PRAGMA synchronous = FULL")  # `flush` says that the index is durable, too
        database = Database(connection)
        migrations.apply(database)
        # What a statement may have to take back, such as a new thread's row in fifteen indexes, then needs no file (see
        # "statement journals" at https://www.sqlite.org/tempfiles.html). A migration's may be as large as the index.
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return database


def in_memory_database() -> Database:
    """Open an empty index that ends with the process."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    database = Database(connection)
    migrations.apply(database)
    return database


def set_aside(home: Home) -> None:
    """Move a damaged index out of the way, into the quarantine; it is made again from the rollouts."""
    logger.error("index is damaged; it is set aside and made again", extra={"action": "open_index"})
    stamp = time.time_ns()
    for path in (home.index, *_companions(home)):
        if path.exists():
            path.rename(home.quarantine / f"{path.name}.{stamp}")


def _companions(home: Home) -> tuple[Path, ...]:
    return tuple(home.index.with_name(home.index.name + suffix) for suffix in ("-wal", "-shm"))


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether *error* says that the database is none, or none any more."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def identity(home: Home) -> tuple[int, int] | None:
    """Tell the file that is the index of *home* now from any other."""
    try:
        stat = home.index.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino
