"""Where a session runs, as codex reads it from a ``session_meta``."""

from __future__ import annotations

from typing import Any, Final

#: Names that codex knows; it shows any other as ``unknown``.
_NAMES: Final = frozenset({"cli", "vscode", "exec", "mcp", "unknown"})
UNKNOWN: Final = "unknown"


def known_source(source: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return *source* as codex shows it."""
    return UNKNOWN if isinstance(source, str) and source not in _NAMES else source


def spawn_fields(source: Any) -> dict[str, Any]:
    """Return the parent, nickname, role and path in the *source* of a spawned sub-agent."""
    kind = source.get("subagent") if isinstance(source, dict) else None
    spawn = kind.get("thread_spawn") if isinstance(kind, dict) else None
    if not isinstance(spawn, dict):
        return {}
    fields = {
        "parent_thread_id": spawn.get("parent_thread_id"),
        "agent_nickname": spawn.get("agent_nickname"),
        "agent_role": agent_role(spawn),
        "agent_path": spawn.get("agent_path"),
    }
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def agent_role(meta: dict[str, Any]) -> str | None:
    """Return the role in a ``session_meta`` or a spawn; older codex called it ``agent_type``."""
    role = meta.get("agent_role", meta.get("agent_type"))
    return role if isinstance(role, str) else None
