"""Converts lines of rollouts from before September 2025, in which today's codex finds no history.

Their first line is a bare ``session_meta``, their items have no ``type`` and ``payload`` around them, half of their
lines are ``{"record_type": "state"}``, and no events accompany the messages.
"""

from __future__ import annotations

from typing import Any, Final

from livethread.rollout.user_message import message_text

#: Kinds of response items that a line may hold.
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

#: Role of a message -> the event that codex writes with it today.
_EVENTS: Final = {"user": "user_message", "assistant": "agent_message"}


def modern_record(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return *record* in today's form, or None if it is not an item or ``session_meta`` in the old form."""
    if "payload" in record or "record_type" in record:
        return None
    kind = record.get("type")
    if isinstance(kind, str) and kind in _KINDS:
        return {"type": "response_item", "payload": record}
    if kind is None and isinstance(record.get("id"), str) and isinstance(record.get("timestamp"), str):
        return {"timestamp": record["timestamp"], "type": "session_meta", "payload": record}
    return None


def event_of_message(payload: Any) -> dict[str, Any] | None:
    """Return the event that codex writes today with a message of a user or the agent; otherwise None."""
    if not isinstance(payload, dict) or payload.get("type") != "message":
        return None
    role = payload.get("role")
    event = _EVENTS.get(role) if isinstance(role, str) else None
    text = message_text(payload.get("content"))
    if event is None or not text or text.startswith("<"):  # context that the harness adds in the user's name
        return None
    return {"type": event, "message": text}
