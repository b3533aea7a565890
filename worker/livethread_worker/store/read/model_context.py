"""Reads a thread's latest model context from the end of its rollout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

from livethread import types
from livethread.metadata import StoredModelContext
from livethread.rollout.lines import decode_line, items_of
from livethread.rollout.model_context import ContextStart, context_start
from livethread_worker.store.files import Home, scan
from livethread_worker.store.index import Index
from livethread_worker.store.read.thread_file import load_history, open_thread


def find_context_start(home: Home, index: Index, params: types.LoadThreadHistoryParams) -> ContextStart:
    """Return where the thread's latest model context starts.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
    """
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as (file, _):
        return ContextStart(start=context_start(_lines_backward(file)))


def load_latest_model_context(home: Home, index: Index, params: types.LoadThreadHistoryParams) -> StoredModelContext:
    """Return the items of the thread's latest model context.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
    """
    with open_thread(home, index, params.thread_id, include_archived=params.include_archived) as opened:
        file, position = opened
        start = context_start(_lines_backward(file))
        if start is not None:
            file.seek(0)
            first = file.readline()
            file.seek(start)
            return StoredModelContext(params.thread_id, items_of(map(decode_line, chain([first], file))), position)
    history = load_history(home, index, params)
    return StoredModelContext(params.thread_id, history.items, history.position)


def _lines_backward(file: BinaryIO) -> Iterator[tuple[int, str, Any]]:
    for record in scan.scan_backward(file, os.fstat(file.fileno()).st_size):
        kind = (record.value or {}).get("type")
        if record.value is not None and isinstance(kind, str):
            yield record.offset, kind, record.value.get("payload")
