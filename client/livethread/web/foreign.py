"""Reads fields of payloads that another program wrote: they may have any type."""

from __future__ import annotations

import json
from typing import Any


def dict_of(value: Any) -> dict[str, Any]:
    """Return *value* if it is an object; otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """Return *value* as a list; empty if it is not one."""
    return list(value) if isinstance(value, list | tuple) else []


def text_of(value: Any) -> str:
    """Return *value* as text: a string, the texts of content parts, or JSON."""
    if value is None or value == []:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        return "\n".join(filter(None, map(_part, value)))
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def parsed(value: Any) -> Any:
    """Return the JSON in a string; *value* itself if it is something else."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def seconds_of(value: Any) -> float | None:
    """Return a duration in seconds: a number, or codex's ``{"secs": …, "nanos": …}``."""
    if isinstance(value, dict):
        whole, nanos = value.get("secs"), value.get("nanos")
        return whole + (nanos / 1e9 if type(nanos) is int else 0) if type(whole) is int else None
    return float(value) if type(value) in (int, float) and abs(value) < 1e12 else None  # noqa: PLR2004 - a day is 86,400


def _part(part: dict[str, Any]) -> str:
    text = part.get("text")
    if isinstance(text, str):
        return text
    kind = str(part["type"])
    return "" if "image" in kind or "audio" in kind else json.dumps(part, ensure_ascii=False, default=str)
