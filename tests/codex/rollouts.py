"""Rollouts as codex writes them, made line by line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AT = "2026-06-01T10:00:00.000Z"


def thread_id_of(n: int) -> str:
    """Return the *n*-th thread id."""
    return f"01a20000-0000-7000-8000-{n:012d}"


def event(kind: str, **payload: Any) -> dict[str, Any]:
    return {"type": "event_msg", "payload": {"type": kind, **payload}}


@dataclass(frozen=True)
class MetaLine:
    """The first line of a thread. None for a key leaves it out."""

    thread_id: str
    changes: dict[str, Any] = field(default_factory=dict)

    def line(self, **later: Any) -> dict[str, Any]:
        """Return it, or a later copy with other values."""
        usual = {
            "cwd": "/repo",
            "originator": "tests",
            "cli_version": "1",
            "source": "cli",
            "model_provider": "openai",
        }
        payload = {"id": self.thread_id, "timestamp": AT, **usual, **self.changes, **later}
        return {"type": "session_meta", "payload": {key: each for key, each in payload.items() if each is not None}}


def write_rollout(home: Path, meta: MetaLine, *items: dict[str, Any]) -> Path:
    """Write a rollout with *items* and return its path."""
    folder = home / "sessions" / "2026" / "06" / "01"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rollout-2026-06-01T10-00-00-{meta.thread_id}.jsonl"
    is_paginated = meta.changes.get("history_mode") == "paginated"
    with path.open("w", encoding="utf-8") as file:
        for n, item in enumerate((meta.line(), *items)):
            number = {"ordinal": n} if is_paginated else {}
            line = {"timestamp": AT, **number, "type": item["type"], "payload": item["payload"]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path
