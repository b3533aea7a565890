"""The first line of a rollout: ``session_meta``, as codex writes it."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from livethread.metadata import GitInfo, MemoryMode, StoredThread
from livethread.metadata_sync import thread_of_meta
from livethread.model import ANY_TIME_SCHEMA, format_time
from livethread.thread_id import CANONICAL_ID_SCHEMA
from livethread.types import CreateThreadParams

_STRING: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}

#: JSON schema of a ``session_meta``'s payload: the fields that codex reads. Any others are allowed.
SESSION_META_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "timestamp", "cwd", "originator", "cli_version"],
    "properties": {
        "id": CANONICAL_ID_SCHEMA,
        "timestamp": ANY_TIME_SCHEMA,
        **dict.fromkeys(("cwd", "originator", "cli_version", "model_provider"), _STRING),
        **dict.fromkeys(("session_id", "forked_from_id", "parent_thread_id"), CANONICAL_ID_SCHEMA),
        "source": {"anyOf": [_STRING, {"type": "object", "minProperties": 1, "maxProperties": 1}]},
        "thread_source": _STRING,
        **dict.fromkeys(("agent_nickname", "agent_role", "agent_path", "multi_agent_version"), _STRING),
        "base_instructions": {"type": "object", "required": ["text"], "properties": {"text": _STRING}},
        "dynamic_tools": {"type": ["array", "object"]},
        "memory_mode": {"enum": ["enabled", "disabled"]},
        "history_mode": _STRING,
        "history_base": {
            "type": "object",
            "required": ["thread_id", "end_ordinal_exclusive", "end_byte_offset"],
            "properties": {
                "thread_id": CANONICAL_ID_SCHEMA,
                "end_ordinal_exclusive": _COUNT,
                "end_byte_offset": _COUNT,
            },
        },
        "git": {
            "type": "object",
            "properties": dict.fromkeys(("commit_hash", "branch", "repository_url"), _STRING),
        },
    },
}


@cache  # looking it up reads the distribution's files
def own_version() -> str:
    """Return the version of this package."""
    return version("livethread")


def session_meta(params: CreateThreadParams) -> dict[str, Any]:
    """Return the payload of a new thread's ``session_meta``."""
    base = params.history_base
    meta: dict[str, Any] = {
        "id": params.thread_id,
        "session_id": params.session_id or params.thread_id,
        "forked_from_id": params.forked_from_id,
        "forked_from_ordinal_exclusive": base and base.end_ordinal_exclusive,
        "attached_thread": params.attached_thread or None,
        "parent_thread_id": params.parent_thread_id,
        "timestamp": format_time(params.created_at),
        "cwd": params.cwd or "",
        "originator": params.originator,
        "cli_version": params.cli_version or own_version(),
        "source": params.source,
        "thread_source": params.thread_source,
        "agent_nickname": params.agent_nickname,
        "agent_role": params.agent_role,
        "agent_path": params.agent_path,
        "model_provider": params.model_provider,
        "base_instructions": None if params.base_instructions is None else {"text": params.base_instructions},
        "dynamic_tools": list(params.dynamic_tools) or None,
        "memory_mode": params.memory_mode and params.memory_mode.value,
        "multi_agent_version": params.multi_agent_version,
        "history_mode": params.history_mode,
        "history_base": base and base.model_dump(),
        "git": params.git and params.git.model_dump(exclude_none=True),
    }
    return {key: value for key, value in meta.items() if value is not None}


def minimal_meta(thread_id: str) -> dict[str, Any]:
    """Return a ``session_meta`` with the fields that codex requires, for a thread about which nothing but its id is known."""
    return {"id": thread_id, "originator": "", "cwd": "", "cli_version": ""}


def with_present_values(meta: dict[str, Any], thread: StoredThread, *, says_git: bool = False) -> dict[str, Any]:
    """Return a complete copy of *meta*, with *thread*'s values where they differ.

    codex takes every field from the thread's last ``session_meta``, so a copy that changes one field must repeat all
    others, including those that it requires, and those that we do not know or read differently. Only ``git`` and
    ``memory_mode`` keep their values if absent; a cleared git is therefore written as an empty object. *says_git*: write
    a git object even if *meta* has none.
    """
    described, copy = thread_of_meta(thread.thread_id, meta, thread.created_at), dict(meta)
    for key, field in _FIELDS.items():
        value = getattr(thread, field)
        if value == getattr(described, field) and (key in meta or key not in SESSION_META_SCHEMA["required"]):
            continue
        for name in (key, *_ALIASES.get(key, ())):
            copy.pop(name, None)
        if value is not None:
            copy[key] = _json_value(value)
    if thread.git_info != described.git_info or (says_git and "git" not in meta):
        known = thread.git_info.model_dump(exclude_none=True) if thread.git_info else {}
        written = meta.get("git")
        git = written if isinstance(written, dict) else {}
        copy["git"] = {name: value for name, value in git.items() if name not in GitInfo.model_fields} | known
    return copy


#: Key of a ``session_meta`` -> the field of a thread that it sets, except git.
_FIELDS: Final = {
    "timestamp": "created_at",
    **{
        field: field
        for field in (
            *("history_mode", "cwd", "source", "model_provider", "cli_version", "thread_source"),
            *("agent_nickname", "agent_role", "agent_path", "memory_mode"),
        )
    },
}

#: Other names of a key.
_ALIASES: Final = {"agent_role": ("agent_type",)}


def _json_value(value: Any) -> Any:
    match value:
        case datetime():
            return format_time(value)
        case MemoryMode():
            return value.value
        case _:
            return value
