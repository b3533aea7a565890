"""One page of a thread's items. Its cost depends on the page, not on the length of the rollout.

Lines are only added at the end. A cursor names the line before its place, so that it stays valid if a repair moves that line.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import BinaryIO

from livethread import errors, types
from livethread.rollout.lines import item_of
from livethread_worker.store.files import Home, scan
from livethread_worker.store.index import Index
from livethread_worker.store.read import item_places
from livethread_worker.store.read.thread_file import open_thread
from livethread_worker.store.read.turn_spans import find_turn


def list_items(home: Home, index: Index, params: types.ListItemsParams) -> types.ItemPage:
    """Return one page of the items that are committed.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
        InvalidRequest: the thread has no such turn, or the cursor is not valid.
        Conflict: it is not known which items come after the position.
    """
    is_forward = params.sort_direction is types.SortDirection.ASC
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as opened:
        file, position = opened
        start, end = 0, min(scan.end_of_lines(file), index.committed_end(params.thread_id))
        if params.turn_id is not None:
            turn = find_turn(index, params.thread_id, params.turn_id, file)
            start, end = turn.offset, end if turn.end is None else turn.end
        begin = _begin(file, params, start, end)
        records = scan.scan_records(file, begin) if is_forward else scan.scan_backward(file, begin, start)
        within = takewhile(lambda record: record.offset < end, records)
        found = ((item, record) for record in within if (item := item_of(record.value)) is not None)
        page = list(islice(found, params.page_size + 1))
        shown, has_more = page[: params.page_size], len(page) > params.page_size
        # Between two items is the place after the earlier one's line; before the first one is the beginning.
        lines = [record for _, record in page]
        places = lines if is_forward else [*lines[1:], None]
        if shown:
            first, last = (item_places.cursor_after(file, places[at]) for at in (0, len(shown) - 1))
        else:
            first, last = None, params.cursor or item_places.cursor_at(file, begin, start)
    return types.ItemPage(
        items=tuple(item for item, _ in shown),
        next_cursor=last if has_more else None,
        end_cursor=last,
        backwards_cursor=first,
        position=position,
    )


def _begin(file: BinaryIO, params: types.ListItemsParams, start: int, end: int) -> int:
    """Return where the page begins."""
    if params.cursor is not None:
        place = item_places.place_of(file, params.cursor)
        if params.turn_id is not None and place is not None and not start <= place <= end:
            raise errors.InvalidRequest("this cursor belongs to another thread, or to another turn")
        return start if place is None else min(place, end)
    match params.after:
        case int():
            return item_places.after_ordinal(file, params.after, end)
        case str():
            return item_places.after_position(file, params.thread_id, params.after, end)
    return start if params.sort_direction is types.SortDirection.ASC else end
