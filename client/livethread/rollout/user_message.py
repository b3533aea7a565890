"""Messages of users and agents, in each form that a rollout may hold."""

from __future__ import annotations

from typing import Any, Final

#: Editors put their context before this marker and the user's words after it.
REQUEST_MARKER: Final = "## My request for Codex:"


def user_request(message: str) -> str:
    """Return the user's own words, trimmed: the text after the editor's marker, or all of it."""
    _, marker, request = message.partition(REQUEST_MARKER)
    return (request if marker else message).strip()


def completed_user_message(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the user message in an ``item_completed`` event as a ``user_message``; None for other items.

    codex's paginated threads have ``item_completed`` events instead of ``user_message``.
    """
    parts = _parts(event, "UserMessage")
    if parts is None:
        return None
    return {
        "message": _text(parts),
        "images": [part for part in parts if part.get("type") in ("image", "local_image")],
    }


def completed_agent_message(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the agent's message in an ``item_completed`` event as an ``agent_message``; None for other items."""
    parts = _parts(event, "AgentMessage")
    return None if parts is None else {"message": _text(parts)}


def _parts(event: dict[str, Any], kind: str) -> list[dict[str, Any]] | None:
    """Return the content of the item in an ``item_completed`` event if it is of this *kind*."""
    item = event.get("item")
    if not isinstance(item, dict) or item.get("type") != kind:
        return None
    content = item.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list | tuple) else []


def _text(parts: list[dict[str, Any]]) -> str:
    texts = (part.get("text") for part in parts)
    return "".join(text for text in texts if isinstance(text, str))
