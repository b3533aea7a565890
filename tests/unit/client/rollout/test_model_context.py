"""Codex's rule for the latest model context."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from livethread.rollout.model_context import context_start

#: Short names of lines.
LINES: dict[str, tuple[str, Any]] = {
    "compacted": ("compacted", {"replacement_history": [], "window_number": 0}),
    "no history": ("compacted", {"message": "summary", "window_number": 0}),
    "no window": ("compacted", {"replacement_history": []}),
    "start": ("event_msg", {"type": "task_started", "turn_id": "t"}),
    "other start": ("event_msg", {"type": "task_started", "turn_id": "u"}),
    "context": ("turn_context", {"turn_id": "t"}),
    "other context": ("turn_context", {"turn_id": "u"}),
    "user": ("event_msg", {"type": "user_message", "message": "q"}),
    "completed user": ("event_msg", {"type": "item_completed", "item": {"type": "UserMessage", "content": []}}),
    "agent mail": ("inter_agent_communication", {}),
    "model's user": ("response_item", {"type": "message", "role": "user", "content": []}),
    "answer": ("response_item", {"type": "message", "role": "assistant", "content": []}),
    "end": ("event_msg", {"type": "task_complete", "turn_id": "t"}),
    "abort": ("event_msg", {"type": "turn_aborted", "turn_id": "t"}),
    "rollback": ("event_msg", {"type": "thread_rolled_back", "num_turns": 1}),
    "odd": ("event_msg", None),
}


def lines(*names: str) -> list[tuple[int, str, Any]]:
    """Return the lines of these names with their places, from the last one on."""
    return [(place, *LINES[name]) for place, name in enumerate(names)][::-1]


@pytest.mark.parametrize(
    ("names", "start"),
    [
        (["start", "context", "user", "end"], None),
        (["answer", "compacted", "start", "context", "user", "answer", "end"], 1),
        (["answer", "start", "context", "user", "compacted", "answer", "end"], 1),
        (["answer", "start", "context", "user", "compacted"], 1),
        (["answer", "compacted", "start", "context", "completed user", "abort"], 1),
        (["answer", "compacted", "start", "context", "agent mail", "odd", "end"], 1),
        (["compacted", "answer", "compacted", "start", "context", "user"], 2),
        (["start", "context", "user", "end", "compacted", "start", "context", "answer", "end"], 0),
        (["start", "context", "user", "end", "compacted", "start", "user", "end"], 0),
        (["answer", "compacted", "start", "context", "model's user", "end"], None),
        (["answer", "compacted", "start", "other context", "user", "end"], None),
        (["answer", "compacted", "other start", "context", "user", "end"], None),
        (["no history", "start", "context", "user", "end"], None),
        (["no window", "start", "context", "user", "end"], None),
        (["compacted", "start", "context", "user", "end", "no history"], None),
        (["compacted", "start", "context", "user", "end", "rollback"], None),
        ([], None),
    ],
)
def test_it_starts_with_the_last_compaction_whose_settings_are_known(names: list[str], start: int | None) -> None:
    assert context_start(lines(*names)) == start


def test_no_more_lines_are_read_than_are_needed() -> None:
    def checked() -> Iterator[tuple[int, str, Any]]:
        yield from lines("compacted", "start", "context", "user", "end")
        raise AssertionError("the lines before are not needed")

    assert context_start(checked()) == 0
