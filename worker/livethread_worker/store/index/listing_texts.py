"""The rows of `listing_texts`: a thread has one each for preview, title and name, so a change re-indexes one row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from livethread.rollout.search_text import folded_term
from livethread_worker.store.index.queries import QUERIES

#: Number of texts of a thread. Their rowids in ``listing_texts`` are ``threads.id`` * TEXTS for the preview, + 1 for
#: the title, + 2 for the name.
TEXTS: Final = 3

#: SQL condition on a rowid: it belongs to the thread ``t``.
ROWS_OF_THREAD: Final = f"BETWEEN t.id * {TEXTS} AND t.id * {TEXTS} + {TEXTS - 1}"


def listing_rows(preview: str | None, title: str | None, name: str | None) -> list[str | None]:
    """Return the text of each row of a thread; None if the text is missing, or repeats an earlier row."""
    rows: list[str | None] = []
    for text in (preview, title, name):
        folded = folded_term(text) if text else None
        rows.append(None if folded in rows else folded)
    return rows


def save_listing_texts(connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str | None]]) -> None:
    """Store texts, each with its thread and the number of its row; delete the rows whose text is None."""
    written = [row for row in rows if row[2] is not None]
    gone = [row[:2] for row in rows if row[2] is None]
    if gone:
        connection.execute(QUERIES["forget_texts"], {"texts": json.dumps(gone)})
    if written:
        connection.execute(QUERIES["save_texts"], {"texts": json.dumps(written, ensure_ascii=False)})
