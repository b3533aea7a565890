"""One page of a full-text search: the best message of each thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from livethread.cursor import decode_search_cursor
from livethread.search_text import WORD_BREAK, parse_query
from livethread.types import SortDirection
from livethread_worker.store.index.list_threads import source_condition

if TYPE_CHECKING:
    import sqlite3

    from livethread.search_text import Phrase
    from livethread.types import SearchThreadsParams

#: Words of a snippet.
_SNIPPET_WORDS: Final = 16

_MATCHES: Final = """WITH matches AS MATERIALIZED (
    SELECT m.thread_id, m.id, f.rank AS score
      FROM messages_fts AS f JOIN messages AS m ON m.id = f.rowid
     WHERE messages_fts MATCH ?
), best AS (SELECT thread_id, id, min(score) AS score FROM matches GROUP BY thread_id)
SELECT r.path, t.*, best.id AS message_id, best.score AS score
  FROM best JOIN threads AS t ON t.thread_id = best.thread_id JOIN rollouts AS r ON r.thread_id = t.thread_id
 WHERE {conditions} ORDER BY {order} {direction}, t.thread_id {direction} LIMIT ?"""

_SNIPPET: Final = (
    "SELECT snippet(messages_fts, 0, '', '', '…', ?) FROM messages_fts WHERE messages_fts MATCH ? AND rowid = ?"
)


def search_rows(
    connection: sqlite3.Connection, params: SearchThreadsParams
) -> list[tuple[sqlite3.Row, str, str | float]]:
    """Return the page's rows and one more, each with a snippet and what it is sorted by.

    Without a sort key the best matches come first (FTS5's bm25: the smaller, the better).
    """
    match = fts_expression(parse_query(params.search_term))
    conditions = [f"t.archived_at IS {'NOT ' if params.archived else ''}NULL"]
    arguments: list[Any] = [match]
    if params.allowed_sources:
        condition, values = source_condition(params.allowed_sources)
        conditions.append(condition)
        arguments += values
    by_score = params.sort_key is None
    order = "best.score" if params.sort_key is None else f"t.{params.sort_key.value}"
    direction = "ASC" if by_score or params.sort_direction is SortDirection.ASC else "DESC"
    if params.cursor:
        after, thread_id = decode_search_cursor(params.cursor, params.sort_key)
        conditions.append(f"({order}, t.thread_id) {'>' if direction == 'ASC' else '<'} (?, ?)")
        arguments += [after, thread_id]
    sql = _MATCHES.format(conditions=" AND ".join(conditions), order=order, direction=direction)
    rows = connection.execute(sql, [*arguments, params.page_size + 1]).fetchall()
    key = "score" if params.sort_key is None else params.sort_key.value
    return [(row, _snippet(connection, match, row["message_id"]), row[key]) for row in rows]


def fts_expression(phrases: list[Phrase]) -> str:
    """Return the FTS5 expression that asks for all of *phrases*; nothing in it is the user's syntax."""
    return " AND ".join(f'"{" ".join(phrase.words)}"{"*" if phrase.is_prefix else ""}' for phrase in phrases)


def _snippet(connection: sqlite3.Connection, match: str, message_id: int) -> str:
    row = connection.execute(_SNIPPET, [_SNIPPET_WORDS, match, message_id]).fetchone()
    return str(row[0]).replace(WORD_BREAK, "") if row else ""
