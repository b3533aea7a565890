"""Rollouts from before September 2025, read as those since: what today's codex finds empty has a history again.

Their first line is a bare ``session_meta``, their items stand without ``type`` and ``payload`` around them, half of
their lines are ``{"record_type": "state"}``, and nothing but messages says what was said.
"""

from __future__ import annotations

from typing import Any, Final

#: What a line held then: the kinds of response items.
_KINDS: Final = frozenset({
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "local_shell_call",
    "web_search_call",
})

#: Role of a message -> the event that says the same today.
_EVENTS: Final = {"user": "user_message", "assistant": "agent_message"}


def modern_record(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return an old line's *record* in today's form; None where it is no line of an old rollout, or holds no item."""
    if "payload" in record or "record_type" in record:
        return None
    kind = record.get("type")
    if isinstance(kind, str) and kind in _KINDS:
        return {"type": "response_item", "payload": record}
    if kind is None and isinstance(record.get("id"), str) and isinstance(record.get("timestamp"), str):
        return {"timestamp": record["timestamp"], "type": "session_meta", "payload": record}
    return None


def event_of_message(payload: Any) -> dict[str, Any] | None:
    """Return the event that codex would write today beside a message; None for all but a person's and the agent's."""
    if not isinstance(payload, dict) or payload.get("type") != "message":
        return None
    role = payload.get("role")
    event = _EVENTS.get(role) if isinstance(role, str) else None
    text = message_text(payload.get("content"))
    if event is None or not text or text.startswith("<"):  # what the harness tells the model in the user's name
        return None
    return {"type": event, "message": text}


def message_text(content: Any) -> str:
    """Return the text of a message's *content* parts."""
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, dict) and part.get("text"))
