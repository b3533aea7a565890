"""One page of a listing, as one query over an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from livethread.cursor import decode_cursor
from livethread.rollout_item import encode_json
from livethread.types import RelationKind, SortDirection

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from livethread.metadata import SessionSource
    from livethread.types import ListThreadsParams


def list_rows(connection: sqlite3.Connection, params: ListThreadsParams) -> list[sqlite3.Row]:
    """Return the rows of the page and one more, where there is one.

    A cursor names the last row's sort value *and* id, so that threads of the same time are neither lost nor
    repeated.
    """
    conditions, arguments = _conditions(params)
    key = params.sort_key.value
    direction = "DESC" if params.sort_direction is SortDirection.DESC else "ASC"
    if params.cursor:
        after, thread_id = decode_cursor(params.cursor, params.sort_key)
        comparison = "<" if direction == "DESC" else ">"
        conditions.append(f"(t.{key}, t.thread_id) {comparison} (?, ?)")
        arguments += [after, thread_id]
    sql = (
        "SELECT r.path, t.* FROM threads AS t JOIN rollouts AS r ON r.thread_id = t.thread_id "  # noqa: S608
        f"WHERE {' AND '.join(conditions)} ORDER BY t.{key} {direction}, t.thread_id {direction} LIMIT ?"
    )
    return connection.execute(sql, [*arguments, params.page_size + 1]).fetchall()


def _conditions(params: ListThreadsParams) -> tuple[list[str], list[Any]]:
    conditions = [f"t.archived_at IS {'NOT ' if params.archived else ''}NULL"]
    arguments: list[Any] = []

    def one_of(column: str, values: list[str]) -> None:
        conditions.append(f"{column} IN ({', '.join('?' * len(values))})")
        arguments.extend(values)

    if params.allowed_sources:
        condition, values = source_condition(params.allowed_sources)
        conditions.append(condition)
        arguments += values
    if params.model_providers:
        one_of("t.model_provider", list(params.model_providers))
    if params.cwd_filters is not None:
        one_of("t.cwd", list(params.cwd_filters))
    if params.search_term:
        conditions.append(
            "(instr(lower(coalesce(t.name, '')), lower(?)) OR instr(lower(coalesce(t.title, '')), lower(?))"
            " OR instr(lower(t.preview), lower(?)))"
        )
        arguments += [params.search_term] * 3
    if relation := params.relation_filter:
        if relation.kind is RelationKind.DIRECT_CHILDREN:
            conditions.append("t.parent_thread_id = ?")
        else:
            conditions.append(_DESCENDANTS)
        arguments.append(relation.thread_id)
    return conditions, arguments


def source_condition(sources: Sequence[SessionSource]) -> tuple[str, list[Any]]:
    """Return the condition that a thread has one of *sources*, and its arguments."""
    return f"t.source IN ({', '.join('?' * len(sources))})", [encode_json(source).decode() for source in sources]


_DESCENDANTS = """t.thread_id IN (
    WITH RECURSIVE descendants (thread_id) AS (
        SELECT thread_id FROM threads WHERE parent_thread_id = ?
        UNION
        SELECT c.thread_id FROM threads AS c JOIN descendants AS d ON c.parent_thread_id = d.thread_id
    )
    SELECT thread_id FROM descendants
)"""
