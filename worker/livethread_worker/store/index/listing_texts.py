"""What a listing's search term is looked for in: a thread's texts, in a row each, so that to change one is not to index all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from livethread.rollout.search_text import folded_term
from livethread_worker.store.index.queries import QUERIES

#: Texts of a thread; their rows in ``listing_texts`` are ``threads.id`` * TEXTS + 0, 1, 2: preview, title, name.
TEXTS: Final = 3

#: The rows of a thread ``t``.
ROWS_OF_THREAD: Final = f"BETWEEN t.id * {TEXTS} AND t.id * {TEXTS} + {TEXTS - 1}"


def listing_rows(preview: str | None, title: str | None, name: str | None) -> list[str | None]:
    """Return the text of each of a thread's rows; None where there is none, or one before it says the same."""
    rows: list[str | None] = []
    for text in (preview, title, name):
        folded = folded_term(text) if text else None
        rows.append(None if folded in rows else folded)
    return rows


def save_listing_texts(connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str | None]]) -> None:
    """Store texts, each named by its thread and its number among that one's rows; remove those that are None."""
    written = [row for row in rows if row[2] is not None]
    gone = [row[:2] for row in rows if row[2] is None]
    if gone:
        connection.execute(QUERIES["forget_texts"], {"texts": json.dumps(gone)})
    if written:
        connection.execute(QUERIES["save_texts"], {"texts": json.dumps(written, ensure_ascii=False)})
