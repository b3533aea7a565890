"""Turns: where they begin, and how they end.

A turn begins with ``task_started`` or, in rollouts without it, with a user's message, and extends to the next turn.
Several turns can be open, so an end event may name an earlier one. ``thread_rolled_back`` removes the last turns. The
rules are codex's (``thread-store/src/local/list_turns.rs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from livethread.model import parse_time
from livethread.rollout.item import RolloutItem
from livethread.rollout.old_forms import event_of_message
from livethread.types import StoredTurn, StoredTurnItemsView, StoredTurnStatus

_STARTS: Final = frozenset({"task_started", "turn_started"})
_COMPLETIONS: Final = frozenset({"task_complete", "turn_complete"})

#: More turns than any thread has.
MAX_TURNS: Final = 2**31

_ENDS: Final = _COMPLETIONS | {"turn_aborted"}

#: Events that may change the turns.
_TURN_EVENTS: Final = _STARTS | _ENDS | {"user_message", "thread_rolled_back"}

#: Errors that reject a request but do not fail the turn.
_HARMLESS_ERRORS: Final = frozenset({"thread_rollback_failed", "active_turn_not_steerable"})

#: Kind of item in an ``item_completed`` of codex's paginated threads -> the equivalent event of other threads.
_COMPLETED_MESSAGES: Final = {"UserMessage": "user_message", "AgentMessage": "agent_message"}


class TurnPhase(StrEnum):
    """State of a thread's turns between two lines."""

    #: Before the first turn.
    BEFORE = "before"
    #: In a turn that began with a start event.
    STARTED = "started"
    #: In a turn that began with a user's message.
    IMPLIED = "implied"
    #: After an end event or a rollback.
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class TurnStart:
    """A turn begins."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A turn ends that is not, or may not be, the current one."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnsRolledBack:
    """The last *count* turns are removed."""

    count: int


class TurnPlace(NamedTuple):
    """The turn phase between two lines, and the current turn's id if its start event named one."""

    phase: TurnPhase = TurnPhase.BEFORE
    turn_id: str | None = None


def next_place(
    place: TurnPlace, kind: str | None, payload: dict[str, Any], ordinal: int
) -> tuple[TurnPlace, TurnStart | TurnEnd | TurnsRolledBack | None]:
    """Return the place after an ``event_msg`` of *kind*, and how the event changes the turns.

    *ordinal* names a turn that begins without an id.
    """
    if kind not in _TURN_EVENTS:  # most events
        return place, None
    turn_id = _turn_id(payload)
    if kind in _STARTS:
        return TurnPlace(TurnPhase.STARTED, turn_id), TurnStart(turn_id or f"turn-{ordinal}")
    if kind == "user_message" and place.phase is not TurnPhase.STARTED:
        return TurnPlace(TurnPhase.IMPLIED), TurnStart(turn_id or f"turn-{ordinal}")
    if kind in _ENDS:
        return _ended(place, turn_id)
    count = payload.get("num_turns") if kind == "thread_rolled_back" else None
    if type(count) is int and count > 0:
        return TurnPlace(TurnPhase.ENDED), TurnsRolledBack(min(count, MAX_TURNS))
    return place, None


def _ended(place: TurnPlace, turn_id: str | None) -> tuple[TurnPlace, TurnEnd | None]:
    if place.phase is not TurnPhase.STARTED:
        return TurnPlace(TurnPhase.ENDED), TurnEnd(turn_id) if turn_id else None
    if turn_id and place.turn_id and turn_id != place.turn_id:
        return place, TurnEnd(turn_id)
    return TurnPlace(TurnPhase.ENDED), None


def named_end(item: RolloutItem) -> str | None:
    """Return the turn id that *item* names if it is an end event; otherwise None."""
    return _turn_id(item.payload) if item.type == "event_msg" and item.kind in _ENDS else None


def stored_turn(
    turn_id: str,
    items: Sequence[RolloutItem],
    view: StoredTurnItemsView,
    *,
    is_last: bool,
    others: AbstractSet[str] = frozenset(),
    late_end: RolloutItem | None = None,
) -> StoredTurn:
    """Return the turn that consists of *items*: from its first item to the last before the next turn.

    *others*: turns whose end events may be among *items*. *late_end*: this turn's end event, if it comes after the
    next turn's start.
    """
    events = [item for item in items if item.type == "event_msg" and named_end(item) not in others]
    outcome = _outcome(events if late_end is None else [*events, late_end])
    if outcome is None:
        outcome = _outcome_without_end(has_start=bool(items) and items[0].kind in _STARTS, is_last=is_last)
    last = outcome.ended_by or (items[-1] if items else None)
    is_over = outcome.status is not StoredTurnStatus.IN_PROGRESS
    return StoredTurn(
        turn_id=turn_id,
        items=_items_in_view(items, view),
        items_view=view,
        status=outcome.status,
        error=outcome.error,
        started_at=_time(items[0]) if items else None,
        completed_at=_time(last) if last and is_over else None,
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a turn ended, and the event that ended it, if any."""

    status: StoredTurnStatus
    error: str | None = None
    ended_by: RolloutItem | None = None


def _outcome(events: Sequence[RolloutItem]) -> _Outcome | None:
    """Return how *events* ended the turn, or None; completion keeps an earlier failure or interruption."""
    outcome: _Outcome | None = None
    for event in events:
        error = _error(event)
        if error is not None:
            outcome = _Outcome(StoredTurnStatus.FAILED, error, event)
        elif event.kind == "turn_aborted":
            outcome = _Outcome(StoredTurnStatus.INTERRUPTED, None, event)
        elif event.kind in _ENDS:
            outcome = replace(outcome or _Outcome(StoredTurnStatus.COMPLETED), ended_by=event)
    return outcome


def _error(event: RolloutItem) -> str | None:
    """Return why *event* failed the turn, or None if it did not."""
    if event.kind == "error":
        return None if _is_harmless(event.payload.get("codex_error_info")) else str(event.payload.get("message", ""))
    error = event.payload.get("error") if event.kind in _COMPLETIONS else None
    return str(error.get("message") if isinstance(error, dict) else error) if error else None


def _is_harmless(info: Any) -> bool:
    return not _HARMLESS_ERRORS.isdisjoint(info if isinstance(info, dict) else [str(info)])


def _outcome_without_end(*, has_start: bool, is_last: bool) -> _Outcome:
    """Return the outcome of a turn without an end event. As in codex, one without a start counts as completed."""
    if not has_start:
        return _Outcome(StoredTurnStatus.COMPLETED)
    return _Outcome(StoredTurnStatus.IN_PROGRESS if is_last else StoredTurnStatus.INTERRUPTED)


def _items_in_view(items: Sequence[RolloutItem], view: StoredTurnItemsView) -> tuple[RolloutItem, ...]:
    match view:
        case StoredTurnItemsView.NOT_LOADED:
            return ()
        case StoredTurnItemsView.SUMMARY:
            messages = _first_message(items, "user_message"), _first_message(items[::-1], "agent_message")
            return tuple(item for item in messages if item is not None)
        case StoredTurnItemsView.FULL:
            return tuple(items)


def _first_message(items: Sequence[RolloutItem], kind: str) -> RolloutItem | None:
    """Return the first event of *kind* or, without one, the first response item that is equivalent to it."""
    events = (item for item in items if _message_kind(item) == kind)
    return next(events, None) or next((item for item in items if _equivalent_event(item) == kind), None)


def _message_kind(item: RolloutItem) -> str | None:
    """Return an event's kind, or the kind of message that it holds as a completed item."""
    if item.type != "event_msg" or item.kind != "item_completed":
        return item.kind if item.type == "event_msg" else None
    completed = item.payload.get("item")
    kind = completed.get("type") if isinstance(completed, dict) else None
    return _COMPLETED_MESSAGES.get(kind) if isinstance(kind, str) else None


def _equivalent_event(item: RolloutItem) -> str | None:
    event = event_of_message(item.payload) if item.type == "response_item" else None
    return event["type"] if event else None


def _turn_id(payload: Any) -> str | None:
    turn_id = payload.get("turn_id") if isinstance(payload, dict) else None
    return turn_id if isinstance(turn_id, str) and turn_id else None


def _time(item: RolloutItem) -> datetime | None:
    return parse_time(item.timestamp)
