"""Where a thread's turns are: from the index, or from the rollout if the index does not know the thread."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import pairwise
from typing import BinaryIO

from livethread.errors import InvalidRequest
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import item_of
from livethread.rollout.turns import TurnEnd, TurnsRolledBack, TurnStart
from livethread_worker.store.files import scan
from livethread_worker.store.files.rollout_reader import read_on
from livethread_worker.store.index import Index
from livethread_worker.store.index.index import TurnSpan
from livethread_worker.store.thread_state import ThreadState


def turns_from(
    index: Index, thread_id: str, offset: int, limit: int, file: BinaryIO, *, backward: bool
) -> list[TurnSpan]:
    """Return up to *limit* turns from *offset* on, nearest first, without those that were rolled back."""
    if index.read_thread(thread_id) is not None:
        return index.turns(thread_id, offset, limit, backward=backward)
    spans = _scanned(thread_id, file)
    if backward:
        return [span for span in reversed(spans) if span.offset <= offset][:limit]
    return [span for span in spans if span.offset >= offset][:limit]


def find_turn(index: Index, thread_id: str, turn_id: str, file: BinaryIO) -> TurnSpan:
    """Return where a turn is in its rollout.

    Raises:
        InvalidRequest: the thread has no such turn.
    """
    found = index.turn(thread_id, turn_id)
    if found is None and index.read_thread(thread_id) is None:
        found = next((span for span in _scanned(thread_id, file) if span.turn_id == turn_id), None)
    if found is None:
        raise InvalidRequest(f"thread {thread_id} has no turn {turn_id}")
    return found


def starts_of(index: Index, thread_id: str, turn_ids: AbstractSet[str], file: BinaryIO) -> dict[str, int]:
    """Return where the turns of *turn_ids* begin, if the thread has them."""
    starts = {turn_id: span.offset for turn_id in turn_ids if (span := index.turn(thread_id, turn_id))}
    if turn_ids and not starts and index.read_thread(thread_id) is None:
        spans = reversed(_scanned(thread_id, file))  # of several turns with one id, the first counts
        starts = {span.turn_id: span.offset for span in spans if span.turn_id in turn_ids}
    return starts


def items_of_turn(file: BinaryIO, span: TurnSpan) -> list[RolloutItem]:
    """Return the items from the turn's first one to the last before the next turn."""
    items = []
    for record in scan.scan_records(file, span.offset):
        if span.end is not None and record.offset >= span.end:
            break
        item = item_of(record.value)
        if item is not None:
            items.append(item)
    return items


def _scanned(thread_id: str, file: BinaryIO) -> list[TurnSpan]:
    state = ThreadState(thread_id)
    read_on(state, file)
    starts = [offset for offset, change in state.turns if isinstance(change, TurnStart)]
    ends = dict(pairwise(starts))
    spans: list[TurnSpan] = []
    for offset, change in state.turns:
        match change:
            case TurnStart(turn_id):
                spans.append(TurnSpan(turn_id, offset, ends.get(offset)))
            case TurnEnd(turn_id):
                number = next((n for n, span in enumerate(spans) if span.turn_id == turn_id), None)
                if number is not None:
                    spans[number] = replace(spans[number], late_end=offset)
            case TurnsRolledBack(count):
                del spans[max(0, len(spans) - count) :]
    return spans
