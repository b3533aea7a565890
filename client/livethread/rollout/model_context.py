"""Finds the items of the latest model context by codex's rule (``thread-store/src/local/model_context.rs``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from livethread.model import Result
from livethread.rollout.user_message import completed_user_message


class ContextStart(Result):
    """Where in a thread's rollout its latest model context starts."""

    #: Offset of the first line that is needed besides the ``session_meta``; None if the whole history is needed.
    start: int | None


@dataclass(slots=True)
class _Scan:
    """What the lines read so far have shown; they are read backwards."""

    #: Whether a compaction holds the history before it.
    has_history: bool = False
    #: Whether a whole turn holds the settings.
    has_settings: bool = False
    #: Whether a line changes what is before it.
    needs_all: bool = False
    #: What was read of the current turn: its id, and whether it has a user's message and a ``turn_context``.
    turn_id: str | None = None
    has_message: bool = False
    has_context: bool = False

    def take_event(self, event: Any, payload: dict[str, Any], turn_id: str | None) -> None:
        """Add an ``event_msg``."""
        match event:
            case "thread_rolled_back":
                self.needs_all = True
            case "task_complete" | "turn_complete" | "turn_aborted":
                self.turn_id = self.turn_id or turn_id
            case "task_started" | "turn_started" if self._is_of_turn(turn_id):
                self.has_settings = self.has_settings or (self.has_message and self.has_context)
                self.turn_id, self.has_message, self.has_context = None, False, False
            case "user_message":
                self.has_message = True
            case "item_completed" if completed_user_message(payload) is not None:
                self.has_message = True

    def take_other(self, kind: str, payload: dict[str, Any], turn_id: str | None) -> None:
        """Add a line of another type."""
        match kind:
            case "compacted":
                is_whole = (
                    isinstance(payload.get("replacement_history"), list) and payload.get("window_number") is not None
                )
                self.has_history, self.needs_all = is_whole, not is_whole
            case "turn_context":
                self.turn_id = self.turn_id or turn_id
                self.has_context = self.has_context or self._is_of_turn(turn_id)
            case "inter_agent_communication":
                self.has_message = True

    def _is_of_turn(self, turn_id: str | None) -> bool:
        return self.turn_id is None or turn_id is None or self.turn_id == turn_id


def context_start(lines: Iterable[tuple[int, str, Any]]) -> int | None:
    """Return the place of the first line that is needed, or None if every line is.

    *lines* are places, types and payloads, the last line first; no more are read than needed. A compaction with a
    ``replacement_history`` and a ``window_number`` replaces the history before it. A whole turn with a user's message and
    a ``turn_context`` supplies the settings. A rollback, or any other compaction, changes earlier lines, so every line is
    needed.
    """
    scan = _Scan()
    for place, kind, payload in lines:
        if not isinstance(payload, dict):
            continue
        turn_id = payload.get("turn_id")
        turn_id = turn_id if isinstance(turn_id, str) else None
        if kind == "event_msg":
            scan.take_event(payload.get("type"), payload, turn_id)
        else:
            scan.take_other(kind, payload, turn_id)
        if scan.needs_all:
            return None
        if scan.has_history and scan.has_settings:
            return place
    return None
