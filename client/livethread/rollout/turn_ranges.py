"""Finds the turns among a thread's items, if all items are in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from livethread.errors import InvalidRequest
from livethread.rollout.item import RolloutItem
from livethread.rollout.turns import TurnEnd, TurnPlace, TurnsRolledBack, TurnStart, ends_turn, next_place
from livethread.types import PrepareForkParams


@dataclass(frozen=True, slots=True)
class TurnRange:
    """A turn, as a range of item numbers."""

    turn_id: str
    start: int
    end: int | None = None
    #: Number of the event that ended it by name; it may come after the next turn's start.
    late_end: int | None = None


def turn_ranges(items: Sequence[RolloutItem]) -> list[TurnRange]:
    """Return the turns that were not rolled back."""
    place, starts = TurnPlace(), []
    kept: list[TurnRange] = []
    for number, item in enumerate(items):
        place, change = next_place(
            place, item.type, item.payload, item.ordinal or 0, lambda turn_id: _numbered(kept, turn_id) is not None
        )
        match change:
            case TurnStart(turn_id):
                starts.append(number)
                kept.append(TurnRange(turn_id, number))
            case TurnEnd(turn_id):
                if (n := _numbered(kept, turn_id)) is not None:
                    kept[n] = replace(kept[n], late_end=number)
            case TurnsRolledBack(count):
                del kept[max(0, len(kept) - count) :]
    ends = dict(itertools.pairwise(starts))
    return [replace(turn, end=ends.get(turn.start)) for turn in kept]


def _numbered(turns: Sequence[TurnRange], turn_id: str) -> int | None:
    """Return the number of the first turn with an id."""
    return next((n for n, turn in enumerate(turns) if turn.turn_id == turn_id), None)


def end_of_fork(items: Sequence[RolloutItem], params: PrepareForkParams) -> int:
    """Return how many of *items* a fork begins with.

    Raises:
        InvalidRequest: the thread has no such turn, or the last turn of the fork has not ended.
    """
    turn_id = params.before_turn_id or params.through_turn_id
    if turn_id is None:
        return len(items)
    turn = next((turn for turn in turn_ranges(items) if turn.turn_id == turn_id), None)
    if turn is None:
        raise InvalidRequest(f"thread {params.thread_id} has no turn {turn_id}")
    if params.before_turn_id is not None:
        return turn.start
    own = range(turn.start, len(items) if turn.end is None else turn.end)
    end = next((number + 1 for number in own if ends_turn(items[number], turn_id)), turn.end)
    if end is None:
        raise InvalidRequest(f"turn {turn_id} has not ended; fork before it, or from the thread's end")
    return end
