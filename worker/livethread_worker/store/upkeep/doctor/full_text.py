"""Compares the index' full texts with the rows that they are made of, and makes them again where they differ."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from livethread_worker.store.index import IndexUnavailable
from livethread_worker.store.index.database import BUSY_TIMEOUT
from livethread_worker.store.index.listing_texts import TEXTS, listing_rows, save_listing_texts
from livethread_worker.store.index.queries import QUERIES

MESSAGES: Final = "a search would not find what messages say"
LISTINGS: Final = "a listing's search term would not find what threads are called"

#: Errors that say that somebody else has the index, or that there is no room: of full text they say nothing.
_PASSING: Final = frozenset({
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT),
})


class BeyondRepairError(Exception):
    """A full text cannot be made again: the whole index has to be."""


def stale_full_texts(index: Path, *, fix: bool) -> list[str]:
    """Return what is wrong with the full texts of *index*, and make those again where *fix*; else nothing is changed.

    Each takes a transaction, during which nobody else writes: to compare takes about a second of 100,000 messages, to make
    again ten times as long.

    Raises:
        BeyondRepairError: one cannot be made again; nothing is changed of it.
        IndexUnavailable: the index is locked for long, or the like.
    """
    try:
        uri = f"file:{quote(str(index))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)) as connection:
            stale = []
            for problem, is_well, mend in (
                (MESSAGES, _are_messages_well, _mend_messages),
                (LISTINGS, _are_listings_well, _mend_listings),
            ):
                connection.execute("BEGIN IMMEDIATE")
                if is_well(connection):
                    connection.execute("ROLLBACK")
                    continue
                stale.append(problem)
                if fix:
                    mend(connection)
                connection.execute("COMMIT" if fix else "ROLLBACK")
    except sqlite3.Error as error:
        if _is_passing(error):
            raise IndexUnavailable(f"the index: {error}") from error
        raise BeyondRepairError(str(error)) from error
    return stale


def _are_messages_well(connection: sqlite3.Connection) -> bool:
    # Messages that were left for later are no fault.
    is_well = _can(connection, "index_unindexed") and _can(connection, "check_messages")
    connection.execute(QUERIES["forget_unindexed"])
    return is_well


def _mend_messages(connection: sqlite3.Connection) -> None:
    connection.execute(QUERIES["rebuild_messages"])


def _are_listings_well(connection: sqlite3.Connection) -> bool:
    return _can(connection, "check_texts") and _can(connection, "texts") and not any(_wrong_listing_rows(connection))


def _mend_listings(connection: sqlite3.Connection) -> None:
    connection.execute(QUERIES["rebuild_texts"])
    changes, orphan_ids = _wrong_listing_rows(connection)
    connection.executemany(QUERIES["forget_text"], [{"id": id_} for id_ in orphan_ids])
    save_listing_texts(connection, changes)


def _can(connection: sqlite3.Connection, query: str) -> bool:
    """Run a query of a full text; return whether it could do without finding that this one is damaged."""
    try:
        connection.execute(QUERIES[query]).fetchone()
    except sqlite3.Error as error:
        if _is_passing(error):
            raise
        return False
    return True


def _is_passing(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING


def _wrong_listing_rows(connection: sqlite3.Connection) -> tuple[list[tuple[str, int, str | None]], list[int]]:
    """Return the rows of listings that ought to be others, as they ought to be, and those that are no thread's."""
    present = dict(connection.execute(QUERIES["texts"]))
    changes = []
    for id_, thread_id, *texts in connection.execute(QUERIES["listed_texts"]):
        for number, text in enumerate(listing_rows(*texts)):
            if present.pop(id_ * TEXTS + number, None) != text:
                changes.append((thread_id, number, text))
    return changes, list(present)
