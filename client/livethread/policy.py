"""The persistence policy: which items are stored. `LiveThread` drops all others.

The rules are codex 0.171's (``rollout/src/policy.rs``). A kind that this release does not know is kept, so that a newer
agent or codex loses no history; only kinds named here are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from livethread.metadata import PAGINATED
from livethread.rollout.item import THREAD_METADATA_TYPE, RolloutItem

#: Line types, besides ``response_item`` and ``event_msg``, that every rollout keeps.
_LINES: Final = frozenset({
    "compacted",
    "dynamic_tools_updated",
    "inter_agent_communication",
    "inter_agent_communication_metadata",
    "retained_context",
    "security_risk_score",
    "session_meta",
    "token_usage_record",
    "turn_context",
    "world_state",
})

#: Line types that only paginated rollouts keep.
_PAGINATED_LINES: Final = frozenset({"realtime_item"})

_RESPONSE_ITEMS: Final = frozenset({
    "additional_tools",
    "agent_message",
    "compaction",
    "compaction_summary",
    "configuration_update",
    "context_compaction",
    "custom_tool_call",
    "custom_tool_call_output",
    "function_call",
    "function_call_output",
    "ghost_snapshot",
    "image_generation_call",
    "local_shell_call",
    "message",
    "reasoning",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
})

_TRANSIENT_RESPONSE_ITEMS: Final = frozenset({"compaction_trigger", "other"})

#: Events that every rollout keeps.
_EVENTS: Final = frozenset({
    "task_complete",
    "task_started",
    "thread_goal_updated",
    "thread_rolled_back",
    "thread_settings_applied",
    "token_count",
    "turn_aborted",
    "turn_complete",
    "turn_started",
})

#: Events that only legacy rollouts keep; a paginated one has an ``item_completed`` event instead.
_LEGACY_EVENTS: Final = frozenset({
    "agent_message",
    "agent_reasoning",
    "agent_reasoning_raw_content",
    "context_compacted",
    "entered_review_mode",
    "exited_review_mode",
    "image_generation_end",
    "mcp_tool_call_end",
    "patch_apply_end",
    "sub_agent_activity",
    "user_message",
    "web_search_end",
})

#: Events for a user interface's live display; no rollout keeps them.
_TRANSIENT_EVENTS: Final = frozenset({
    "add_credits_nudge_email_response",
    "agent_message_content_delta",
    "agent_message_delta",
    "agent_reasoning_delta",
    "agent_reasoning_raw_content_delta",
    "agent_reasoning_section_break",
    "apply_patch_approval_request",
    "auth_recovery_completed",
    "auth_recovery_started",
    "background_event",
    "collab_agent_interaction_begin",
    "collab_agent_interaction_end",
    "collab_agent_spawn_begin",
    "collab_agent_spawn_end",
    "collab_close_begin",
    "collab_close_end",
    "collab_resume_begin",
    "collab_resume_end",
    "collab_waiting_begin",
    "collab_waiting_end",
    "deprecation_notice",
    "dynamic_tool_call_request",
    "dynamic_tool_call_response",
    "elicitation_abandoned",
    "elicitation_request",
    "environment_connected",
    "environment_disconnected",
    "error",
    "exec_approval_request",
    "exec_command_begin",
    "exec_command_end",
    "exec_command_output_delta",
    "get_history_entry_response",
    "guardian_assessment",
    "guardian_warning",
    "hook_completed",
    "hook_started",
    "image_generation_begin",
    "item_started",
    "list_custom_prompts_response",
    "list_skills_response",
    "mcp_list_tools_response",
    "mcp_startup_complete",
    "mcp_startup_update",
    "mcp_tool_call_begin",
    "model_reroute",
    "model_verification",
    "patch_apply_begin",
    "patch_apply_updated",
    "plan_delta",
    "plan_update",
    "raw_response_completed",
    "raw_response_item",
    "realtime_conversation_closed",
    "realtime_conversation_list_voices_response",
    "realtime_conversation_realtime",
    "realtime_conversation_sdp",
    "realtime_conversation_started",
    "reasoning_content_delta",
    "reasoning_raw_content_delta",
    "request_permissions",
    "request_user_input",
    "safety_buffering",
    "session_configured",
    "shutdown_complete",
    "skills_update_available",
    "stream_error",
    "terminal_interaction",
    "thread_name_updated",
    "thread_queue_changed",
    "turn_diff",
    "turn_moderation_metadata",
    "undo_started",
    "view_image_tool_call",
    "warning",
    "web_search_begin",
})

#: Items that a legacy rollout keeps as ``item_completed``: it has no other form of them.
_COMPLETED_ITEMS: Final = frozenset({
    "Extension/clock.sleep",
    "FunctionCallOutput",
    "Plan",
    "SubAgentActivity/completed",
})

#: Items that a legacy rollout keeps in another form.
_REPEATED_ITEMS: Final = frozenset({
    "AgentMessage",
    "CollabAgentToolCall",
    "CommandExecution",
    "ContextCompaction",
    "DynamicToolCall",
    "EnteredReviewMode",
    "ExitedReviewMode",
    "Extension/image_gen.generation",
    "Extension/web.search",
    "FileChange",
    "HookPrompt",
    "ImageGeneration",
    "ImageView",
    "McpToolCall",
    "Reasoning",
    "SubAgentActivity/interacted",
    "SubAgentActivity/interrupted",
    "SubAgentActivity/started",
    "UserMessage",
    "WebSearch",
})

#: Items whose name includes their ``kind``.
_ITEMS_WITH_KINDS: Final = frozenset({"Extension", "SubAgentActivity"})


def is_persisted(item: RolloutItem, history_mode: str | None = None) -> bool:
    """Whether *item* belongs in a rollout of this *history_mode*.

    codex reads the conversation of a paginated rollout from its ``item_completed`` events.
    """
    is_paginated = history_mode == PAGINATED
    match item.type:
        case "response_item":
            return item.kind not in _TRANSIENT_RESPONSE_ITEMS
        case "event_msg":
            kind = item.kind
            if kind == "item_completed":
                return is_paginated or _completed(item) not in _REPEATED_ITEMS
            if kind in _LEGACY_EVENTS:
                return not is_paginated and not (
                    kind == "sub_agent_activity" and item.payload.get("kind") == "completed"
                )
            return kind not in _TRANSIENT_EVENTS
        case kind:
            return kind != THREAD_METADATA_TYPE and (is_paginated or kind not in _PAGINATED_LINES)


def is_known(item: RolloutItem) -> bool:
    """Whether this release knows the kind of *item*."""
    match item.type:
        case "response_item":
            return item.kind in _RESPONSE_ITEMS or item.kind in _TRANSIENT_RESPONSE_ITEMS
        case "event_msg" if item.kind == "item_completed":
            return _completed(item) in _COMPLETED_ITEMS or _completed(item) in _REPEATED_ITEMS
        case "event_msg":
            return item.kind in _EVENTS or item.kind in _LEGACY_EVENTS or item.kind in _TRANSIENT_EVENTS
        case kind:
            return kind in _LINES or kind in _PAGINATED_LINES or kind == THREAD_METADATA_TYPE


def kind_of(item: RolloutItem) -> str:
    """Return the name of the kind of *item*, such as ``event_msg/item_completed/Plan``."""
    match item.type:
        case "event_msg" if item.kind == "item_completed":
            return f"event_msg/item_completed/{_completed(item)}"
        case "response_item" | "event_msg":
            return f"{item.type}/{item.kind}"
        case kind:
            return kind


def persisted_items(items: Iterable[RolloutItem], history_mode: str | None = None) -> list[RolloutItem]:
    """Return the *items* that are persisted in a rollout of this *history_mode*, in order."""
    return [item for item in items if is_persisted(item, history_mode)]


def _completed(event: RolloutItem) -> str | None:
    """Return the kind of the item in an ``item_completed`` *event*."""
    item = event.payload.get("item")
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(kind, str):
        return None
    return f"{kind}/{item['kind']}" if kind in _ITEMS_WITH_KINDS and "kind" in item else kind
