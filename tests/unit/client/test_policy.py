from __future__ import annotations

from typing import Any

import pytest

from livethread.policy import is_persisted, persisted_items
from livethread.rollout.item import RolloutItem

KEPT_LINES = [
    "session_meta",
    "turn_context",
    "compacted",
    "inter_agent_communication",
    "inter_agent_communication_metadata",
    "world_state",
    "token_usage_record",
    "from_the_future",
]

KEPT_RESPONSE_ITEMS = [
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "local_shell_call",
    "web_search_call",
    "tool_search_call",
    "tool_search_output",
    "image_generation_call",
    "compaction",
]

KEPT_EVENTS = [
    "user_message",
    "agent_message",
    "agent_reasoning",
    "agent_reasoning_raw_content",
    "patch_apply_end",
    "token_count",
    "thread_goal_updated",
    "context_compacted",
    "entered_review_mode",
    "exited_review_mode",
    "mcp_tool_call_end",
    "thread_rolled_back",
    "turn_aborted",
    "task_started",
    "task_complete",
    "turn_started",
    "turn_complete",
    "web_search_end",
    "image_generation_end",
    "sub_agent_activity",
]

DROPPED_EVENTS = [
    "error",
    "warning",
    "stream_error",
    "background_event",
    "agent_message_delta",
    "agent_reasoning_delta",
    "agent_reasoning_section_break",
    "exec_command_begin",
    "exec_command_output_delta",
    "exec_command_end",
    "exec_approval_request",
    "apply_patch_approval_request",
    "patch_apply_begin",
    "mcp_tool_call_begin",
    "mcp_startup_update",
    "mcp_startup_complete",
    "web_search_begin",
    "image_generation_begin",
    "item_started",
    "thread_name_updated",
    "session_configured",
    "turn_diff",
    "plan_update",
    "shutdown_complete",
    "other",
    "from_the_future",
]


def item(type_: str, **payload: Any) -> RolloutItem:
    return RolloutItem(type=type_, payload=payload)


@pytest.mark.parametrize("line", KEPT_LINES)
def test_every_line_type_except_the_stores_own_is_kept(line: str) -> None:
    assert is_persisted(item(line, id="a session_meta has one"))


def test_a_callers_metadata_line_is_dropped() -> None:
    assert not is_persisted(item("thread_metadata", title="forged"))


@pytest.mark.parametrize("kind", KEPT_RESPONSE_ITEMS)
def test_a_response_item_that_the_model_sees_is_kept(kind: str) -> None:
    assert is_persisted(item("response_item", type=kind))


@pytest.mark.parametrize("kind", ["compaction_trigger", "other", "from_the_future", "", "Message"])
def test_a_compaction_trigger_and_an_unknown_response_item_are_dropped(kind: str) -> None:
    assert not is_persisted(item("response_item", type=kind))


@pytest.mark.parametrize("kind", KEPT_EVENTS)
def test_an_event_that_belongs_to_the_history_is_kept(kind: str) -> None:
    assert is_persisted(item("event_msg", type=kind))


@pytest.mark.parametrize("kind", DROPPED_EVENTS)
def test_a_transient_event_is_dropped(kind: str) -> None:
    assert not is_persisted(item("event_msg", type=kind))


@pytest.mark.parametrize("kind", ["plan", "Plan", "sleep", "Sleep"])
def test_the_completion_of_a_plan_or_a_sleep_is_kept(kind: str) -> None:
    assert is_persisted(item("event_msg", type="item_completed", item={"type": kind}))


@pytest.mark.parametrize(
    "completed", [{"type": "AgentMessage"}, {"type": None}, {"type": ["plan"]}, {}, "plan", None]
)
def test_every_other_completion_is_dropped(completed: Any) -> None:
    assert not is_persisted(item("event_msg", type="item_completed", item=completed))


@pytest.mark.parametrize("kind", ["item_completed", "thread_settings_applied"])
def test_some_events_are_kept_only_in_a_paginated_thread(kind: str) -> None:
    completed = item("event_msg", type=kind, item={"type": "AgentMessage"})

    assert is_persisted(completed, "paginated")
    assert not is_persisted(completed, "legacy")
    assert not is_persisted(completed)


@pytest.mark.parametrize("kind", ["item_started", "error"])
def test_a_transient_event_is_dropped_in_a_paginated_thread_too(kind: str) -> None:
    assert not is_persisted(item("event_msg", type=kind), "paginated")


def test_persisted_items_keep_their_order() -> None:
    first, second = item("event_msg", type="user_message"), item("turn_context")

    assert persisted_items([first, item("event_msg", type="error"), second]) == [first, second]
