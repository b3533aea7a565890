"""Histories whose turns are not obvious, with the turns that codex 0.171.0 shows."""

from __future__ import annotations

from typing import Any

from livethread import StoredTurnStatus

COMPLETED, INTERRUPTED, FAILED = StoredTurnStatus.COMPLETED, StoredTurnStatus.INTERRUPTED, StoredTurnStatus.FAILED

Item = dict[str, Any]

#: A turn: its status, and the messages that it shows.
Shown = tuple[StoredTurnStatus, list[str]]


def event(kind: str, **payload: Any) -> Item:
    return {"type": "event_msg", "payload": {"type": kind, **payload}}


def asked(text: str) -> Item:
    return event("user_message", message=text, images=[], local_images=[], text_elements=[])


def answered(text: str) -> Item:
    return event("agent_message", message=text)


def begun(turn_id: str) -> Item:
    return event("task_started", turn_id=turn_id, model_context_window=128000)


def completed(turn_id: str, **payload: Any) -> Item:
    return event("task_complete", turn_id=turn_id, last_agent_message=None, **payload)


def aborted(turn_id: str | None = None) -> Item:
    return event("turn_aborted", turn_id=turn_id, reason="interrupted")


def rolled_back(turns: int) -> Item:
    return event("thread_rolled_back", num_turns=turns)


def said_by(role: str, text: str) -> Item:
    content = [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]
    return {"type": "response_item", "payload": {"type": "message", "role": role, "content": content}}


COMPACTED = {"type": "compacted", "payload": {"message": "what was said"}}
CONTEXT_COMPACTED = event("context_compacted")
THOUGHT = {"type": "response_item", "payload": {"type": "reasoning", "summary": []}}
CALL = {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "c1"}
WEB_SEARCH = event("web_search_end", call_id="w1", query="q", action={"type": "search", "query": "q"})
DURATION = {"secs": 1, "nanos": 0}
MCP_CALL = event(
    "mcp_tool_call_end",
    call_id="m1",
    invocation={"server": "s", "tool": "t", "arguments": {}},
    duration=DURATION,
    result={"Ok": {"content": []}},
)
IMAGE = event("image_generation_end", call_id="i1", status="completed", result="AA")
REVIEW = event("entered_review_mode", target={"type": "custom", "instructions": "x"}, user_facing_hint="h")
REVIEWED = event("exited_review_mode", review_output=None)
HOOK = said_by("user", '<hook_prompt hook_run_id="h1">hi</hook_prompt>')


def patched(turn_id: str) -> Item:
    return event(
        "patch_apply_end",
        call_id="p1",
        turn_id=turn_id,
        stdout="",
        stderr="",
        success=True,
        changes={},
        status="completed",
    )


FAILURE = {"message": "no", "codex_error_info": "usage_limit_exceeded"}

Q: Shown = (COMPLETED, ["q"])

HISTORIES: dict[str, tuple[list[Item], list[Shown]]] = {
    "an answer first": ([answered("a"), asked("q"), answered("b")], [(COMPLETED, ["a"]), (COMPLETED, ["q", "b"])]),
    "an empty answer first": ([answered(""), asked("q")], [Q]),
    "reasoning first": ([event("agent_reasoning", text="r"), asked("q")], [(COMPLETED, []), Q]),
    "raw reasoning first": ([event("agent_reasoning_raw_content", text="r"), asked("q")], [(COMPLETED, []), Q]),
    "a web search first": ([WEB_SEARCH, asked("q")], [(COMPLETED, []), Q]),
    "an MCP call first": ([MCP_CALL, asked("q")], [(COMPLETED, []), Q]),
    "an image first": ([IMAGE, asked("q")], [(COMPLETED, []), Q]),
    "a review first": ([REVIEW, asked("q")], [(COMPLETED, []), Q]),
    "the end of a review first": ([REVIEWED, asked("q")], [(COMPLETED, []), Q]),
    "a hook's prompt first": ([HOOK, asked("q")], [(COMPLETED, []), Q]),
    "a patch of no turn first": ([patched(""), asked("q")], [(COMPLETED, []), Q]),
    "a patch of an unknown turn first": ([patched("t9"), asked("q")], [Q]),
    "response items first": ([THOUGHT, {"type": "response_item", "payload": CALL}, said_by("assistant", "a"), asked("q")], [Q]),
    "response items alone": ([said_by("user", "x"), said_by("assistant", "a")], []),
    "a count of tokens first": ([event("token_count", info=None, rate_limits=None), asked("q")], [Q]),
    "a compaction first": ([COMPACTED, asked("q"), answered("a")], [(COMPLETED, ["q", "a"])]),
    "a shown compaction first": ([CONTEXT_COMPACTED, asked("q")], [(COMPLETED, []), Q]),
    "a compaction in both forms first": ([COMPACTED, CONTEXT_COMPACTED, asked("q")], [(COMPLETED, []), Q]),
    "a compaction after a turn": ([begun("t1"), asked("q"), completed("t1"), COMPACTED], [Q, (COMPLETED, [])]),
    "a compaction in a turn": ([begun("t1"), asked("q"), COMPACTED, CONTEXT_COMPACTED, answered("a"), completed("t1")], [(COMPLETED, ["q", "a"])]),
    "a compaction between messages": ([asked("q"), COMPACTED, asked("r")], [Q, (COMPLETED, ["r"])]),
    "a compaction that was aborted": ([COMPACTED, aborted(), asked("q")], [(INTERRUPTED, []), Q]),
    "a completion of no turn": ([begun("t1"), asked("q"), completed("t9"), asked("r")], [Q, (COMPLETED, ["r"])]),
    "a completion of no turn, without a start": ([asked("q"), completed("t9"), answered("a"), asked("r")], [Q, (COMPLETED, ["a"]), (COMPLETED, ["r"])]),
    "an abort of no turn": ([begun("t1"), asked("q"), aborted("t9"), asked("r")], [(INTERRUPTED, ["q", "r"])]),
    "an abort of no turn, without a start": ([asked("q"), aborted("t9"), answered("a")], [(INTERRUPTED, ["q"]), (COMPLETED, ["a"])]),
    "ends alone": ([completed("t9"), aborted("t9"), aborted(), asked("q")], [Q]),
    "an abort": ([begun("t1"), asked("q"), aborted("t1"), asked("r")], [(INTERRUPTED, ["q"]), (COMPLETED, ["r"])]),
    "an abort without an id": ([begun("t1"), asked("q"), aborted(), answered("a")], [(INTERRUPTED, ["q"]), (COMPLETED, ["a"])]),
    "an abort, then a completion": ([begun("t1"), asked("q"), aborted("t1"), completed("t1")], [(INTERRUPTED, ["q"])]),
    "a completion, then an abort": ([begun("t1"), asked("q"), completed("t1"), aborted("t1")], [(INTERRUPTED, ["q"])]),
    "the end of the outer turn": ([begun("t1"), asked("q"), begun("t2"), asked("r"), completed("t1"), asked("s"), completed("t2")], [Q, (COMPLETED, ["r", "s"])]),
    "the abort of the outer turn": ([begun("t1"), asked("q"), begun("t2"), asked("r"), aborted("t1"), asked("s"), completed("t2")], [(INTERRUPTED, ["q"]), (COMPLETED, ["r", "s"])]),
    "an earlier turn ends again": ([begun("t1"), asked("q"), completed("t1"), answered("a"), completed("t1"), answered("b")], [Q, (COMPLETED, ["a", "b"])]),
    "an id twice": ([begun("t1"), asked("q"), completed("t1"), begun("t1"), asked("r"), completed("t1")], [Q, (COMPLETED, ["r"])]),
    "an id twice, and a late end": ([begun("t1"), asked("q"), begun("t1"), asked("r"), begun("t2"), asked("s"), completed("t1"), completed("t2")], [Q, (INTERRUPTED, ["r"]), (COMPLETED, ["s"])]),
    "an answer after a turn": ([begun("t1"), asked("q"), completed("t1"), answered("a"), asked("r")], [Q, (COMPLETED, ["a"]), (COMPLETED, ["r"])]),
    "a rollback of an answer": ([begun("t1"), asked("q"), completed("t1"), answered("a"), rolled_back(1), asked("r")], [Q, (COMPLETED, ["r"])]),
    "a rollback of a compaction": ([asked("q"), COMPACTED, begun("t1"), asked("r"), completed("t1"), COMPACTED, rolled_back(2)], [Q]),
    "a rollback to a preface": ([answered("a"), asked("q"), answered("b"), asked("r"), rolled_back(2), asked("s")], [(COMPLETED, ["a"]), (COMPLETED, ["s"])]),
    "a rollback of all": ([answered("a"), asked("q"), asked("r"), rolled_back(3), asked("s")], [(COMPLETED, ["s"])]),
    "a rollback, then an answer": ([begun("t1"), asked("q"), rolled_back(1), answered("a")], [(COMPLETED, ["a"])]),
    "a rollback within a turn": ([begun("t1"), asked("q"), begun("t2"), asked("r"), rolled_back(1), answered("a"), completed("t2")], [(INTERRUPTED, ["q"]), (COMPLETED, ["a"])]),
    "the end of a turn that was rolled back": ([begun("t1"), asked("q"), rolled_back(1), begun("t2"), asked("r"), completed("t1"), asked("s")], [(COMPLETED, ["r"]), (COMPLETED, ["s"])]),
    "an empty turn": ([begun("t1"), completed("t1"), begun("t2"), begun("t3"), asked("q"), completed("t3")], [(COMPLETED, []), (INTERRUPTED, []), Q]),
    "a turn that never ended": ([begun("t1"), asked("q")], [(INTERRUPTED, ["q"])]),
    "two turns that never ended": ([begun("t1"), asked("q"), begun("t2"), asked("r")], [(INTERRUPTED, ["q"]), (INTERRUPTED, ["r"])]),
    "a question without an end": ([asked("q"), answered("a")], [(COMPLETED, ["q", "a"])]),
    "a failure": ([begun("t1"), asked("q"), completed("t1", error=FAILURE)], [(FAILED, ["q"])]),
}  # fmt: skip
