"""Items of a turn, as an agent writes them."""

from __future__ import annotations

import json
from typing import Any

from livethread.rollout.item import RolloutItem

AT = "2026-01-02T03:04:05.000Z"


def event(kind: str, **payload: Any) -> RolloutItem:
    return RolloutItem("event_msg", {"type": kind, **payload}, AT)


def response(kind: str, **payload: Any) -> RolloutItem:
    return RolloutItem("response_item", {"type": kind, **payload}, AT)


def message(role: str, text: str) -> RolloutItem:
    return response("message", role=role, content=[{"type": "input_text", "text": text}])


def completed(kind: str, **item: Any) -> RolloutItem:
    return event("item_completed", item={"type": kind, **item})


def call(call_id: str, name: str, **arguments: Any) -> RolloutItem:
    return response("function_call", name=name, call_id=call_id, arguments=json.dumps(arguments))


def output(call_id: str, value: Any) -> RolloutItem:
    return response("function_call_output", call_id=call_id, output=value)


def turn(turn_id: str, prompt: str, *items: RolloutItem, ms: int | None = 2_500) -> list[RolloutItem]:
    """A turn with a start, and with an end unless *ms* is None."""
    end = [] if ms is None else [event("task_complete", turn_id=turn_id, duration_ms=ms)]
    return [event("task_started", turn_id=turn_id), event("user_message", message=prompt), *items, *end]
