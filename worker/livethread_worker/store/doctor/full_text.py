"""Compares the index' full texts with the rows that they are made of, and makes them again where they differ."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from livethread_worker.store.index import IndexUnavailable
from livethread_worker.store.index.database import BUSY_TIMEOUT, is_damaged
from livethread_worker.store.index.listing_texts import TEXTS, listing_rows, save_listing_texts
from livethread_worker.store.index.queries import QUERIES

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES: Final = "a search would not find what messages say"
LISTINGS: Final = "a listing's search term would not find what threads are called"


def stale_full_texts(index: Path, *, fix: bool) -> list[str]:
    """Return what is wrong with the full texts of *index*, and make those again where *fix*; else nothing is changed.

    Both takes one transaction, half a second and a few seconds of 75,000 messages: nobody else writes meanwhile.

    Raises:
        IndexUnavailable: the index is locked for long.
    """
    try:
        with closing(sqlite3.connect(index, timeout=BUSY_TIMEOUT, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            stale = _stale(connection, fix=fix)
            connection.execute("COMMIT" if fix and stale else "ROLLBACK")
    except sqlite3.Error as error:
        raise IndexUnavailable(f"the index: {error}") from error
    return stale


def _stale(connection: sqlite3.Connection, *, fix: bool) -> list[str]:
    stale = []
    # Messages that were left for later are no fault.
    is_whole = _is_done(connection, "index_unindexed") and _is_done(connection, "check_messages")
    connection.execute(QUERIES["forget_unindexed"])
    if not is_whole:
        stale.append(MESSAGES)
        if fix:
            connection.execute(QUERIES["rebuild_messages"])
    is_whole = _is_done(connection, "check_texts")
    changes, nobodys = _wrong_listing_rows(connection)
    if changes or nobodys or not is_whole:
        stale.append(LISTINGS)
        if fix:
            if not is_whole:
                connection.execute(QUERIES["rebuild_texts"])
            connection.executemany(QUERIES["forget_text"], [{"id": id_} for id_ in nobodys])
            save_listing_texts(connection, changes)
    return stale


def _is_done(connection: sqlite3.Connection, query: str) -> bool:
    """Run a query of a full text; return whether it could do without finding that this one is damaged."""
    try:
        connection.execute(QUERIES[query])
    except sqlite3.DatabaseError as error:
        if not is_damaged(error):
            raise
        return False
    return True


def _wrong_listing_rows(connection: sqlite3.Connection) -> tuple[list[tuple[str, int, str | None]], list[int]]:
    """Return the rows of listings that ought to be others, as they ought to be, and those that are no thread's."""
    present = dict(connection.execute(QUERIES["texts"]))
    changes = []
    for id_, thread_id, *texts in connection.execute(QUERIES["listed_texts"]):
        for number, text in enumerate(listing_rows(*texts)):
            if present.pop(id_ * TEXTS + number, None) != text:
                changes.append((thread_id, number, text))
    return changes, list(present)
