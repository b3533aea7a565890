"""Conversations as an agent's session appends them: what a person sees, and what the model sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from livethread import CreateThreadParams, LiveThread, ThreadStore

#: The provider in codex's configuration: by default, codex lists only its threads.
PROVIDER = "canned"


def event(kind: str, **payload: Any) -> dict[str, Any]:
    return {"type": "event_msg", "payload": {"type": kind, **payload}}


def response_item(kind: str, **payload: Any) -> dict[str, Any]:
    return {"type": "response_item", "payload": {"type": kind, **payload}}


def model_message(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return response_item("message", role=role, content=[{"type": kind, "text": text}])


@dataclass(frozen=True)
class Turn:
    """One turn: a question, what the agent thought and did, and its answer."""

    turn_id: str
    question: str
    answer: str
    reasoning: str | None = None
    tools: tuple[dict[str, Any], ...] = ()

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield the turn's items."""
        yield event("task_started", turn_id=self.turn_id, started_at=1795000000, model_context_window=128000)
        yield event("user_message", message=self.question, images=[], local_images=[], text_elements=[])
        yield model_message("user", self.question)
        if self.reasoning is not None:
            yield event("agent_reasoning", text=self.reasoning)
            yield response_item("reasoning", summary=[{"type": "summary_text", "text": self.reasoning}])
        yield from self.tools
        yield event("agent_message", message=self.answer)
        yield model_message("assistant", self.answer)
        yield event("task_complete", turn_id=self.turn_id, last_agent_message=self.answer)

    def paginated_items(self, thread_id: str) -> Iterator[dict[str, Any]]:
        """Yield the turn in the form that newer codex expects in threads that it began."""

        def completed(kind: str, part: str, text: str) -> dict[str, Any]:
            item = {"type": kind, "id": f"{self.turn_id}-{kind}", "content": [{"type": part, "text": text}]}
            return event("item_completed", thread_id=thread_id, turn_id=self.turn_id, item=item, completed_at_ms=0)

        yield event("task_started", turn_id=self.turn_id, started_at=1795000000, model_context_window=128000)
        yield completed("UserMessage", "text", self.question)
        yield model_message("user", self.question)
        yield completed("AgentMessage", "Text", self.answer)
        yield model_message("assistant", self.answer)
        yield event("task_complete", turn_id=self.turn_id, last_agent_message=self.answer)

    @property
    def said(self) -> list[tuple[str, str]]:
        """The turn as codex shows it, with codex's names for the types."""
        payloads = [tool["payload"] for tool in self.tools]
        return [
            ("userMessage", self.question),
            *([("reasoning", self.reasoning)] if self.reasoning is not None else []),
            *(("webSearch", payload["query"]) for payload in payloads if payload["type"] == "web_search_end"),
            ("agentMessage", self.answer),
        ]


LS = {"type": "exec", "command": ["ls", "-la"], "timeout_ms": 1000, "working_directory": "/repo"}
SEARCH = {"type": "search", "query": "make Fehler 2"}

#: Every kind of tool call, each with its output.
TOOLS = (
    response_item("function_call", name="shell", arguments='{"command":["make"]}', call_id="call_1"),
    response_item("function_call_output", call_id="call_1", output="make: *** [all] Fehler 2"),
    response_item("custom_tool_call", status="completed", call_id="call_2", name="apply_patch", input="*** Begin"),
    response_item("custom_tool_call_output", call_id="call_2", output="patched 日本語.txt"),
    response_item("local_shell_call", status="completed", call_id="call_3", action=LS),
    response_item("function_call_output", call_id="call_3", output="total 0"),
    response_item("web_search_call", status="completed", action=SEARCH),
    event("web_search_end", call_id="ws_1", query=SEARCH["query"], action=SEARCH),
)

TURNS = (
    Turn("turn-a", "Fix the quokkasort build 🔧", "It is fixed ✅", "**Looking** at the Makefile", TOOLS),
    Turn("turn-b", "すべての試験を実行してください", "十二の試験に合格しました 👩‍👩‍👧‍👦"),
    Turn("turn-c", "עכשיו כתוב את התיעוד", "הנה \u202bالتوثيق\u202c, כבקשתך"),  # noqa: RUF001 - intended Arabic
)


async def begin(store: ThreadStore, *turns: Turn, **params: Any) -> LiveThread:
    """Return a new thread with *turns*."""
    created = CreateThreadParams.model_validate({"cwd": "/repo", "model_provider": PROVIDER, **params})
    thread = await LiveThread.create(store, created)
    for turn in turns:
        await thread.append_items(list(turn.items()))
    return thread
