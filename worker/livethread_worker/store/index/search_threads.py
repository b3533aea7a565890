"""One page of a full-text search: the best message of each thread."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from livethread.cursor import decode_cursor, decode_relevance, encode_cursor, encode_relevance
from livethread.rollout.search_text import WORD_BREAK, Phrase, parse_query
from livethread.types import SearchThreadsParams, SortDirection, StoredThreadSearchResult, ThreadSearchPage
from livethread_worker.store.index.list_threads import source_condition
from livethread_worker.store.index.thread_rows import from_rows

#: Words of a snippet.
_SNIPPET_WORDS: Final = 16

_MATCHES: Final = """WITH matches AS MATERIALIZED (
    SELECT m.thread_id, m.id, f.rank AS score
      FROM messages_fts AS f JOIN messages AS m ON m.id = f.rowid
     WHERE messages_fts MATCH ? AND f.rowid <= ?
), best AS (SELECT thread_id, id, min(score) AS score FROM matches GROUP BY thread_id)
SELECT r.path, t.*, best.id AS message_id
  FROM best JOIN threads AS t ON t.thread_id = best.thread_id JOIN rollouts AS r ON r.thread_id = t.thread_id
 WHERE {conditions} ORDER BY {order} LIMIT ? OFFSET ?"""

#: The newest message of those that are all indexed: later pages must find no message that the first could not.
_NEWEST_INDEXED: Final = (
    "SELECT coalesce((SELECT min(id) - 1 FROM unindexed_messages), (SELECT max(id) FROM messages), 0)"
)

_SNIPPET: Final = (
    "SELECT snippet(messages_fts, 0, '', '', '…', ?) FROM messages_fts WHERE messages_fts MATCH ? AND rowid = ?"
)


def search_threads(connection: sqlite3.Connection, root: Path, params: SearchThreadsParams) -> ThreadSearchPage:
    """Return the page, within a transaction of the caller. Without a sort key, the best matches (by bm25) come first.

    A cursor by relevance holds the newest message that the first page could find, and how many threads were shown.
    """
    match = fts_expression(parse_query(params.search_term))
    [[newest]] = connection.execute(_NEWEST_INDEXED)
    offset = 0
    conditions = [f"t.archived_at IS {'NOT ' if params.archived else ''}NULL"]
    if not params.include_attached_threads:
        conditions.append("t.attached_to_thread_id IS NULL")
    arguments: list[Any] = []
    if params.allowed_sources:
        condition, values = source_condition(params.allowed_sources)
        conditions.append(condition)
        arguments += values
    if params.sort_key is None:
        order = "best.score, t.thread_id"
        if params.cursor:
            newest, offset = decode_relevance(params.cursor)
    else:
        key = f"t.{params.sort_key.value}"
        is_ascending = params.sort_direction is SortDirection.ASC
        order = "{0} {1}, t.thread_id {1}".format(key, "ASC" if is_ascending else "DESC")
        if params.cursor:
            conditions.append(f"({key}, t.thread_id) {'>' if is_ascending else '<'} (?, ?)")
            arguments += decode_cursor(params.cursor, params.sort_key)
    sql = _MATCHES.format(conditions=" AND ".join(conditions), order=order)
    rows = connection.execute(sql, [match, newest, *arguments, params.page_size + 1, offset]).fetchall()
    page, has_more = rows[: params.page_size], len(rows) > params.page_size
    threads = from_rows(page, root)
    cursor = None
    if has_more and params.sort_key:
        cursor = encode_cursor(threads[-1], params.sort_key)
    elif has_more:
        cursor = encode_relevance(newest, offset + len(page))
    return ThreadSearchPage(
        items=tuple(
            StoredThreadSearchResult(thread=thread, snippet=_snippet(connection, match, row["message_id"]))
            for row, thread in zip(page, threads, strict=True)
        ),
        next_cursor=cursor,
    )


def fts_expression(phrases: list[Phrase]) -> str:
    """Return the FTS5 expression for all of *phrases*, with every word quoted: users cannot write FTS5 syntax."""
    return " AND ".join(f'"{" ".join(phrase.words)}"{"*" if phrase.is_prefix else ""}' for phrase in phrases)


def _snippet(connection: sqlite3.Connection, match: str, message_id: int) -> str:
    row = connection.execute(_SNIPPET, [_SNIPPET_WORDS, match, message_id]).fetchone()
    return str(row[0]).replace(WORD_BREAK, "") if row else ""
