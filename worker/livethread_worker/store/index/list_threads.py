"""One page of a listing, read off an SQL index in its order: its cost does not depend on the number of threads.

Each filter has an SQL index for each sort key. It has the threads with one value of the filter and one of ``hidden`` in
order, slot by slot; threads in the same slot (ten seconds) are sorted when they are read. A page for several values merges
their orders.

If there are several filters, the one with the fewest threads leads, and each of its threads is checked against the others.
Threads that contain a search term, and descendants, come unordered: up to `SORT_LIMIT` of them are collected and
sorted; if there are more, the listing is walked until the page is full.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from livethread.cursor import decode_cursor, encode_cursor
from livethread.metadata import SessionSource
from livethread.rollout.lines import encode_json
from livethread.rollout.search_text import folded_term
from livethread.types import ListThreadsParams, RelationKind, SortDirection, ThreadPage
from livethread_worker.store.index.directories import Directories
from livethread_worker.store.index.listing_texts import ROWS_OF_THREAD, TEXTS
from livethread_worker.store.index.thread_rows import SLOTS, from_rows, slot_of
from livethread_worker.store.index.trigrams import expression, trigrams_of

#: Maximum number of threads that are collected and sorted, or counted to find the filter that leads.
SORT_LIMIT: Final = 4000

#: Maximum values of a filter whose orders are merged; a filter with more only checks rows. (SQLite merges 500 parts, and
#: a value has up to four, by `hidden`.)
MERGED_VALUES: Final = 100


@dataclass(frozen=True, slots=True)
class _Sql:
    """A part of a statement, with its arguments."""

    text: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class _Filter:
    """Threads whose column has one of several values."""

    column: str
    values: tuple[str, ...]

    @property
    def condition(self) -> _Sql:
        """Selects them among all threads ``t``."""
        condition = f"t.{self.column} IN (SELECT value FROM json_each(?))"  # noqa: S608 - columns are our own
        return _Sql(condition, (json.dumps(self.values),))

    @property
    def query(self) -> _Sql:
        """Selects the `threads.id` of all of them, archived or not."""
        check = self.condition
        return _Sql(f"SELECT id FROM threads AS t WHERE {check.text}", check.arguments)  # noqa: S608

    def sources(self, key: str, hidden: Sequence[int]) -> list[_Sql]:
        """Return what to select from, sorted by *key*: a part for each value and each of *hidden*, ending with its WHERE."""
        index = f"threads_by_{self.column}_{SLOTS[key]}"
        text = f"threads AS t INDEXED BY {index} WHERE t.{self.column} = ? AND t.hidden = ?"
        return [_Sql(text, (value, reason)) for value in self.values for reason in hidden]


@dataclass(frozen=True, slots=True)
class _Set:
    """Threads that a query finds, in any order."""

    #: Selects their `threads.id`.
    query: _Sql
    #: Selects them among all threads ``t``.
    condition: _Sql
    #: Whether the query finds other threads, too.
    is_rough: bool

    def sources(self, key: str, hidden: Sequence[int]) -> list[_Sql]:  # noqa: ARG002 - they have no order
        check = self.condition if self.is_rough else _Sql("true")
        text = (
            f"({self.query.text}) AS found CROSS JOIN threads AS t ON t.id = found.id"
            f" WHERE t.hidden IN ({', '.join(map(str, hidden))}) AND {check.text}"
        )
        return [_Sql(text, self.query.arguments + check.arguments)]


def list_threads(
    connection: sqlite3.Connection, directories: Directories, root: Path, params: ListThreadsParams
) -> ThreadPage:
    """Return the page.

    Its cursor names the sort value *and* the id of the last thread, so that threads of the same time are neither lost
    nor repeated.
    """
    filters = _filters(directories, params)
    if not all(each.values for each in filters):
        return ThreadPage(items=())
    parts: list[_Filter | _Set] = [*filters, *_sets(params)]
    leading = _leading(connection, parts)
    checks = [_Sql("t.is_archived = ?", (params.archived,)), *_after_cursor(params)]
    checks += [part.condition for part in parts if part is not leading] + _short_term(params)
    key, hidden = params.sort_key.value, _hidden(params)
    sources = (
        leading.sources(key, hidden)
        if leading
        else [_Sql(f"threads AS t INDEXED BY threads_by_{SLOTS[key]} WHERE t.hidden = ?", (each,)) for each in hidden]
    )
    threads = from_rows(_read(connection, params, sources, checks), root)
    page, has_more = threads[: params.page_size], len(threads) > params.page_size
    return ThreadPage(items=tuple(page), next_cursor=encode_cursor(page[-1], params.sort_key) if has_more else None)


def _read(
    connection: sqlite3.Connection, params: ListThreadsParams, sources: list[_Sql], checks: list[_Sql]
) -> list[sqlite3.Row]:
    """Return one row more than the page has, if there is one; each of the merged *sources* is read only that far."""
    key = params.sort_key.value
    direction = "DESC" if params.sort_direction is SortDirection.DESC else "ASC"
    conditions = "".join(f" AND {check.text}" for check in checks)
    arguments = [argument for check in checks for argument in check.arguments]
    merged = " UNION ALL ".join(
        f"SELECT t.id, t.{SLOTS[key]} AS slot, t.{key} AS at, t.thread_id FROM {source.text}{conditions}"  # noqa: S608
        for source in sources
    )
    sql = (
        f"SELECT r.path, r.applied AS position, t.* FROM ({merged} ORDER BY slot {direction}, at {direction}, thread_id {direction} LIMIT ?)"  # noqa: S608
        " AS page CROSS JOIN threads AS t ON t.id = page.id CROSS JOIN rollouts AS r ON r.thread_id = page.thread_id"
        f" ORDER BY page.at {direction}, page.thread_id {direction}"
    )
    values = [argument for source in sources for argument in (*source.arguments, *arguments)]
    return connection.execute(sql, [*values, params.page_size + 1]).fetchall()


def _hidden(params: ListThreadsParams) -> list[int]:
    """Return the values of ``hidden`` that the listing includes."""
    if params.attached_to_thread_id is not None:
        listed = [2, 3]
    else:
        listed = [0, 1, 2, 3] if params.include_attached_threads else [0, 1]
    return listed if params.include_without_preview else [each for each in listed if each in {0, 2}]


def _after_cursor(params: ListThreadsParams) -> list[_Sql]:
    if not params.cursor:
        return []
    comparison = "<" if params.sort_direction is SortDirection.DESC else ">"
    key = params.sort_key.value
    at, thread_id = decode_cursor(params.cursor, params.sort_key)
    condition = f"t.{SLOTS[key]} {comparison}= ? AND (t.{key}, t.thread_id) {comparison} (?, ?)"
    return [_Sql(condition, (slot_of(at), at, thread_id))]


def _filters(directories: Directories, params: ListThreadsParams) -> list[_Filter]:
    """Return the filters on columns, those that usually leave the fewest threads first; without values, a filter leaves none."""
    filters = []
    relation = params.relation_filter
    if relation is not None and relation.kind is RelationKind.DIRECT_CHILDREN:
        filters.append(_filter("parent_thread_id", (relation.thread_id,)))
    if params.attached_to_thread_id is not None:
        filters.append(_filter("attached_to_thread_id", (params.attached_to_thread_id,)))
    if params.cwd_filters is not None:
        filters.append(_filter("cwd", directories.spellings(params.cwd_filters)))
    if params.model_providers:
        filters.append(_filter("model_provider", params.model_providers))
    if params.allowed_sources:
        filters.append(_filter("source", _encoded(params.allowed_sources)))
    return filters


def _filter(column: str, values: Sequence[str]) -> _Filter:
    return _Filter(column, tuple(dict.fromkeys(values)))


def _sets(params: ListThreadsParams) -> list[_Set]:
    sets = []
    relation = params.relation_filter
    if relation is not None and relation.kind is RelationKind.DESCENDANTS:
        descendants = _Sql(_DESCENDANTS, (relation.thread_id,))
        check = _Sql(f"t.id IN ({_DESCENDANTS})", descendants.arguments)
        sets.append(_Set(descendants, check, is_rough=False))
    term = folded_term(params.search_term or "")
    if trigrams := trigrams_of(term):
        found = _Sql(
            f"SELECT DISTINCT rowid / {TEXTS} AS id FROM listing_texts WHERE listing_texts MATCH ?",  # noqa: S608
            (expression(trigrams),),
        )
        sets.append(_Set(found, _holds(term), is_rough=True))
    return sets


def _short_term(params: ListThreadsParams) -> list[_Sql]:
    """Return the check for a term that is shorter than a trigram."""
    term = folded_term(params.search_term or "")
    return [_holds(term)] if term and not trigrams_of(term) else []


def _holds(term: str) -> _Sql:
    held = f"SELECT 1 FROM listing_texts AS held WHERE held.rowid {ROWS_OF_THREAD} AND instr(held.text, ?)"  # noqa: S608
    return _Sql(f"EXISTS ({held})", (term,))


def _leading(connection: sqlite3.Connection, parts: list[_Filter | _Set]) -> _Filter | _Set | None:
    """Return the part that the listing is read from: the one with the fewest threads; None to walk all threads."""
    candidates = [part for part in parts if isinstance(part, _Set) or len(part.values) <= MERGED_VALUES]
    if len(candidates) == 1 and isinstance(candidates[0], _Filter):
        return candidates[0]
    best: _Filter | _Set | None = None
    fewest = SORT_LIMIT + 1
    for part in candidates:
        sql = f"SELECT count(*) FROM ({part.query.text} LIMIT ?)"  # noqa: S608
        [[count]] = connection.execute(sql, [*part.query.arguments, fewest])
        if count < fewest or (best is None and isinstance(part, _Filter)):
            best, fewest = part, count
    return best


def _encoded(sources: Sequence[SessionSource]) -> tuple[str, ...]:
    return tuple(encode_json(source).decode() for source in sources)


def source_condition(sources: Sequence[SessionSource]) -> tuple[str, list[Any]]:
    """Return the condition that a thread ``t`` has one of *sources*, and its arguments."""
    return f"t.source IN ({', '.join('?' * len(sources))})", list(_encoded(sources))


_DESCENDANTS: Final = """WITH RECURSIVE descendants (thread_id, id) AS (
    SELECT thread_id, id FROM threads WHERE parent_thread_id = ?
    UNION
    SELECT c.thread_id, c.id FROM descendants AS d JOIN threads AS c ON c.parent_thread_id = d.thread_id
)
SELECT id FROM descendants"""
