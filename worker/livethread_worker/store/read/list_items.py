"""One page of a thread's items. Its cost depends on the page, not on the length of the rollout.

A cursor is an offset in the rollout. Lines are only added at the end, so it stays valid while the thread grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from livethread import errors, types
from livethread.cursor import decode_offset, encode_offset
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import item_of
from livethread_worker.store.files import Home, scan
from livethread_worker.store.index import Index
from livethread_worker.store.read.thread_file import open_thread
from livethread_worker.store.read.turn_spans import find_turn

#: An item, with the offsets at which its line begins and ends.
_Placed = tuple["RolloutItem", int, int]


def list_items(home: Home, index: Index, params: types.ListItemsParams) -> types.ItemPage:
    """Return one page of items.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
        InvalidRequest: the thread has no such turn, or the cursor is not valid.
    """
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as file:
        start, end = 0, scan.end_of_lines(file)
        if params.turn_id is not None:
            turn = find_turn(index, params.thread_id, params.turn_id, file)
            start, end = turn.offset, end if turn.end is None else turn.end
        if params.sort_direction is types.SortDirection.ASC:
            return _forward(file, params, start, end)
        return _backward(file, params, start, end)


def _forward(file: BinaryIO, params: types.ListItemsParams, start: int, end: int) -> types.ItemPage:
    begin = _clamped(params.cursor, start, end, default=start)
    records = scan.scan_records(file, begin)
    page = list(islice(_items(record for record in records if record.offset < end), params.page_size + 1))
    shown = page[: params.page_size]
    return types.ItemPage(
        items=tuple(item for item, _, _ in shown),
        next_cursor=encode_offset("items", page[-1][1]) if len(page) > params.page_size else None,
        backwards_cursor=encode_offset("items", shown[0][2]) if shown else None,
    )


def _backward(file: BinaryIO, params: types.ListItemsParams, start: int, end: int) -> types.ItemPage:
    begin = _clamped(params.cursor, start, end, default=end)
    page = list(islice(_items(scan.scan_backward(file, begin, start)), params.page_size + 1))
    shown = page[: params.page_size]
    return types.ItemPage(
        items=tuple(item for item, _, _ in shown),
        next_cursor=encode_offset("items", page[-1][2]) if len(page) > params.page_size else None,
        backwards_cursor=encode_offset("items", shown[0][1]) if shown else None,
    )


def _items(records: Iterator[scan.Record]) -> Iterator[_Placed]:
    for record in records:
        item = item_of(record.value)
        if item is not None:
            yield item, record.offset, record.offset + record.size


def _clamped(cursor: str | None, start: int, end: int, *, default: int) -> int:
    if cursor is None:
        return default
    offset = decode_offset("items", cursor)
    if not start <= offset <= end:
        raise errors.InvalidRequest("this cursor belongs to another thread, or to another turn")
    return offset
