"""One page of a listing, read off an index in its order: what it costs does not depend on how many threads there are.

Each filter has an index for each sort key, in which the threads of one value stand in order, but for those of the same ten
seconds, which are sorted when they are read; a page by several values is merged from theirs. Of several filters the one that leaves fewest threads leads, and each of its rows is
checked against the others. Threads that hold a term, and descendants, stand in no order: where they are few they are
collected and sorted, else the listing is walked until the page is full.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from livethread.cursor import decode_cursor
from livethread.metadata import SessionSource
from livethread.rollout.item import encode_json
from livethread.rollout.search_text import folded_term
from livethread.types import ListThreadsParams, RelationKind, SortDirection
from livethread_worker.store.index.listing_texts import ROWS_OF_THREAD, TEXTS
from livethread_worker.store.index.thread_rows import SLOTS, slot_of

#: Up to so many threads are collected and sorted; no more are counted to tell which filter leads.
FEW: Final = 4000

#: Most values of a filter whose orders are merged; of one with more, each row is checked. (SQLite merges up to 500.)
MERGED_VALUES: Final = 100

#: Most trigrams of a term that are looked up: what they find is checked anyway.
_TRIGRAMS: Final = 12


@dataclass(frozen=True, slots=True)
class _Sql:
    """Part of a statement, with its arguments."""

    text: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class _Filter:
    """Threads whose *column* has one of some values."""

    column: str
    values: tuple[str, ...]

    def check(self) -> _Sql:
        """Return the condition that a thread ``t`` is one of them."""
        condition = f"t.{self.column} IN (SELECT value FROM json_each(?))"  # noqa: S608 - columns are our own
        return _Sql(condition, (json.dumps(self.values),))

    def members(self) -> _Sql:
        """Return a query for all of them, archived or not."""
        check = self.check()
        return _Sql(f"SELECT 1 FROM threads AS t WHERE {check.text}", check.arguments)  # noqa: S608

    def sources(self, key: str) -> list[_Sql]:
        """Return where to read them, sorted by *key*: each begins a WHERE."""
        index = f"threads_by_{self.column}_{SLOTS[key]}"
        return [_Sql(f"threads AS t INDEXED BY {index} WHERE t.{self.column} = ?", (v,)) for v in self.values]


@dataclass(frozen=True, slots=True)
class _Set:
    """Threads that a query finds, in no order."""

    #: Selects their `threads.id`.
    query: _Sql
    #: The condition that a thread ``t`` is one of them.
    condition: _Sql
    #: Whether the query finds some more, too.
    is_rough: bool

    def check(self) -> _Sql:
        return self.condition

    def members(self) -> _Sql:
        return self.query

    def sources(self, key: str) -> list[_Sql]:  # noqa: ARG002 - in no order
        check = self.condition if self.is_rough else _Sql("true")
        text = f"({self.query.text}) AS found CROSS JOIN threads AS t ON t.id = found.id WHERE {check.text}"
        return [_Sql(text, self.query.arguments + check.arguments)]


def list_rows(connection: sqlite3.Connection, params: ListThreadsParams) -> list[sqlite3.Row]:
    """Return the rows of the page and one more, where there is one.

    A cursor names the last row's sort value *and* id, so that threads of the same time are neither lost nor
    repeated.
    """
    checks = [_Sql("t.is_archived = ?", (params.archived,)), *_after_cursor(params)]
    filters = _filters(params)
    if not all(each.values for each in filters):
        return []
    parts: list[_Filter | _Set] = [*filters, *_sets(params)]
    leading = _leading(connection, parts)
    checks += [part.check() for part in parts if part is not leading] + _short_term(params)
    key = params.sort_key.value
    sources = (
        leading.sources(key) if leading else [_Sql(f"threads AS t INDEXED BY threads_by_{SLOTS[key]} WHERE true")]
    )
    return _read(connection, params, sources, checks)


def _read(
    connection: sqlite3.Connection, params: ListThreadsParams, sources: list[_Sql], checks: list[_Sql]
) -> list[sqlite3.Row]:
    """Return the first rows of the merged *sources*. Each is read only as far as the page needs."""
    key = params.sort_key.value
    direction = "DESC" if params.sort_direction is SortDirection.DESC else "ASC"
    conditions = "".join(f" AND {check.text}" for check in checks)
    arguments = [argument for check in checks for argument in check.arguments]
    merged = " UNION ALL ".join(
        f"SELECT t.id, t.{SLOTS[key]} AS slot, t.{key} AS at, t.thread_id FROM {source.text}{conditions}"  # noqa: S608
        for source in sources
    )
    sql = (
        f"SELECT r.path, t.* FROM ({merged} ORDER BY slot {direction}, at {direction}, thread_id {direction} LIMIT ?)"  # noqa: S608
        " AS page CROSS JOIN threads AS t ON t.id = page.id CROSS JOIN rollouts AS r ON r.thread_id = page.thread_id"
        f" ORDER BY page.at {direction}, page.thread_id {direction}"
    )
    values = [argument for source in sources for argument in (*source.arguments, *arguments)]
    return connection.execute(sql, [*values, params.page_size + 1]).fetchall()


def _after_cursor(params: ListThreadsParams) -> list[_Sql]:
    if not params.cursor:
        return []
    comparison = "<" if params.sort_direction is SortDirection.DESC else ">"
    key = params.sort_key.value
    at, thread_id = decode_cursor(params.cursor, params.sort_key)
    condition = f"t.{SLOTS[key]} {comparison}= ? AND (t.{key}, t.thread_id) {comparison} (?, ?)"
    return [_Sql(condition, (slot_of(at), at, thread_id))]


def _filters(params: ListThreadsParams) -> list[_Filter]:
    """Return the filters on columns, first those that most often leave few threads; one without values leaves none."""
    filters = []
    relation = params.relation_filter
    if relation is not None and relation.kind is RelationKind.DIRECT_CHILDREN:
        filters.append(_filter("parent_thread_id", (relation.thread_id,)))
    if params.cwd_filters is not None:
        filters.append(_filter("cwd", params.cwd_filters))
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
    if trigrams := _trigrams(term):
        expression = " AND ".join('"{}"'.format(trigram.replace('"', '""')) for trigram in trigrams)
        found = _Sql(
            f"SELECT DISTINCT rowid / {TEXTS} AS id FROM listing_texts WHERE listing_texts MATCH ?",  # noqa: S608
            (expression,),
        )
        sets.append(_Set(found, _holds(term), is_rough=True))
    return sets


def _short_term(params: ListThreadsParams) -> list[_Sql]:
    """Return the check for a term that is too short to be looked up."""
    term = folded_term(params.search_term or "")
    return [_holds(term)] if term and not _trigrams(term) else []


def _holds(term: str) -> _Sql:
    held = f"SELECT 1 FROM listing_texts AS held WHERE held.rowid {ROWS_OF_THREAD} AND instr(held.text, ?)"  # noqa: S608
    return _Sql(f"EXISTS ({held})", (term,))


def _trigrams(term: str) -> list[str]:
    """Return trigrams that all stand in what holds *term*; none where it is shorter."""
    starts = [*range(0, len(term) - 2, 3), len(term) - 3]
    return list(dict.fromkeys(term[start : start + 3] for start in starts if start >= 0))[-_TRIGRAMS:]


def _leading(connection: sqlite3.Connection, parts: list[_Filter | _Set]) -> _Filter | _Set | None:
    """Return the part off which the listing is read: the one with fewest threads; None to walk all threads."""
    candidates = [part for part in parts if isinstance(part, _Set) or len(part.values) <= MERGED_VALUES]
    if len(candidates) == 1 and isinstance(candidates[0], _Filter):
        return candidates[0]
    best: _Filter | _Set | None = None
    fewest = FEW + 1
    for part in candidates:
        count = _count(connection, part, fewest)
        if count < fewest or (best is None and isinstance(part, _Filter)):
            best, fewest = part, count
    return best


def _count(connection: sqlite3.Connection, part: _Filter | _Set, limit: int) -> int:
    members = part.members()
    sql = f"SELECT count(*) FROM ({members.text} LIMIT ?)"  # noqa: S608
    return int(connection.execute(sql, [*members.arguments, limit]).fetchone()[0])


def _encoded(sources: Sequence[SessionSource]) -> tuple[str, ...]:
    return tuple(encode_json(source).decode() for source in sources)


def source_condition(sources: Sequence[SessionSource]) -> tuple[str, list[Any]]:
    """Return the condition that a thread has one of *sources*, and its arguments."""
    return f"t.source IN ({', '.join('?' * len(sources))})", list(_encoded(sources))


_DESCENDANTS: Final = """WITH RECURSIVE descendants (thread_id, id) AS (
    SELECT thread_id, id FROM threads WHERE parent_thread_id = ?
    UNION
    SELECT c.thread_id, c.id FROM descendants AS d JOIN threads AS c ON c.parent_thread_id = d.thread_id
)
SELECT id FROM descendants"""
