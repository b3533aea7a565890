"""Measures listing and searching, and the bare queries, in homes of several sizes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import homes
from benchmarks.timing import medians
from livethread import types
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.index.thread_rows import SLOTS
from livethread_worker.store.upkeep.rebuild import rebuild

PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of listings, and the same query written by hand."""

    params: dict[str, Any]
    condition: str
    arguments: tuple[Any, ...] = ()
    tables: str = "threads AS t"


def _related(kind: types.RelationKind) -> dict[str, Any]:
    return {"relation_filter": types.ThreadRelationFilter(kind=kind, thread_id=homes.ROOT)}


FILTERS: Final = {
    "all": Filter({}, "1"),
    "all, with unasked ones": Filter({"include_without_preview": True}, "1"),
    "cwd, 10 threads": Filter({"cwd_filters": (homes.RARE_CWD,)}, "t.cwd = ?", (homes.RARE_CWD,)),
    "cwd, the oldest 5 %": Filter({"cwd_filters": (homes.OLD_CWD,)}, "t.cwd = ?", (homes.OLD_CWD,)),
    "3 cwds": Filter(
        {"cwd_filters": (homes.OLD_CWD, "/project/7", homes.RARE_CWD)},
        "t.cwd IN (?, ?, ?)",
        (homes.OLD_CWD, "/project/7", homes.RARE_CWD),
    ),
    "source, 10 threads": Filter({"allowed_sources": (homes.RARE_SOURCE,)}, "t.source = ?", ('{"custom":"rare"}',)),
    "provider, 10 threads": Filter(
        {"model_providers": (homes.RARE_PROVIDER,)}, "t.model_provider = ?", (homes.RARE_PROVIDER,)
    ),
    "rare cwd, any source": Filter(
        {"cwd_filters": (homes.RARE_CWD,), "allowed_sources": ("cli", "vscode", "exec")},
        "t.cwd = ? AND t.source IN (?, ?, ?)",
        (homes.RARE_CWD, '"cli"', '"vscode"', '"exec"'),
    ),
    "archived, 10 threads": Filter({"archived": True}, "1"),
    "children": Filter(_related(types.RelationKind.DIRECT_CHILDREN), "t.parent_thread_id = ?", (homes.ROOT,)),
    "descendants": Filter(
        _related(types.RelationKind.DESCENDANTS),
        "true",
        (homes.ROOT,),
        "(WITH RECURSIVE d (id, thread_id) AS (SELECT id, thread_id FROM threads WHERE parent_thread_id = ? UNION"
        " SELECT c.id, c.thread_id FROM d JOIN threads AS c ON c.parent_thread_id = d.thread_id) SELECT id FROM d)"
        " AS d CROSS JOIN threads AS t ON t.id = d.id",
    ),
    "term, 10 threads": Filter(
        {"search_term": homes.RARE_WORD[1:7]},
        "listing_texts MATCH ? AND instr(text, ?)",
        ('"yzz" AND "yva"', "yzzyva"),
        "listing_texts CROSS JOIN threads AS t ON t.id = listing_texts.rowid / 3",
    ),
    "term, many threads": Filter({"search_term": "a"}, "(instr(t.title, ?1) OR instr(t.preview, ?1))", ("a",)),
}


def run(folder: Path, sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Return a record of times for each home size, filter, key and direction; homes are kept in *folder*."""
    records = []
    for size in sizes:
        home = made_home(folder, size)
        index = Index(home)
        try:
            for name, wanted in FILTERS.items():
                for key in types.ThreadSortKey:
                    for direction in types.SortDirection:
                        seconds = medians(_listings(index, wanted, key, direction), repeats)
                        records.append({"threads": size, "filter": name, "key": key, "order": direction} | seconds)
            for name, searches in (("search, 10 threads", _searches), ("literal, 10 threads", _literal_searches)):
                seconds = medians(searches(index), repeats)
                records.append({"threads": size, "filter": name, "key": None, "order": None} | seconds)
        finally:
            index.close()
    return records


def made_home(folder: Path, size: int, shape: homes.Shape = homes.SMALL, name: str = "threads") -> Home:
    """Return an indexed home of *size* threads; make it unless it exists."""
    home = Home(folder / f"{name}-{size}")
    if not home.index.exists():
        homes.write_rollouts(home, size, shape)
        index = Index(home)
        rebuild(home, index)
        while index.maintain(is_idle=True):
            pass
        index.close()
    return home


def _listings(
    index: Index, wanted: Filter, key: types.ThreadSortKey, direction: types.SortDirection
) -> dict[str, Callable[[], object]]:
    params = types.ListThreadsParams(page_size=PAGE, sort_key=key, sort_direction=direction, **wanted.params)
    listed = "" if params.include_without_preview else " AND t.hidden = 0"
    sql = (
        f"SELECT r.path, t.* FROM {wanted.tables} JOIN rollouts AS r ON r.thread_id = t.thread_id"  # noqa: S608
        f" WHERE {wanted.condition} AND t.is_archived = {int(params.archived)}{listed}"
        f" ORDER BY t.{SLOTS[key]} {direction}, t.{key} {direction}, t.thread_id {direction} LIMIT {PAGE + 1}"
    )
    return {
        "product": partial(index.list_threads, params),
        "bare": partial(_fetch, index.db.conn, sql, wanted.arguments),
    }


def _searches(index: Index) -> dict[str, Callable[[], object]]:
    params = types.SearchThreadsParams(search_term=homes.RARE_WORD, page_size=PAGE)
    sql = (
        "SELECT r.path, t.*, snippet(messages_fts, 0, '', '', '…', 16)"
        " FROM messages_fts AS f JOIN messages AS m ON m.id = f.rowid JOIN threads AS t ON t.thread_id = m.thread_id"
        " JOIN rollouts AS r ON r.thread_id = t.thread_id"
        " WHERE messages_fts MATCH ? AND t.is_archived = 0 ORDER BY f.rank LIMIT ?"
    )
    return {
        "product": partial(index.search_threads, params),
        "bare": partial(_fetch, index.db.conn, sql, (homes.RARE_WORD, PAGE + 1)),
    }


def _literal_searches(index: Index) -> dict[str, Callable[[], object]]:
    params = types.SearchThreadsParams(
        search_term=homes.RARE_WORD[1:], match=types.SearchMatch.LITERAL, page_size=PAGE
    )
    sql = (
        "SELECT DISTINCT r.path, t.* FROM messages AS m JOIN threads AS t ON t.thread_id = m.thread_id"
        " JOIN rollouts AS r ON r.thread_id = t.thread_id"
        " WHERE m.text LIKE ? AND t.is_archived = 0 ORDER BY t.updated_at DESC LIMIT ?"
    )
    return {
        "product": partial(index.search_threads, params),
        "bare": partial(_fetch, index.db.conn, sql, (f"%{homes.RARE_WORD[1:]}%", PAGE + 1)),
    }


def _fetch(connection: sqlite3.Connection, sql: str, arguments: tuple[Any, ...]) -> list[Any]:
    return connection.execute(sql, arguments).fetchall()
