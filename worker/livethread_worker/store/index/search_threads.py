"""One page of a search: by words, the best message of each thread; literally, its first message that holds the term."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from livethread.cursor import decode_cursor, decode_relevance, encode_cursor, encode_relevance
from livethread.rollout.literal import excerpt, folded, literal_term, occurrences
from livethread.rollout.search_text import WORD_BREAK, Phrase, parse_query, spaced
from livethread.types import (
    SearchMatch,
    SearchThreadsParams,
    SortDirection,
    StoredThreadSearchResult,
    ThreadSearchPage,
    ThreadSortKey,
)
from livethread_worker.store.index.list_threads import source_condition
from livethread_worker.store.index.thread_rows import from_rows
from livethread_worker.store.index.trigrams import expression, trigrams_of

#: Words of a snippet.
_SNIPPET_WORDS: Final = 16

#: Special characters of LIKE patterns, and the longest term for one: SQLite accepts 50,000 bytes.
_LIKE_SYNTAX: Final = re.compile(r"[%_\\]")
_MAX_LIKE: Final = 5_000

#: Name of the SQL function that tells whether a stored text holds a literal term.
HOLDS: Final = "holds_literally"

_BY_WORDS: Final = """matches AS MATERIALIZED (
    SELECT m.thread_id, m.id, f.rank AS score
      FROM messages_fts AS f JOIN messages AS m ON m.id = f.rowid
     WHERE messages_fts MATCH ? AND f.rowid <= ?
), best AS (SELECT thread_id, id, min(score) AS score FROM matches GROUP BY thread_id)"""

#: The messages that have the term's trigrams, and those whose trigrams are not indexed yet.
_CANDIDATES: Final = """SELECT rowid AS id FROM messages_trigrams WHERE messages_trigrams MATCH ?
    UNION ALL SELECT id FROM messages WHERE id > (SELECT coalesce(max(id), 0) FROM messages_trigrams_docsize)"""
_ALL: Final = "SELECT id FROM messages"

_LITERALLY: Final = """best AS MATERIALIZED (
    SELECT m.thread_id, min(m.id) AS id FROM ({candidates}) AS c CROSS JOIN messages AS m ON m.id = c.id
     WHERE {holds} GROUP BY m.thread_id
)"""

_PAGE: Final = """WITH {best}
SELECT r.path, r.applied AS position, t.*, best.id AS message_id
  FROM best JOIN threads AS t ON t.thread_id = best.thread_id JOIN rollouts AS r ON r.thread_id = t.thread_id
 WHERE {conditions} ORDER BY {order} LIMIT ? OFFSET ?"""

#: The newest message of those that are all indexed: later pages must find no message that the first could not.
_NEWEST_INDEXED: Final = (
    "SELECT coalesce((SELECT min(id) - 1 FROM unindexed_messages), (SELECT max(id) FROM messages), 0)"
)

_SNIPPET: Final = (
    "SELECT snippet(messages_fts, 0, '', '', '…', ?) FROM messages_fts WHERE messages_fts MATCH ? AND rowid = ?"
)


class _Matches(NamedTuple):
    """The message of each thread that a search found."""

    #: Defines the table ``best`` of these threads and messages.
    sql: str
    arguments: list[Any]
    #: Returns the excerpt of a message.
    snippet: Callable[[int], str]


def holds_literally(text: str, term: str) -> bool:
    """Return whether a stored text holds a `literal_term` that is spaced as the text is."""
    return term in folded(text)


def search_threads(connection: sqlite3.Connection, root: Path, params: SearchThreadsParams) -> ThreadSearchPage:
    """Return the page, within a transaction of the caller.

    Without a sort key, a search for words returns the best matches (by bm25) first. Its cursor holds the newest message
    that the first page could find, and how many threads were shown.
    """
    is_literal = params.match is SearchMatch.LITERAL
    key = params.sort_key or (ThreadSortKey.UPDATED_AT if is_literal else None)
    newest, offset = 0, 0
    if key is None and params.cursor:
        newest, offset = decode_relevance(params.cursor)
    elif not is_literal:
        [[newest]] = connection.execute(_NEWEST_INDEXED)
    matches = _literal_matches(connection, params) if is_literal else _word_matches(connection, params, newest)
    conditions = [f"t.archived_at IS {'NOT ' if params.archived else ''}NULL"]
    if not params.include_attached_threads:
        conditions.append("t.attached_to_thread_id IS NULL")
    arguments = list(matches.arguments)
    if params.allowed_sources:
        condition, values = source_condition(params.allowed_sources)
        conditions.append(condition)
        arguments += values
    if key is None:
        order = "best.score, t.thread_id"
    else:
        is_ascending = params.sort_key is not None and params.sort_direction is SortDirection.ASC
        order = "t.{0} {1}, t.thread_id {1}".format(key.value, "ASC" if is_ascending else "DESC")
        if params.cursor:
            conditions.append(f"(t.{key.value}, t.thread_id) {'>' if is_ascending else '<'} (?, ?)")
            arguments += decode_cursor(params.cursor, key)
    sql = _PAGE.format(best=matches.sql, conditions=" AND ".join(conditions), order=order)
    rows = connection.execute(sql, [*arguments, params.page_size + 1, offset]).fetchall()
    page, has_more = rows[: params.page_size], len(rows) > params.page_size
    threads = from_rows(page, root)
    cursor = None
    if has_more and key:
        cursor = encode_cursor(threads[-1], key)
    elif has_more:
        cursor = encode_relevance(newest, offset + len(page))
    return ThreadSearchPage(
        items=tuple(
            StoredThreadSearchResult(thread=thread, snippet=matches.snippet(row["message_id"]))
            for row, thread in zip(page, threads, strict=True)
        ),
        next_cursor=cursor,
    )


def _word_matches(connection: sqlite3.Connection, params: SearchThreadsParams, newest: int) -> _Matches:
    match = fts_expression(parse_query(params.search_term))

    def snippet(message_id: int) -> str:
        row = connection.execute(_SNIPPET, [_SNIPPET_WORDS, match, message_id]).fetchone()
        return str(row[0]).replace(WORD_BREAK, "") if row else ""

    return _Matches(_BY_WORDS, [match, newest], snippet)


def _literal_matches(connection: sqlite3.Connection, params: SearchThreadsParams) -> _Matches:
    term = literal_term(params.search_term)
    stored = spaced(term)
    holds, held = _holds(stored)
    trigrams = [trigram for trigram in trigrams_of(stored) if all(map(_is_folded_alike, trigram))]
    candidates, found_by = (_CANDIDATES, [expression(trigrams)]) if trigrams else (_ALL, [])

    def snippet(message_id: int) -> str:
        [[text]] = connection.execute("SELECT text FROM messages WHERE id = ?", [message_id])
        text = text.replace(WORD_BREAK, "")
        return next((excerpt(text, *found).text for found in occurrences(text, term)), "")

    return _Matches(_LITERALLY.format(candidates=candidates, holds=holds), [*found_by, held], snippet)


def _holds(term: str) -> tuple[str, str]:
    """Return the condition that a message ``m`` holds *term*, and its argument.

    LIKE ignores the case of ASCII letters only, and takes a fifth of the time.
    """
    if len(term) <= _MAX_LIKE and all(char.isascii() or char.lower() == char.upper() for char in term):
        pattern = _LIKE_SYNTAX.sub(r"\\\g<0>", term)
        return "m.text LIKE ? ESCAPE '\\'", f"%{pattern}%"
    return f"{HOLDS}(m.text, ?)", term


def _is_folded_alike(char: str) -> bool:
    """Return whether FTS5 folds *char* as we do.

    Its tables are from Unicode 6.1. Letters have gained upper case since, but not in these ranges of Latin, Greek and
    Cyrillic.
    """
    is_old = char < "\u0250" or "\u0388" <= char <= "\u03ce" or "\u0400" <= char <= "\u0481"
    return is_old or char.lower() == char.upper()


def fts_expression(phrases: list[Phrase]) -> str:
    """Return the FTS5 expression for all of *phrases*, with every word quoted: users cannot write FTS5 syntax."""
    return " AND ".join(f'"{" ".join(phrase.words)}"{"*" if phrase.is_prefix else ""}' for phrase in phrases)
