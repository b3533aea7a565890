"""The latest model context is read from the end of the rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.builders import Mail, Store, item_line, message_line

from livethread.types import LoadThreadHistoryParams
from livethread_worker.store.files import scan
from livethread_worker.store.read.model_context import find_context_start, load_latest_model_context


def test_a_long_history_before_the_last_compaction_is_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), *(mail.append("x" * 1000) for _ in range(500)))
    size = store.path(mail).stat().st_size
    store.apply(
        mail,
        mail.append_lines(
            item_line("compacted", {"replacement_history": [], "window_number": 1}),
            item_line("event_msg", {"type": "task_started", "turn_id": "t"}),
            item_line("turn_context", {"turn_id": "t"}),
            message_line("question"),
        ),
    )
    read: list[int] = []
    backward = scan.scan_backward

    def noted(file: Any, end: int, start: int = 0) -> Any:
        for record in backward(file, end, start):
            read.append(record.offset)
            yield record

    monkeypatch.setattr(scan, "scan_backward", noted)
    params = LoadThreadHistoryParams(thread_id=mail.thread_id)

    context = load_latest_model_context(store.home, store.index, params)

    assert [item.type for item in context.items] == [
        "session_meta",
        "compacted",
        "event_msg",
        "turn_context",
        "event_msg",
    ]
    assert min(read) == find_context_start(store.home, store.index, params).start == size


def test_a_torn_line_at_the_end_is_left_out(store: Store) -> None:
    mail = Mail(1)
    store.apply(mail, mail.create(), mail.append("one"))
    path: Path = store.path(mail)
    path.write_bytes(path.read_bytes() + b'{"timestamp":')

    context = load_latest_model_context(store.home, store.index, LoadThreadHistoryParams(thread_id=mail.thread_id))

    assert [item.type for item in context.items] == ["session_meta", "event_msg"]
