"""Messages of users and agents, in each form that a rollout may hold."""

from __future__ import annotations

from typing import Any, Final

#: Editors put their context before this marker and the user's words after it.
REQUEST_MARKER: Final = "## My request for Codex:"


def user_request(message: str) -> str:
    """Return the user's own words, trimmed: the text after the editor's marker, or all of it."""
    _, marker, request = message.partition(REQUEST_MARKER)
    return (request if marker else message).strip()


def content_parts(content: Any) -> list[dict[str, Any]]:
    """Return the parts of a message's *content*; a string, which the Responses API allows, is one part."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list | tuple) else []


def message_text(content: Any) -> str:
    """Return the text of a message's *content*."""
    return "\n".join(str(part["text"]) for part in content_parts(content) if part.get("text"))


#: Kind of item in an ``item_completed`` event -> its message's role.
_ROLES: Final = {"UserMessage": "user", "AgentMessage": "assistant"}


def completed_message(event: dict[str, Any]) -> tuple[str, str] | None:
    """Return role and text of the message in an ``item_completed`` event; None for other items.

    codex's paginated threads have ``item_completed`` events instead of ``user_message`` and ``agent_message``.
    """
    item = event.get("item")
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(kind, str) or kind not in _ROLES:
        return None
    texts = (part.get("text") for part in content_parts(event["item"].get("content")))
    return _ROLES[kind], "".join(text for text in texts if isinstance(text, str))


def completed_user_message(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the user message in an ``item_completed`` event as a ``user_message``; None for other items.

    codex reads no message whose content is a string there, so it states no facts.
    """
    match completed_message(event):
        case "user", text if not isinstance(content := event["item"].get("content"), str):
            parts = content_parts(content)
            return {
                "message": text,
                "images": [part for part in parts if part.get("type") in ("image", "local_image")],
                "audio": [part for part in parts if part.get("type") in ("audio", "local_audio")],
            }
        case _:
            return None
