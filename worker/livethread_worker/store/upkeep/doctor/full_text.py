"""Compares the index's full texts with their rows, and rebuilds those that differ."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from livethread_worker.store.index import IndexUnavailable
from livethread_worker.store.index.database import BUSY_TIMEOUT
from livethread_worker.store.index.listing_texts import TEXTS, listing_rows, save_listing_texts
from livethread_worker.store.index.queries import QUERIES

MESSAGES: Final = "searches would not find all messages"
TRIGRAMS: Final = "literal searches would not find all messages"
LISTINGS: Final = "search terms of listings would not find all threads"

#: Errors such as a lock or a full disk, which say nothing about the full texts.
_TRANSIENT: Final = frozenset({
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT),
})


class BeyondRepairError(Exception):
    """A full text cannot be rebuilt, so the whole index must be."""


def stale_full_texts(index: Path, *, fix: bool) -> list[str]:
    """Return what is wrong with the full texts of *index*, and rebuild those if *fix* is set.

    Each full text takes a transaction that blocks other writers: about a second for comparing 100,000 messages, ten
    times as long for rebuilding them.

    Raises:
        BeyondRepairError: a full text cannot be rebuilt; it is unchanged.
        IndexUnavailable: for example, the index stayed locked.
    """
    try:
        uri = f"file:{quote(str(index))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)) as connection:
            stale = []
            for problem, is_current, rebuild in (
                (MESSAGES, _are_messages_current, lambda connection: connection.execute(QUERIES["rebuild_messages"])),
                (TRIGRAMS, _are_trigrams_current, lambda connection: connection.execute(QUERIES["rebuild_trigrams"])),
                (LISTINGS, _are_listings_current, _rebuild_listings),
            ):
                connection.execute("BEGIN IMMEDIATE")
                if is_current(connection):
                    connection.execute("ROLLBACK")
                    continue
                stale.append(problem)
                if fix:
                    rebuild(connection)
                connection.execute("COMMIT" if fix else "ROLLBACK")
    except sqlite3.Error as error:
        if _is_transient(error):
            raise IndexUnavailable(f"the index: {error}") from error
        raise BeyondRepairError(str(error)) from error
    return stale


def _are_messages_current(connection: sqlite3.Connection) -> bool:
    # Maintenance indexes some messages later, which is not a fault: index them for the check.
    is_current = _succeeds(connection, "index_unindexed") and _succeeds(connection, "check_messages")
    connection.execute(QUERIES["forget_unindexed"])
    return is_current


def _are_trigrams_current(connection: sqlite3.Connection) -> bool:
    return _succeeds(connection, "index_trigrams", limit=-1) and _succeeds(connection, "check_trigrams")


def _are_listings_current(connection: sqlite3.Connection) -> bool:
    if not (_succeeds(connection, "check_texts") and _succeeds(connection, "texts")):
        return False
    return not any(_listing_differences(connection))


def _rebuild_listings(connection: sqlite3.Connection) -> None:
    connection.execute(QUERIES["rebuild_texts"])
    changes, orphan_ids = _listing_differences(connection)
    connection.executemany(QUERIES["forget_text"], [{"id": id_} for id_ in orphan_ids])
    save_listing_texts(connection, changes)


def _succeeds(connection: sqlite3.Connection, query: str, **arguments: Any) -> bool:
    """Run a query of a full text; return False if SQLite finds the full text damaged."""
    try:
        connection.execute(QUERIES[query], arguments).fetchone()
    except sqlite3.Error as error:
        if _is_transient(error):
            raise
        return False
    return True


def _is_transient(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _TRANSIENT


def _listing_differences(connection: sqlite3.Connection) -> tuple[list[tuple[str, int, str | None]], list[int]]:
    """Return the correct version of each differing row of the listings, and the ids of rows without a thread."""
    present = dict(connection.execute(QUERIES["texts"]))
    changes = []
    for id_, thread_id, *texts in connection.execute(QUERIES["listed_texts"]):
        for number, text in enumerate(listing_rows(*texts)):
            if present.pop(id_ * TEXTS + number, None) != text:
                changes.append((thread_id, number, text))
    return changes, list(present)
