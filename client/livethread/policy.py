"""The persistence policy: which items are stored. `LiveThread` drops all others.

The rules are codex's (``rollout/src/policy.rs``); line types that codex does not know are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from livethread.metadata import PAGINATED
from livethread.rollout.item import THREAD_METADATA_TYPE, RolloutItem

_RESPONSE_ITEMS: Final = frozenset({
    "additional_tools",
    "agent_message",
    "compaction",
    "compaction_summary",
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

_EVENTS: Final = frozenset({
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
    "task_complete",
    "task_started",
    "thread_goal_updated",
    "thread_rolled_back",
    "token_count",
    "turn_aborted",
    "turn_complete",
    "turn_started",
    "user_message",
    "web_search_end",
})

#: Events that are persisted only in paginated rollouts.
_PAGINATED_EVENTS: Final = frozenset({"item_completed", "thread_settings_applied"})

#: Kinds of item whose ``item_completed`` has no equivalent elsewhere in the history.
_COMPLETED_ITEMS: Final = frozenset({"plan", "sleep"})


def is_persisted(item: RolloutItem, history_mode: str | None = None) -> bool:
    """Whether *item* belongs in a rollout of this *history_mode*.

    codex reads the conversation of a paginated rollout from its ``item_completed`` events.
    """
    match item.type:
        case "response_item":
            return item.kind in _RESPONSE_ITEMS
        case "event_msg":
            if history_mode == PAGINATED and item.kind in _PAGINATED_EVENTS:
                return True
            return item.kind in _EVENTS or (item.kind == "item_completed" and _completes_kept_item(item.payload))
        case _:
            return item.type != THREAD_METADATA_TYPE


def persisted_items(items: Iterable[RolloutItem]) -> list[RolloutItem]:
    """Return the *items* that are persisted, in order."""
    return [item for item in items if is_persisted(item)]


def _completes_kept_item(payload: dict[str, object]) -> bool:
    completed = payload.get("item")
    return isinstance(completed, dict) and str(completed.get("type", "")).lower() in _COMPLETED_ITEMS
