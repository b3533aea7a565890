"""Turns: where they begin, and how they ended.

A turn begins with ``task_started``, or, in rollouts that have none, with a user's message; it reaches to the next
turn. ``thread_rolled_back`` takes back the last turns (codex's ``thread_history.rs``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from livethread.model import parse_time
from livethread.old_rollout import event_of_message
from livethread.types import StoredTurn, StoredTurnItemsView, StoredTurnStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from livethread.rollout_item import RolloutItem

_STARTS: Final = frozenset({"task_started", "turn_started"})
_COMPLETIONS: Final = frozenset({"task_complete", "turn_complete"})

#: More turns than any thread has.
MAX_TURNS: Final = 2**31

#: What a summary shows of a turn: what the user asked, and what the agent answered.
_SUMMARY: Final = frozenset({"user_message", "agent_message"})

#: The same in a paginated thread of codex: kinds of item that an ``item_completed`` holds.
_COMPLETED_IN_SUMMARY: Final = ("UserMessage", "AgentMessage")


class TurnPhase(StrEnum):
    """Where a thread stands between two lines."""

    #: Before the first turn.
    BEFORE = "before"
    #: In a turn that said when it began.
    STARTED = "started"
    #: In a turn that began with a user's message.
    IMPLIED = "implied"
    #: After a turn that said when it ended.
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class TurnStart:
    """A turn begins."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnsTakenBack:
    """The last *count* turns are taken back."""

    count: int


def next_phase(
    phase: TurnPhase, kind: str | None, payload: dict[str, Any], ordinal: int
) -> tuple[TurnPhase, TurnStart | TurnsTakenBack | None]:
    """Return the phase after an ``event_msg`` of *kind*, and what it does to the turns.

    *ordinal* names a turn that says no id of its own.
    """
    if kind in _STARTS:
        return TurnPhase.STARTED, TurnStart(_turn_id(payload, ordinal))
    if kind == "user_message" and phase is not TurnPhase.STARTED:
        return TurnPhase.IMPLIED, TurnStart(_turn_id(payload, ordinal))
    if kind in _COMPLETIONS or kind == "turn_aborted":
        return TurnPhase.ENDED, None
    count = payload.get("num_turns") if kind == "thread_rolled_back" else None
    if type(count) is int and count > 0:
        return phase, TurnsTakenBack(min(count, MAX_TURNS))
    return phase, None


def stored_turn(
    turn_id: str, items: Sequence[RolloutItem], view: StoredTurnItemsView, *, is_last: bool
) -> StoredTurn:
    """Return the turn that *items*, from its first to the last before the next turn, come to."""
    status, error = _outcome(items, is_last=is_last)
    ended = status in {StoredTurnStatus.COMPLETED, StoredTurnStatus.INTERRUPTED, StoredTurnStatus.FAILED}
    return StoredTurn(
        turn_id=turn_id,
        items=_viewed(items, view),
        items_view=view,
        status=status,
        error=error,
        started_at=_time(items[0]) if items else None,
        completed_at=_time(items[-1]) if items and ended else None,
    )


def _outcome(items: Sequence[RolloutItem], *, is_last: bool) -> tuple[StoredTurnStatus, str | None]:
    for item in reversed(items):
        if item.type != "event_msg":
            continue
        if item.kind == "turn_aborted":
            return StoredTurnStatus.INTERRUPTED, None
        if item.kind == "error":
            return StoredTurnStatus.FAILED, str(item.payload.get("message", ""))
        if item.kind in _COMPLETIONS:
            error = item.payload.get("error")
            message = error.get("message") if isinstance(error, dict) else error
            return (StoredTurnStatus.FAILED, str(message)) if error else (StoredTurnStatus.COMPLETED, None)
    said_when_it_began = bool(items) and items[0].kind in _STARTS
    if is_last:
        return StoredTurnStatus.IN_PROGRESS, None
    return (StoredTurnStatus.INTERRUPTED if said_when_it_began else StoredTurnStatus.COMPLETED), None


def _viewed(items: Sequence[RolloutItem], view: StoredTurnItemsView) -> tuple[RolloutItem, ...]:
    match view:
        case StoredTurnItemsView.NOT_LOADED:
            return ()
        case StoredTurnItemsView.SUMMARY:
            said = tuple(filter(_is_said_event, items))
            return said or tuple(item for item in items if item.type == "response_item" and _is_said(item.payload))
        case StoredTurnItemsView.FULL:
            return tuple(items)


def _is_said(payload: dict[str, Any]) -> bool:
    """Whether a response item is a message of a person or the agent; rollouts without events have nothing else."""
    return event_of_message(payload) is not None


def _is_said_event(item: RolloutItem) -> bool:
    if item.type != "event_msg":
        return False
    if item.kind != "item_completed":
        return item.kind in _SUMMARY
    completed = item.payload.get("item")
    return isinstance(completed, dict) and completed.get("type") in _COMPLETED_IN_SUMMARY


def _turn_id(payload: dict[str, Any], ordinal: int) -> str:
    turn_id = payload.get("turn_id")
    return turn_id if isinstance(turn_id, str) and turn_id else f"turn-{ordinal}"


def _time(item: RolloutItem) -> datetime | None:
    return parse_time(item.timestamp)
