"""Threads as rows of the index, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from livethread.metadata import DEFAULT_APPROVAL, GitInfo, StoredThread
from livethread.model import format_time
from livethread.rollout.lines import encode_json
from livethread.rollout.permissions import READ_ONLY

_TIMES: Final = ("created_at", "updated_at", "recency_at", "archived_at")
#: Sort key -> column of its slot of ten seconds, which SQL indexes hold in its place; see schema.sql, which checks it.
SLOTS: Final = {"created_at": "created_slot", "updated_at": "updated_slot", "recency_at": "recency_slot"}
SLOT_LENGTH: Final = len("2026-01-01T00:00:0")
_TIME_OF: Final = {slot: time for time, slot in SLOTS.items()}
#: Columns that hold JSON, also for a source that is a plain name.
_JSON: Final = ("source", "approval_mode", "permission_profile", "token_usage")
#: Values that need no room: null is read as the field's default.
_DEFAULTS: Final = {"approval_mode": DEFAULT_APPROVAL, "permission_profile": READ_ONLY}
_GIT: Final = {"git_sha": "commit_hash", "git_branch": "branch", "git_origin_url": "repository_url"}

#: Field of a thread -> its column, in the order of the fields; git_info has three.
_COLUMN_OF: Final = {
    field: {"rollout_path": "path", "git_info": "git_sha"}.get(field, field)
    for field in StoredThread.model_fields
    if field != "history"
}

_THREADS: Final = TypeAdapter(list[StoredThread])
_decode: Final = json.JSONDecoder().raw_decode

#: Field of a thread -> its columns in ``threads``; path and position are in ``rollouts``.
_COLUMNS_OF: Final = {
    field: tuple(_GIT) if field == "git_info" else (field,)
    for field in _COLUMN_OF
    if field not in {"rollout_path", "position"}
}

#: The thread's id comes first.
COLUMNS: Final = (*(column for of_field in _COLUMNS_OF.values() for column in of_field), *_TIME_OF)

#: Generated, as COLUMNS names the columns once for all statements.
SAVE_THREAD: Final = (
    f"INSERT INTO threads ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)}) "  # noqa: S608
    f"ON CONFLICT (thread_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)


def changed_columns(thread: StoredThread, before: StoredThread) -> tuple[str, ...]:
    """Return the columns in which *thread* differs from the one stored *before*."""
    present, past = vars(thread), vars(before)
    columns: list[str] = []
    for field, of_field in _COLUMNS_OF.items():
        if present[field] is not past[field] and present[field] != past[field]:
            columns += of_field
            if field in SLOTS and _slot(present[field]) != _slot(past[field]):
                columns.append(SLOTS[field])
    return tuple(columns)


def update_thread(columns: Iterable[str]) -> str:
    """Return the statement that changes *columns* of a thread: SQLite rewrites only the SQL indexes on these."""
    return f"UPDATE threads SET {', '.join(f'{name} = :{name}' for name in columns)} WHERE thread_id = :thread_id"  # noqa: S608


def to_row(thread: StoredThread, columns: Iterable[str] = COLUMNS) -> dict[str, Any]:
    """Return *thread* as a row of ``threads`` with its id and *columns*."""
    return {"thread_id": thread.thread_id} | {name: _value(thread, name) for name in columns}


def _value(thread: StoredThread, column: str) -> Any:
    if column in _TIME_OF:
        return _slot(getattr(thread, _TIME_OF[column]))
    if column in _GIT:
        return getattr(thread.git_info, _GIT[column], None)
    value = getattr(thread, column)
    if value is None or value == _DEFAULTS.get(column):
        return None
    if column in _TIMES:
        return format_time(value)
    if column in _JSON:
        return encode_json(value).decode()
    return value.value if column == "memory_mode" else value


def _slot(time: datetime | None) -> str:
    return slot_of(format_time(time)) if time else ""


def slot_of(time: str) -> str:
    """Return the slot of a *time*, both as rows hold them."""
    return time[:SLOT_LENGTH]


def from_rows(rows: Sequence[sqlite3.Row], root: Path) -> list[StoredThread]:
    """Return the threads of *rows* of one query, in their order."""
    if not rows:
        return []
    names = rows[0].keys()
    select = itemgetter(*(names.index(column) for column in (*_COLUMN_OF.values(), *_GIT)))
    return _THREADS.validate_python([_fields(select(row), root) for row in rows])


def _fields(values: tuple[Any, ...], root: Path) -> dict[str, Any]:
    """Return the fields of the thread of one row's values."""
    # Fields that are null have their default: a thread has most of them unset.
    fields = {name: value for name, value in zip(_COLUMN_OF, values, strict=False) if value is not None}
    fields["rollout_path"] = root / fields["rollout_path"]
    for name in fields.keys() & _TIMES:
        fields[name] = datetime.fromisoformat(fields[name])
    for name in fields.keys() & _JSON:
        text = fields[name]
        fields[name] = _plain(text) if text[0] == '"' else _decode(text)[0]
    git = values[-len(_GIT) :]
    fields["git_info"] = GitInfo(**dict(zip(_GIT.values(), git, strict=True))) if any(git) else None
    return fields


@lru_cache(maxsize=256)
def _plain(text: str) -> Any:
    """Return the text of a JSON string, such as a source; most threads have the same few."""
    return json.loads(text)
