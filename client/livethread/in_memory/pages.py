"""Pages of one thread: its turns, its items, and the occurrences of a term."""

from __future__ import annotations

from collections.abc import Sequence

from livethread import types
from livethread.cursor import decode_occurrence, decode_offset, encode_occurrence, encode_offset
from livethread.errors import InvalidRequest
from livethread.in_memory.stored import Stored
from livethread.metadata import StoredThreadHistory
from livethread.rollout.item import RolloutItem
from livethread.rollout.literal import literal_term
from livethread.rollout.occurrences import occurrences_in_turn
from livethread.rollout.turn_ranges import TurnRange, turn_ranges
from livethread.rollout.turns import stored_turn


def list_turns(history: StoredThreadHistory, params: types.ListTurnsParams, *, is_open: bool) -> types.TurnPage:
    """Return one page of turns. A cursor holds the number of the page's first item."""
    items = history.items
    turns = turn_ranges(items)
    descending = params.sort_direction is types.SortDirection.DESC
    ordered = turns[::-1] if descending else turns
    begin = decode_offset("turns", params.cursor) if params.cursor else None
    if begin is not None:
        ordered = [turn for turn in ordered if (turn.start <= begin if descending else turn.start >= begin)]
    shown, more = ordered[: params.page_size], ordered[params.page_size :]
    return types.TurnPage(
        turns=tuple(_stored_turn(items, turn, turns, params.items_view, is_open=is_open) for turn in shown),
        next_cursor=encode_offset("turns", more[0].start) if more else None,
        backwards_cursor=encode_offset("turns", shown[0].start) if shown else None,
        position=history.position,
    )


def list_items(stored: Stored, params: types.ListItemsParams) -> types.ItemPage:
    """Return one page of items. A cursor holds an item's number."""
    history = stored.history()
    items = history.items
    start, end = 0, len(items)
    if params.turn_id is not None:
        turn = next((turn for turn in turn_ranges(items) if turn.turn_id == params.turn_id), None)
        if turn is None:
            raise InvalidRequest(f"thread {params.thread_id} has no turn {params.turn_id}")
        start, end = turn.start, end if turn.end is None else turn.end
    descending = params.sort_direction is types.SortDirection.DESC
    begin = end if descending else start
    if params.after is not None:
        begin = stored.after(params.after)
    elif params.cursor is not None:
        begin = decode_offset("items", params.cursor)
        if not start <= begin <= end:
            raise InvalidRequest("this cursor belongs to another thread, or to another turn")
    if descending:
        edge = max(start, begin - params.page_size)
        return types.ItemPage(
            items=items[edge:begin][::-1],
            next_cursor=encode_offset("items", edge) if edge > start else None,
            end_cursor=encode_offset("items", edge),
            backwards_cursor=encode_offset("items", begin - 1) if begin > edge else None,
            position=history.position,
        )
    edge = min(end, begin + params.page_size)
    return types.ItemPage(
        items=items[begin:edge],
        next_cursor=encode_offset("items", edge) if edge < end else None,
        end_cursor=encode_offset("items", edge),
        backwards_cursor=encode_offset("items", begin + 1) if begin < edge else None,
        position=history.position,
    )


def search_occurrences(history: StoredThreadHistory, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
    """Return one page of occurrences. A cursor holds the number of the turn's first item."""
    term = literal_term(params.search_term)
    begin = decode_occurrence(params.cursor) if params.cursor else (0, 0)
    items = history.items
    found = [
        ((turn.start, number), occurrence)
        for turn in turn_ranges(items)
        for number, occurrence in enumerate(
            occurrences_in_turn(turn.turn_id, encode_offset("turns", turn.start), items[turn.start : turn.end], term)
        )
        if (turn.start, number) >= begin
    ]
    page, more = found[: params.page_size], found[params.page_size :]
    return types.OccurrencePage(
        items=tuple(occurrence for _, occurrence in page),
        next_cursor=encode_occurrence(*more[0][0]) if more else None,
        position=history.position,
    )


def _stored_turn(
    items: Sequence[RolloutItem],
    turn: TurnRange,
    turns: Sequence[TurnRange],
    view: types.StoredTurnItemsView,
    *,
    is_open: bool,
) -> types.StoredTurn:
    own = items[turn.start : turn.end]
    is_late = turn.end is not None and turn.late_end is not None and turn.late_end >= turn.end
    return stored_turn(
        turn.turn_id,
        own,
        view,
        may_go_on=is_open and turn.end is None,
        others={other.turn_id for other in turns if other.start < turn.start},
        late_end=items[turn.late_end] if is_late and turn.late_end is not None else None,
    )
