"""Turns: where they begin, and how they ended.

A turn begins with ``task_started``, or, in rollouts that have none, with a user's message; it reaches to the next
turn. An end that names another turn ends that one: several can be open. ``thread_rolled_back`` takes back the last
turns. These are codex's rules (``thread-store/src/local/list_turns.rs``).
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

#: Events that may change where a thread stands.
_TURNING: Final = _STARTS | _ENDS | {"user_message", "thread_rolled_back"}

#: Errors that concern a request, and not the turn in which it came.
_HARMLESS_ERRORS: Final = frozenset({"thread_rollback_failed", "active_turn_not_steerable"})

#: What an ``item_completed`` of codex's paginated threads holds -> the event that says the same in others.
_COMPLETED_IN_SUMMARY: Final = {"UserMessage": "user_message", "AgentMessage": "agent_message"}


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
class TurnEnd:
    """The turn of this id ends, though it is not the present one, or not known to be."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnsTakenBack:
    """The last *count* turns are taken back."""

    count: int


class TurnPlace(NamedTuple):
    """Where a thread stands between two lines, and in which turn, where that said its id."""

    phase: TurnPhase = TurnPhase.BEFORE
    turn_id: str | None = None


def next_place(
    place: TurnPlace, kind: str | None, payload: dict[str, Any], ordinal: int
) -> tuple[TurnPlace, TurnStart | TurnEnd | TurnsTakenBack | None]:
    """Return the place after an ``event_msg`` of *kind*, and what it does to the turns.

    *ordinal* names a turn that says no id of its own.
    """
    if kind not in _TURNING:  # most events
        return place, None
    named = _named(payload)
    if kind in _STARTS:
        return TurnPlace(TurnPhase.STARTED, named), TurnStart(named or f"turn-{ordinal}")
    if kind == "user_message" and place.phase is not TurnPhase.STARTED:
        return TurnPlace(TurnPhase.IMPLIED), TurnStart(named or f"turn-{ordinal}")
    if kind in _ENDS:
        return _ended(place, named)
    count = payload.get("num_turns") if kind == "thread_rolled_back" else None
    if type(count) is int and count > 0:
        return TurnPlace(TurnPhase.ENDED), TurnsTakenBack(min(count, MAX_TURNS))
    return place, None


def _ended(place: TurnPlace, named: str | None) -> tuple[TurnPlace, TurnEnd | None]:
    if place.phase is not TurnPhase.STARTED:
        return TurnPlace(TurnPhase.ENDED), TurnEnd(named) if named else None
    if named and place.turn_id and named != place.turn_id:
        return place, TurnEnd(named)
    return TurnPlace(TurnPhase.ENDED), None


def named_end(item: RolloutItem) -> str | None:
    """Return the id of the turn that *item* ends; None where it ends none, or does not say which."""
    return _named(item.payload) if item.type == "event_msg" and item.kind in _ENDS else None


def stored_turn(
    turn_id: str,
    items: Sequence[RolloutItem],
    view: StoredTurnItemsView,
    *,
    is_last: bool,
    others: AbstractSet[str] = frozenset(),
    late_end: RolloutItem | None = None,
) -> StoredTurn:
    """Return the turn that *items*, from its first to the last before the next turn, come to.

    An end among them that names one of the *others* is that turn's; *late_end* is its own, behind the next start.
    """
    events = [item for item in items if item.type == "event_msg" and named_end(item) not in others]
    outcome = _outcome(events if late_end is None else [*events, late_end])
    if outcome is None:
        said_when_it_began = bool(items) and items[0].kind in _STARTS
        outcome = _outcome_without_end(said_when_it_began=said_when_it_began, is_last=is_last)
    last = outcome.ended_by or (items[-1] if items else None)
    is_over = outcome.status is not StoredTurnStatus.IN_PROGRESS
    return StoredTurn(
        turn_id=turn_id,
        items=_viewed(items, view),
        items_view=view,
        status=outcome.status,
        error=outcome.error,
        started_at=_time(items[0]) if items else None,
        completed_at=_time(last) if last and is_over else None,
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a turn ended, and the item that says so, where one does."""

    status: StoredTurnStatus
    error: str | None = None
    ended_by: RolloutItem | None = None


def _outcome(events: Sequence[RolloutItem]) -> _Outcome | None:
    """Return how *events* say that the turn ended; what failed or was interrupted stays so when it completes."""
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
    """Return why the turn failed, where *event* says that it did."""
    if event.kind == "error":
        return None if _is_harmless(event.payload.get("codex_error_info")) else str(event.payload.get("message", ""))
    error = event.payload.get("error") if event.kind in _COMPLETIONS else None
    return str(error.get("message") if isinstance(error, dict) else error) if error else None


def _is_harmless(info: Any) -> bool:
    return not _HARMLESS_ERRORS.isdisjoint(info if isinstance(info, dict) else [str(info)])


def _outcome_without_end(*, said_when_it_began: bool, is_last: bool) -> _Outcome:
    """Return how a turn that says no end ended; one that a user's message implies never says one, as in codex."""
    if not said_when_it_began:
        return _Outcome(StoredTurnStatus.COMPLETED)
    return _Outcome(StoredTurnStatus.IN_PROGRESS if is_last else StoredTurnStatus.INTERRUPTED)


def _viewed(items: Sequence[RolloutItem], view: StoredTurnItemsView) -> tuple[RolloutItem, ...]:
    match view:
        case StoredTurnItemsView.NOT_LOADED:
            return ()
        case StoredTurnItemsView.SUMMARY:
            # What the user asked first, and what the agent answered last.
            summary = _first_said(items, "user_message"), _first_said(items[::-1], "agent_message")
            return tuple(item for item in summary if item is not None)
        case StoredTurnItemsView.FULL:
            return tuple(items)


def _first_said(items: Sequence[RolloutItem], kind: str) -> RolloutItem | None:
    """Return the first event of *kind*; where there is none, the first message to or from the model like it."""
    events = (item for item in items if _said_in(item) == kind)
    return next(events, None) or next((item for item in items if _stands_for(item) == kind), None)


def _said_in(item: RolloutItem) -> str | None:
    """Return the kind of message that an event holds, by itself or as a completed item."""
    if item.type != "event_msg" or item.kind != "item_completed":
        return item.kind if item.type == "event_msg" else None
    completed = item.payload.get("item")
    kind = completed.get("type") if isinstance(completed, dict) else None
    return _COMPLETED_IN_SUMMARY.get(kind) if isinstance(kind, str) else None


def _stands_for(item: RolloutItem) -> str | None:
    event = event_of_message(item.payload) if item.type == "response_item" else None
    return event["type"] if event else None


def _named(payload: Any) -> str | None:
    turn_id = payload.get("turn_id") if isinstance(payload, dict) else None
    return turn_id if isinstance(turn_id, str) and turn_id else None


def _time(item: RolloutItem) -> datetime | None:
    return parse_time(item.timestamp)
