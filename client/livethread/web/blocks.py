"""The blocks of a turn, as a page shows them: messages, reasoning, tool calls with their outputs, notes, failures.

A rollout says many things twice, once for the model and once for a person. A page shows each of them once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from livethread.model import parse_time
from livethread.rollout.item import RolloutItem
from livethread.rollout.user_message import content_parts, user_request
from livethread.web.calls import Outcome, Request, changes_of, mcp_request, outcome_of, reported, request_of
from livethread.web.foreign import dict_of, list_of, text_of

Kind = Literal["user", "agent", "reasoning", "call", "context", "note", "failure"]

#: Items that a page leaves out: turns show them in their heads, or they say nothing to a person.
_SILENT: Final = frozenset({
    "session_meta",
    "turn_context",
    "world_state",
    "token_usage_record",
    "inter_agent_communication_metadata",
    "event_msg/token_count",
    "event_msg/task_started",
    "event_msg/task_complete",
    "event_msg/turn_started",
    "event_msg/turn_complete",
    "event_msg/thread_settings_applied",
    "event_msg/thread_name_updated",
    "event_msg/item_started",
    "response_item/ghost_snapshot",
})
_NOTES: Final = {
    "event_msg/context_compacted": "The context was compacted.",
    "compacted": "The context was compacted.",
    "event_msg/item_completed/ContextCompaction": "The context was compacted.",
    "response_item/compaction": "The context was compacted.",
    "event_msg/entered_review_mode": "A review began.",
    "event_msg/exited_review_mode": "The review ended.",
}
_IMAGE: Final = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True)
class Block:
    """One thing that a page shows of a turn."""

    #: Its name within the turn, which stays the same while the turn grows: the number of its first item.
    name: str
    kind: Kind
    at: datetime | None
    text: str = ""
    #: ``data:`` URLs that a page may show.
    images: tuple[str, ...] = ()
    request: Request | None = None
    outcome: Outcome | None = None
    #: Threads of sub-agents to which the block leads.
    threads: tuple[str, ...] = ()

    @property
    def has_failed(self) -> bool:
        """Whether the block shows a failure, or a call that failed."""
        return self.kind == "failure" or (self.outcome is not None and self.outcome.has_failed)


def blocks_of(items: Sequence[RolloutItem]) -> list[Block]:
    """Return the blocks of a turn's *items*, in order."""
    turn = _Turn(items)
    for number, item in enumerate(items):
        turn.add(number, item)
    return turn.blocks


def _name(item: RolloutItem) -> str:
    if item.type not in ("event_msg", "response_item"):
        return item.type
    if item.kind == "item_completed":
        return f"event_msg/item_completed/{text_of(dict_of(item.payload.get('item')).get('type'))}"
    return f"{item.type}/{item.kind}"


class _Turn:
    def __init__(self, items: Sequence[RolloutItem]) -> None:
        self.blocks: list[Block] = []
        #: Id of a call -> where its block is.
        self._calls: dict[str, int] = {}
        #: (kind, text, whether an event says it) -> how often.
        self._said: Counter[tuple[str, str, bool]] = Counter()
        #: (kind, text) -> where its last block is.
        self._shown_at: dict[tuple[str, str], int] = {}
        #: What events say that the user said. Other messages in the user's name are then context.
        self._asked = {_flat(message) for item in items if (message := _asked(item)) is not None}

    def add(self, number: int, item: RolloutItem) -> None:
        name, payload = _name(item), dict_of(item.payload)
        at = parse_time(item.timestamp)
        if name in _SILENT:
            return
        if name in _NOTES:
            if not (self.blocks and self.blocks[-1].text == _NOTES[name]):
                self.blocks.append(Block(str(number), "note", at, _NOTES[name]))
        elif show := _SHOWN.get(name):
            completed = name.startswith("event_msg/item_completed/")
            show(self, Block(str(number), "note", at), dict_of(payload["item"]) if completed else payload)
        else:
            text = f"{name}: {text_of(item.payload)}"
            self.blocks.append(Block(str(number), "context", at, text))

    # -- what was said -------------------------------------------------------------------------------------

    def say(
        self,
        block: Block,
        kind: Kind,
        text: str,
        *,
        is_event: bool,
        images: Sequence[Any] = (),
        files: Sequence[str] = (),
    ) -> None:
        """Show a text and what came with it, unless the other form of the same item showed it."""
        shown = tuple(image for image in images if isinstance(image, str) and _IMAGE.fullmatch(image))
        if not text.strip() and not shown and not files:
            return
        same = kind, _flat(text)
        self._said[*same, is_event] += 1
        whole = "\n\n".join([text.strip(), *(f"`{name}`" for name in files)]).strip()
        if self._said[*same, is_event] > self._said[*same, not is_event]:
            self._shown_at[same] = len(self.blocks)
            self.blocks.append(replace(block, kind=kind, text=whole, images=shown))
        elif files or shown:  # only one form says what came with the text
            known = self.blocks[self._shown_at[same]]
            merged = replace(known, text=whole if files else known.text, images=known.images or shown)
            self.blocks[self._shown_at[same]] = merged

    def user_event(self, block: Block, payload: dict[str, Any]) -> None:
        text = user_request(text_of(payload.get("message")))
        files = [text_of(dict_of(file).get("path", file)) for file in list_of(payload.get("local_images"))]
        self.say(block, "user", text, is_event=True, images=list_of(payload.get("images")), files=files)

    def agent_event(self, block: Block, payload: dict[str, Any]) -> None:
        self.say(block, "agent", text_of(payload.get("message")), is_event=True)

    def reasoning_event(self, block: Block, payload: dict[str, Any]) -> None:
        self.say(block, "reasoning", text_of(payload.get("text")), is_event=True)

    def message(self, block: Block, payload: dict[str, Any]) -> None:
        parts = content_parts(payload.get("content"))
        text = text_of(parts).strip()
        images = [part.get("image_url") for part in parts]
        match payload.get("role"):
            case "assistant":
                self.say(block, "agent", text, is_event=False)
            case "user":
                text = user_request(text)
                is_asked = _flat(text) in self._asked if self._asked else not text.startswith("<")
                self.say(block, "user" if is_asked else "context", text, is_event=False, images=images)
            case _:
                self.say(block, "context", text, is_event=False)

    def reasoning(self, block: Block, payload: dict[str, Any]) -> None:
        for n, part in enumerate((*list_of(payload.get("summary")), *list_of(payload.get("content")))):
            self.say(_part(block, n), "reasoning", text_of(dict_of(part).get("text")), is_event=False)

    def completed_user_message(self, block: Block, item: dict[str, Any]) -> None:
        parts = content_parts(item.get("content"))
        images = [part.get("image_url", part.get("url")) for part in parts]
        self.say(block, "user", user_request(text_of(item.get("content"))), is_event=True, images=images)

    def completed_agent_message(self, block: Block, item: dict[str, Any]) -> None:
        self.say(block, "agent", text_of(item.get("content", item.get("text"))), is_event=True)

    def completed_reasoning(self, block: Block, item: dict[str, Any]) -> None:
        for n, part in enumerate((*list_of(item.get("summary_text")), *list_of(item.get("raw_content")))):
            self.say(_part(block, n), "reasoning", text_of(part), is_event=True)

    def plan(self, block: Block, item: dict[str, Any]) -> None:
        self.say(block, "agent", text_of(item.get("text")), is_event=True)

    # -- calls ---------------------------------------------------------------------------------------------

    def call(self, block: Block, payload: dict[str, Any]) -> None:
        arguments = payload.get("arguments", payload.get("input", payload.get("action")))
        self._call(block, payload, request_of(payload.get("name") or payload.get("type"), arguments))

    def search(self, block: Block, payload: dict[str, Any]) -> None:
        action = dict_of(payload.get("action"))
        query = text_of(payload.get("query") or action.get("query") or action.get("url") or action.get("pattern"))
        request = Request("web search", query)
        if not any(shown.request == request for shown in self.blocks):
            self._outcome(block, payload, Outcome(), request)

    def output(self, block: Block, payload: dict[str, Any]) -> None:
        self._outcome(block, payload, outcome_of(payload.get("output")))

    def command_report(self, block: Block, payload: dict[str, Any]) -> None:
        self._outcome(block, payload, reported(payload), request_of("command", {"command": payload.get("command")}))

    def patch_report(self, block: Block, payload: dict[str, Any]) -> None:
        self._outcome(block, payload, reported(payload), changes_of(payload.get("changes")))

    def mcp_report(self, block: Block, payload: dict[str, Any]) -> None:
        self._outcome(block, payload, reported(payload), mcp_request(payload.get("invocation", payload)))

    def collab_report(self, block: Block, payload: dict[str, Any]) -> None:
        threads = tuple(filter(None, map(text_of, list_of(payload.get("receiver_thread_ids")))))
        request = request_of(payload.get("tool"), text_of(payload.get("prompt")))
        self._outcome(replace(block, threads=threads), payload, reported(payload), request)

    def _call(self, block: Block, payload: dict[str, Any], request: Request) -> int:
        number = len(self.blocks)
        if key := text_of(payload.get("call_id") or payload.get("id")):
            if key in self._calls:  # reported before
                return self._calls[key]
            self._calls[key] = number
        self.blocks.append(replace(block, kind="call", request=request))
        return number

    def _outcome(
        self, block: Block, payload: dict[str, Any], outcome: Outcome, request: Request | None = None
    ) -> None:
        """Put an outcome into the block of its call; keep what another report of the call said."""
        key = text_of(payload.get("call_id") or payload.get("id"))
        number = self._calls.get(key)
        if number is None:
            number = self._call(block, payload, request or Request("output"))
        known = self.blocks[number]
        if known.request is not None and request is not None and request.diff and not known.request.diff:
            known = replace(known, request=replace(known.request, diff=request.diff))
        if (before := known.outcome) is not None:
            outcome = Outcome(
                before.text or outcome.text,
                outcome.exit_code if before.exit_code is None else before.exit_code,
                outcome.is_ok if before.is_ok is None else before.is_ok,
                outcome.seconds if before.seconds is None else before.seconds,
            )
        self.blocks[number] = replace(known, outcome=outcome, threads=known.threads or block.threads)

    # -- notes ---------------------------------------------------------------------------------------------

    def aborted(self, block: Block, payload: dict[str, Any]) -> None:
        reason = text_of(payload.get("reason"))
        text = "Interrupted" if reason in ("", "interrupted") else f"Interrupted: {reason}"
        self.blocks.append(replace(block, kind="failure", text=text))

    def error(self, block: Block, payload: dict[str, Any]) -> None:
        self.blocks.append(replace(block, kind="failure", text=text_of(payload.get("message"))))

    def goal(self, block: Block, payload: dict[str, Any]) -> None:
        goal = payload.get("goal")
        text = text_of(dict_of(goal).get("objective", goal))
        self.blocks.append(replace(block, text=f"Goal: {text}"))

    def sub_agent(self, block: Block, payload: dict[str, Any]) -> None:
        agent = text_of(payload.get("agent_thread_id"))
        text = f"Sub-agent {text_of(payload.get('agent_path'))} {text_of(payload.get('kind'))}"
        self.blocks.append(replace(block, text=text, threads=(agent,) if agent else ()))


def _flat(text: str) -> str:
    return " ".join(text.split())


def _asked(item: RolloutItem) -> str | None:
    """Return what an event says that the user said."""
    match _name(item):
        case "event_msg/user_message":
            return user_request(text_of(item.payload.get("message")))
        case "event_msg/item_completed/UserMessage":
            return user_request(text_of(item.payload["item"].get("content")))
    return None


def _part(block: Block, number: int) -> Block:
    return block if number == 0 else replace(block, name=f"{block.name}.{number}")


_SHOWN: Final[dict[str, Callable[[_Turn, Block, dict[str, Any]], None]]] = {
    "event_msg/user_message": _Turn.user_event,
    "event_msg/agent_message": _Turn.agent_event,
    "event_msg/agent_reasoning": _Turn.reasoning_event,
    "event_msg/agent_reasoning_raw_content": _Turn.reasoning_event,
    "event_msg/exec_command_end": _Turn.command_report,
    "event_msg/patch_apply_end": _Turn.patch_report,
    "event_msg/mcp_tool_call_end": _Turn.mcp_report,
    "event_msg/web_search_end": _Turn.search,
    "event_msg/turn_aborted": _Turn.aborted,
    "event_msg/error": _Turn.error,
    "event_msg/stream_error": _Turn.error,
    "event_msg/warning": _Turn.error,
    "event_msg/thread_goal_updated": _Turn.goal,
    "event_msg/sub_agent_activity": _Turn.sub_agent,
    "event_msg/item_completed/UserMessage": _Turn.completed_user_message,
    "event_msg/item_completed/AgentMessage": _Turn.completed_agent_message,
    "event_msg/item_completed/Reasoning": _Turn.completed_reasoning,
    "event_msg/item_completed/Plan": _Turn.plan,
    "event_msg/item_completed/CommandExecution": _Turn.command_report,
    "event_msg/item_completed/FileChange": _Turn.patch_report,
    "event_msg/item_completed/McpToolCall": _Turn.mcp_report,
    "event_msg/item_completed/WebSearch": _Turn.search,
    "event_msg/item_completed/CollabAgentToolCall": _Turn.collab_report,
    "event_msg/item_completed/SubAgentActivity": _Turn.sub_agent,
    "response_item/message": _Turn.message,
    "response_item/reasoning": _Turn.reasoning,
    "response_item/function_call": _Turn.call,
    "response_item/custom_tool_call": _Turn.call,
    "response_item/local_shell_call": _Turn.call,
    "response_item/tool_search_call": _Turn.call,
    "response_item/web_search_call": _Turn.search,
    "response_item/function_call_output": _Turn.output,
    "response_item/custom_tool_call_output": _Turn.output,
    "response_item/tool_search_output": _Turn.output,
}
