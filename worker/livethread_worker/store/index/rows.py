"""Threads as rows of the index, and back."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from livethread.metadata import GitInfo, MemoryMode, StoredThread
from livethread.model import format_time
from livethread.rollout_item import encode_json

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

_TEXTS: Final = (
    "session_id",
    "forked_from_id",
    "parent_thread_id",
    "name",
    "title",
    "preview",
    "first_user_message",
    "model_provider",
    "model",
    "reasoning_effort",
    "cwd",
    "cli_version",
    "originator",
    "thread_source",
    "agent_nickname",
    "agent_role",
    "agent_path",
    "history_mode",
)
_TIMES: Final = ("created_at", "updated_at", "recency_at", "archived_at")
#: Columns that hold JSON; a source that is a plain name is its JSON string, too.
_JSON: Final = ("source", "approval_mode", "permission_profile", "token_usage")
_GIT: Final = {"git_sha": "commit_hash", "git_branch": "branch", "git_origin_url": "repository_url"}

COLUMNS: Final = ("thread_id", *_TEXTS, *_TIMES, *_JSON, *_GIT, "memory_mode")

SAVE_THREAD: Final = (
    f"INSERT INTO threads ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)}) "  # noqa: S608
    f"ON CONFLICT (thread_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)


def to_row(thread: StoredThread) -> dict[str, Any]:
    """Return *thread* as a row of ``threads``."""
    row: dict[str, Any] = {name: getattr(thread, name) for name in ("thread_id", *_TEXTS)}
    for name in _TIMES:
        at: datetime | None = getattr(thread, name)
        row[name] = None if at is None else format_time(at)
    for name in _JSON:
        value = getattr(thread, name)
        row[name] = None if value is None else encode_json(value).decode()
    git = thread.git_info or GitInfo()
    row |= {column: getattr(git, name) for column, name in _GIT.items()}
    row["memory_mode"] = thread.memory_mode and thread.memory_mode.value
    return row


def from_row(row: sqlite3.Row, rollout_path: Path) -> StoredThread:
    """Return the thread that a row of ``threads`` holds. Rows are ours: they are not validated again."""
    fields: dict[str, Any] = {name: row[name] for name in ("thread_id", *_TEXTS)}
    fields |= {name: row[name] and datetime.fromisoformat(row[name]) for name in _TIMES}
    fields |= {name: None if row[name] is None else json.loads(row[name]) for name in _JSON}
    git = {name: row[column] for column, name in _GIT.items()}
    fields["git_info"] = GitInfo(**git) if any(git.values()) else None
    fields["memory_mode"] = MemoryMode(row["memory_mode"]) if row["memory_mode"] else None
    return StoredThread.model_construct(rollout_path=rollout_path, **fields)
