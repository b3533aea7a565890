"""Finds where a fork of a thread begins."""

from __future__ import annotations

from typing import BinaryIO

from livethread.errors import InvalidRequest
from livethread.rollout.lines import item_of
from livethread.rollout.turns import ends_turn
from livethread.types import HistoryPosition, PreparedFork, PrepareForkParams
from livethread_worker.store.files import Home, lineage, scan
from livethread_worker.store.files.compression import open_rollout
from livethread_worker.store.index import Index
from livethread_worker.store.read.thread_file import locate_thread
from livethread_worker.store.read.turn_spans import find_turn


def prepare_fork(home: Home, index: Index, params: PrepareForkParams) -> PreparedFork:
    """Return what a fork of a thread begins with.

    Raises:
        ThreadNotFound: no such thread.
        InvalidRequest: it has no such turn, the turn has not ended, or a rollout that it continues is missing.
    """
    path, _ = locate_thread(home, index, params.thread_id, include_archived=True)
    with open_rollout(path) as file:
        is_paginated = lineage.read_first(file).is_paginated
    if not is_paginated:
        return PreparedFork(thread_id=params.thread_id, is_shared=False)
    with lineage.open_history(home, path) as file:
        base = lineage.base_at(home, path, _end(index, params, file))
    if base is None:
        return PreparedFork(thread_id=params.thread_id, is_shared=True)
    position = HistoryPosition(
        thread_id=base.rollout_id, end_ordinal_exclusive=base.end_ordinal, end_byte_offset=base.end
    )
    return PreparedFork(thread_id=params.thread_id, is_shared=True, history_base=position)


def _end(index: Index, params: PrepareForkParams, file: BinaryIO) -> int | None:
    """Return the offset in the history at which the fork begins; None: its end."""
    turn_id = params.before_turn_id or params.through_turn_id
    if turn_id is None:
        return None
    span = find_turn(index, params.thread_id, turn_id, file)
    if params.before_turn_id is not None:
        return span.offset
    for record in scan.scan_records(file, span.offset):
        if span.end is not None and record.offset >= span.end:
            return span.end
        item = item_of(record.value)
        if item is not None and ends_turn(item, turn_id):
            return record.offset + record.size
    raise InvalidRequest(f"turn {turn_id} has not ended; fork before it, or from the thread's end")
