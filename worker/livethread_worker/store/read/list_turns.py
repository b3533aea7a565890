"""One page of a thread's turns."""

from __future__ import annotations

import os
from typing import BinaryIO, Final

from livethread import cursor, types
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import item_of
from livethread.rollout.turns import named_end, stored_turn
from livethread_worker.store.files import Home, scan
from livethread_worker.store.files.open_threads import is_open_elsewhere
from livethread_worker.store.index import Index
from livethread_worker.store.index.index import TurnSpan
from livethread_worker.store.read.thread_file import open_thread
from livethread_worker.store.read.turn_spans import items_of_turn, starts_of, turns_from

IN_PROGRESS: Final = types.StoredTurnStatus.IN_PROGRESS


def list_turns(home: Home, index: Index, params: types.ListTurnsParams) -> types.TurnPage:
    """Return one page of turns, without those that were rolled back.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
        InvalidRequest: the cursor is not valid.
    """
    backward = params.sort_direction is types.SortDirection.DESC
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as opened:
        file, position = opened
        size = file.seek(0, os.SEEK_END)
        begin = cursor.decode_offset("turns", params.cursor) if params.cursor else (size if backward else 0)
        spans = turns_from(index, params.thread_id, begin, params.page_size + 1, file, backward=backward)
        shown = spans[: params.page_size]
        turns = tuple(_turn(home, index, params, file, span) for span in shown)
    return types.TurnPage(
        turns=turns,
        next_cursor=cursor.encode_offset("turns", spans[-1].offset) if len(spans) > params.page_size else None,
        backwards_cursor=cursor.encode_offset("turns", shown[0].offset) if shown else None,
        position=position,
    )


def _turn(
    home: Home, index: Index, params: types.ListTurnsParams, file: BinaryIO, span: TurnSpan
) -> types.StoredTurn:
    """Return a turn. If it is the last and never ended, it was interrupted, unless a process has the thread open."""
    items = items_of_turn(file, span)
    named = {turn_id for item in items if (turn_id := named_end(item)) is not None}
    starts = starts_of(index, params.thread_id, named, file)
    others = {turn_id for turn_id, start in starts.items() if start < span.offset}
    late_end = _late_end(file, span)
    turn = stored_turn(
        span.turn_id, items, params.items_view, may_go_on=span.end is None, others=others, late_end=late_end
    )
    if turn.status is not IN_PROGRESS or params.is_open or is_open_elsewhere(home, params.thread_id):
        return turn
    return stored_turn(span.turn_id, items, params.items_view, may_go_on=False, others=others, late_end=late_end)


def _late_end(file: BinaryIO, span: TurnSpan) -> RolloutItem | None:
    if span.end is None or span.late_end is None or span.late_end < span.end:
        return None
    record = next(scan.scan_records(file, span.late_end))
    return item_of(record.value)
