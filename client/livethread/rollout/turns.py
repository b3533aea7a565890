"""Turns: where they begin, and how they end.

A turn begins with ``task_started``. Without one, the first thing that codex shows begins a turn: a user's message, an
answer, a tool call or a compaction; so does each later user's message. A turn extends to the next one. Several turns can
be open, so an end event may name an earlier one. ``thread_rolled_back`` removes the last turns. The rules are codex's
(``app-server-protocol/src/protocol/thread_history.rs``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from livethread.model import parse_time
from livethread.rollout.item import RolloutItem
from livethread.rollout.old_forms import event_of_message
from livethread.rollout.user_message import message_text
from livethread.types import StoredTurn, StoredTurnError, StoredTurnItemsView, StoredTurnStatus

_STARTS: Final = frozenset({"task_started", "turn_started"})
_COMPLETIONS: Final = frozenset({"task_complete", "turn_complete"})

#: More turns than any thread has.
MAX_TURNS: Final = 2**31

_ENDS: Final = _COMPLETIONS | {"turn_aborted"}

#: Events that may change the turns, also within one.
_TURN_EVENTS: Final = _STARTS | _ENDS | {"user_message", "thread_rolled_back"}

#: Events that codex shows -> the field that must not be empty, if any.
_SHOWN_EVENTS: Final = {
    "agent_message": "message",
    "agent_reasoning": "text",
    "agent_reasoning_raw_content": "text",
    "context_compacted": None,
    "entered_review_mode": None,
    "exited_review_mode": None,
    "image_generation_end": None,
    "mcp_tool_call_end": None,
    "sub_agent_activity": None,
    "web_search_end": None,
}

#: Prefix of a user's message that a hook added; codex shows it.
_HOOK_PROMPT: Final = "<hook_prompt "

#: Errors that reject a request but do not fail the turn.
_HARMLESS_ERRORS: Final = frozenset({"thread_rollback_failed", "active_turn_not_steerable"})

#: Kind of item in an ``item_completed`` of codex's paginated threads -> the equivalent event of other threads.
_COMPLETED_MESSAGES: Final = {"UserMessage": "user_message", "AgentMessage": "agent_message"}


class TurnPhase(StrEnum):
    """State of a thread's turns between two lines."""

    #: In no turn.
    BETWEEN = "between"
    #: In a turn that began with a start event.
    STARTED = "started"
    #: In a turn that began without one.
    IMPLIED = "implied"
    #: In a turn that began with a compaction, and has nothing else yet.
    COMPACTED = "compacted"


@dataclass(frozen=True, slots=True)
class TurnStart:
    """A turn begins."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A turn other than the current one ends."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class TurnsRolledBack:
    """The last *count* turns are removed."""

    count: int


TurnChange = TurnStart | TurnEnd | TurnsRolledBack


class TurnPlace(NamedTuple):
    """The turn phase between two lines, and the current turn's id if its start event named one."""

    phase: TurnPhase = TurnPhase.BETWEEN
    turn_id: str | None = None


def next_place(
    place: TurnPlace, line_type: str, payload: Any, ordinal: int, is_turn: Callable[[str], bool]
) -> tuple[TurnPlace, TurnChange | None]:
    """Return the place after a line, and how the line changes the turns.

    *ordinal* names a turn that begins without an id. *is_turn* returns whether an id names an earlier turn that was not
    rolled back.
    """
    kind = payload.get("type") if isinstance(payload, dict) else None
    if not isinstance(kind, str):
        kind = ""
    if line_type == "event_msg" and kind in _TURN_EVENTS:
        return _after_turn_event(place, kind, payload, ordinal, is_turn)
    if place.phase in (TurnPhase.STARTED, TurnPhase.IMPLIED):  # most lines
        return place, None
    if line_type == "compacted":
        phase = TurnPhase.COMPACTED
    elif _is_shown(line_type, kind, payload):
        phase = TurnPhase.IMPLIED
    else:
        return place, None
    return TurnPlace(phase), TurnStart(f"turn-{ordinal}") if place.phase is TurnPhase.BETWEEN else None


def _after_turn_event(
    place: TurnPlace, kind: str, payload: dict[str, Any], ordinal: int, is_turn: Callable[[str], bool]
) -> tuple[TurnPlace, TurnChange | None]:
    turn_id = _turn_id(payload)
    if kind in _STARTS:
        return TurnPlace(TurnPhase.STARTED, turn_id), TurnStart(turn_id or f"turn-{ordinal}")
    if kind in _ENDS:
        return _after_end(place, kind, turn_id, is_turn)
    if kind == "user_message":
        if place.phase is TurnPhase.STARTED:
            return place, None
        begins = place.phase is not TurnPhase.COMPACTED
        return TurnPlace(TurnPhase.IMPLIED), TurnStart(turn_id or f"turn-{ordinal}") if begins else None
    count = payload.get("num_turns")
    if type(count) is int and count > 0:
        return TurnPlace(), TurnsRolledBack(min(count, MAX_TURNS))
    return place, None


def _after_end(
    place: TurnPlace, kind: str, turn_id: str | None, is_turn: Callable[[str], bool]
) -> tuple[TurnPlace, TurnEnd | None]:
    is_started = place.phase is TurnPhase.STARTED
    if turn_id is None or (is_started and place.turn_id in (turn_id, None)):
        return TurnPlace(), None
    if is_turn(turn_id):
        return place, TurnEnd(turn_id)
    # The id is unknown, so the event ends the current turn; but in codex, an abort does not end a started turn then.
    return (place if is_started and kind == "turn_aborted" else TurnPlace()), None


def _is_shown(line_type: str, kind: str, payload: Any) -> bool:
    """Return whether codex shows the line, so that it begins a turn."""
    if line_type == "event_msg":
        if kind == "patch_apply_end":  # one that names a turn belongs to that one
            return not payload.get("turn_id")
        return kind in _SHOWN_EVENTS and bool((needed := _SHOWN_EVENTS[kind]) is None or payload.get(needed))
    if line_type == "response_item" and kind == "message" and payload.get("role") == "user":
        return message_text(payload.get("content")).startswith(_HOOK_PROMPT)
    return False


def kept_turns(turn_ids: Iterable[str], changes: Iterable[TurnChange]) -> list[str]:
    """Return the ids of the turns that remain of *turn_ids* after *changes*."""
    kept = list(turn_ids)
    for change in changes:
        match change:
            case TurnStart(turn_id):
                kept.append(turn_id)
            case TurnsRolledBack(count):
                del kept[max(0, len(kept) - count) :]
    return kept


def named_end(item: RolloutItem) -> str | None:
    """Return the turn id that *item* names if it is an end event; otherwise None."""
    return _turn_id(item.payload) if item.type == "event_msg" and item.kind in _ENDS else None


def ends_turn(item: RolloutItem, turn_id: str) -> bool:
    """Whether *item*, one of the turn's own, is an event that ends the turn."""
    return item.type == "event_msg" and item.kind in _ENDS and _turn_id(item.payload) in (None, turn_id)


def stored_turn(
    turn_id: str,
    items: Sequence[RolloutItem],
    view: StoredTurnItemsView,
    *,
    may_go_on: bool,
    others: AbstractSet[str] = frozenset(),
    late_end: RolloutItem | None = None,
) -> StoredTurn:
    """Return the turn that consists of *items*: from its first item to the last before the next turn.

    *may_go_on*: it is the last one, and a process has the thread open. *others*: ids of earlier turns whose end events may
    be among *items*; it has *turn_id* if an earlier turn has the same id. *late_end*: this turn's end event, if it comes after the next turn's start.
    """
    has_start = bool(items) and items[0].kind in _STARTS
    has_own_id = has_start and _turn_id(items[0].payload) is not None
    if has_start and not has_own_id:  # the first end event is its own, whatever it names
        others = frozenset()
    is_repeated = turn_id in others
    others -= {turn_id}
    events = [item for item in items if item.type == "event_msg" and named_end(item) not in others]
    if late_end is not None:
        events.append(late_end)
    outcome = _outcome(events, turn_id, has_own_id=has_own_id, is_repeated=is_repeated)
    if outcome is None:
        outcome = _outcome_without_end(has_start=has_start, may_go_on=may_go_on)
    last = outcome.ended_by or (items[-1] if items else None)
    is_over = outcome.status is not StoredTurnStatus.IN_PROGRESS
    return StoredTurn(
        turn_id=turn_id,
        items=_items_in_view(items, view),
        items_view=view,
        status=outcome.status,
        error=outcome.error,
        started_at=_time(items[0], "started_at") if items else None,
        completed_at=_time(last, "completed_at") if last and is_over else None,
        duration_ms=_whole_number(outcome.ended_by, "duration_ms"),
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a turn ended, and the event that ended it, if any."""

    status: StoredTurnStatus
    error: StoredTurnError | None = None
    ended_by: RolloutItem | None = None


def _outcome(events: Sequence[RolloutItem], turn_id: str, *, has_own_id: bool, is_repeated: bool) -> _Outcome | None:
    """Return how *events* ended the turn, or None; completion keeps an earlier failure or interruption.

    After the turn's end, only an end event that names it counts. If the id *is_repeated*, such an event belongs to the
    first turn with this id.
    """
    outcome: _Outcome | None = None
    is_open = True
    for event in events:
        named = named_end(event)
        if not is_open and (named != turn_id or is_repeated):
            continue
        error = _error(event)
        if error is not None:
            outcome = _Outcome(StoredTurnStatus.FAILED, error, event)
        elif event.kind == "turn_aborted":
            outcome = _Outcome(StoredTurnStatus.INTERRUPTED, None, event)
        elif event.kind in _ENDS:
            outcome = replace(outcome or _Outcome(StoredTurnStatus.COMPLETED), ended_by=event)
        goes_on = has_own_id and event.kind == "turn_aborted" and named not in (None, turn_id)
        is_open = is_open and (event.kind not in _ENDS or goes_on)
    return outcome


def _error(event: RolloutItem) -> StoredTurnError | None:
    """Return why *event* failed the turn, or None if it did not."""
    error = event.payload.get("error") if event.kind in _COMPLETIONS else None
    if event.kind == "error" and not _is_harmless(event.payload.get("codex_error_info")):
        error = event.payload
    if not error:
        return None
    if not isinstance(error, dict):
        return StoredTurnError(message=str(error))
    details = error.get("additional_details")
    return StoredTurnError(
        message=str(error.get("message", "")),
        code=next(iter(_codes(error.get("codex_error_info"))), None),
        additional_details=details if isinstance(details, str) else None,
    )


def _codes(info: Any) -> list[str]:
    """Return the code in codex's description of an error: a name, or an object with the name as its key."""
    return list(info) if isinstance(info, dict) else [info] if isinstance(info, str) else []


def _is_harmless(info: Any) -> bool:
    return not _HARMLESS_ERRORS.isdisjoint(_codes(info))


def _outcome_without_end(*, has_start: bool, may_go_on: bool) -> _Outcome:
    """Return the outcome of a turn without an end event. As in codex, one without a start counts as completed."""
    if not has_start:
        return _Outcome(StoredTurnStatus.COMPLETED)
    return _Outcome(StoredTurnStatus.IN_PROGRESS if may_go_on else StoredTurnStatus.INTERRUPTED)


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


def _time(item: RolloutItem, field: str) -> datetime | None:
    """Return the time in a *field* of an event's payload, in seconds since 1970; without one, the line's time."""
    seconds = _whole_number(item, field)
    if seconds is not None:
        with suppress(ValueError, OverflowError, OSError):  # beyond the year 9999
            return datetime.fromtimestamp(seconds, UTC)
    return parse_time(item.timestamp)


def _whole_number(item: RolloutItem | None, field: str) -> int | None:
    value = item.payload.get(field) if item is not None and item.type == "event_msg" else None
    return value if type(value) is int and abs(value) < 2**63 else None
