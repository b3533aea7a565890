"""One page of a full-text search: the best message of each thread."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from livethread.cursor import decode_cursor, decode_relevance
from livethread.rollout.search_text import WORD_BREAK, Phrase, parse_query
from livethread.types import SearchThreadsParams, SortDirection
from livethread_worker.store.index.list_threads import source_condition


@dataclass(frozen=True, slots=True)
class FoundRows:
    """What a search found: rows with their snippets."""

    rows: list[tuple[sqlite3.Row, str]]
    #: Newest message that could be found when the first page was made, and how many threads the pages before have shown.
    snapshot: int
    offset: int


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

_NEWEST_INDEXED: Final = (
    "SELECT coalesce((SELECT min(id) - 1 FROM unindexed_messages), (SELECT max(id) FROM messages), 0)"
)

_SNIPPET: Final = (
    "SELECT snippet(messages_fts, 0, '', '', '…', ?) FROM messages_fts WHERE messages_fts MATCH ? AND rowid = ?"
)


def search_rows(connection: sqlite3.Connection, params: SearchThreadsParams) -> FoundRows:
    """Return the page's rows and one more, where there is one; the caller sees to it that all is read as of one moment.

    Without a sort key the best matches come first (FTS5's bm25).
    """
    match = fts_expression(parse_query(params.search_term))
    snapshot, offset = _newest_indexed(connection), 0
    conditions = [f"t.archived_at IS {'NOT ' if params.archived else ''}NULL"]
    arguments: list[Any] = []
    if params.allowed_sources:
        condition, values = source_condition(params.allowed_sources)
        conditions.append(condition)
        arguments += values
    if params.sort_key is None:
        order = "best.score, t.thread_id"
        if params.cursor:
            snapshot, offset = decode_relevance(params.cursor)
    else:
        key = f"t.{params.sort_key.value}"
        is_ascending = params.sort_direction is SortDirection.ASC
        order = "{0} {1}, t.thread_id {1}".format(key, "ASC" if is_ascending else "DESC")
        if params.cursor:
            conditions.append(f"({key}, t.thread_id) {'>' if is_ascending else '<'} (?, ?)")
            arguments += decode_cursor(params.cursor, params.sort_key)
    sql = _MATCHES.format(conditions=" AND ".join(conditions), order=order)
    rows = connection.execute(sql, [match, snapshot, *arguments, params.page_size + 1, offset]).fetchall()
    return FoundRows([(row, _snippet(connection, match, row["message_id"])) for row in rows], snapshot, offset)


def _newest_indexed(connection: sqlite3.Connection) -> int:
    """Return the newest message before which all are indexed: later pages must not find what this one could not."""
    return int(connection.execute(_NEWEST_INDEXED).fetchone()[0])


def fts_expression(phrases: list[Phrase]) -> str:
    """Return the FTS5 expression that asks for all of *phrases*; nothing in it is the user's syntax."""
    return " AND ".join(f'"{" ".join(phrase.words)}"{"*" if phrase.is_prefix else ""}' for phrase in phrases)


def _snippet(connection: sqlite3.Connection, match: str, message_id: int) -> str:
    row = connection.execute(_SNIPPET, [_SNIPPET_WORDS, match, message_id]).fetchone()
    return str(row[0]).replace(WORD_BREAK, "") if row else ""
