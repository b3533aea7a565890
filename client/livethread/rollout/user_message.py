"""User messages, in each form that a rollout may hold."""

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
    item = event.get("item")
    if not isinstance(item, dict) or item.get("type") != "UserMessage":
        return None
    content = item.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list | tuple) else []
    texts = (part.get("text") for part in parts)
    return {
        "message": "".join(text for text in texts if isinstance(text, str)),
        "images": [part for part in parts if part.get("type") in ("image", "local_image")],
        "audio": [part for part in parts if part.get("type") in ("audio", "local_audio")],
    }
