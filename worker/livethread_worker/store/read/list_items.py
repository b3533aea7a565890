"""One page of a thread's items. Its cost depends on the page, not on the length of the rollout.

A cursor is an offset in the rollout. Lines are only added at the end, so it stays valid while the thread grows.
"""

from __future__ import annotations

from itertools import islice, takewhile

from livethread import errors, types
from livethread.cursor import decode_offset, encode_offset
from livethread.rollout.lines import item_of
from livethread_worker.store.files import Home, scan
from livethread_worker.store.index import Index
from livethread_worker.store.read.thread_file import open_thread
from livethread_worker.store.read.turn_spans import find_turn


def list_items(home: Home, index: Index, params: types.ListItemsParams) -> types.ItemPage:
    """Return one page of items.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
        InvalidRequest: the thread has no such turn, or the cursor is not valid.
    """
    is_forward = params.sort_direction is types.SortDirection.ASC
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as opened:
        file, position = opened
        start, end = 0, scan.end_of_lines(file)
        if params.turn_id is not None:
            turn = find_turn(index, params.thread_id, params.turn_id, file)
            start, end = turn.offset, end if turn.end is None else turn.end
        begin = start if is_forward else end
        if params.cursor is not None:
            begin = decode_offset("items", params.cursor)
            if not start <= begin <= end:
                raise errors.InvalidRequest("this cursor belongs to another thread, or to another turn")
        records = scan.scan_records(file, begin) if is_forward else scan.scan_backward(file, begin, start)
        within = takewhile(lambda record: record.offset < end, records)
        found = ((item, record) for record in within if (item := item_of(record.value)) is not None)
        page = list(islice(found, params.page_size + 1))
    shown = page[: params.page_size]
    return types.ItemPage(
        items=tuple(item for item, _ in shown),
        next_cursor=_cursor(page[-1][1], after=not is_forward) if len(page) > params.page_size else None,
        backwards_cursor=_cursor(shown[0][1], after=is_forward) if shown else None,
        position=position,
    )


def _cursor(record: scan.Record, *, after: bool) -> str:
    """Return the cursor of the place before or *after* a line."""
    return encode_offset("items", record.offset + record.size if after else record.offset)
