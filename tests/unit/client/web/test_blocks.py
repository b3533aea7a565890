from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.web.items import AT, call, completed, event, message, output, response

from livethread.rollout.item import RolloutItem
from livethread.types import StoredTurn, StoredTurnItemsView, StoredTurnStatus
from livethread.web import blocks
from livethread.web.blocks import blocks_of
from livethread.web.calls import Outcome, Request, request_of
from livethread.web.render import render_turn
from livethread.web.transcript import ShownTurn, Tokens, tokens_of

PATCH = "*** Begin Patch\n*** Update File: a.py\n@@\n-old\n+new\n*** End Patch"


def said(*items: RolloutItem) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in blocks_of(items)]


def test_what_an_event_and_a_response_item_both_say_is_shown_once() -> None:
    shown = said(
        message("user", "Fix it"),
        event("user_message", message="Fix it"),
        event("agent_reasoning", text="**Looking**"),
        response("reasoning", summary=[{"type": "summary_text", "text": "**Looking**"}], encrypted_content="x"),
        event("agent_message", message="Done."),
        message("assistant", "Done."),
    )

    assert shown == [("user", "Fix it"), ("reasoning", "**Looking**"), ("agent", "Done.")]


def test_content_may_be_a_string() -> None:
    plain = response("message", role="user", content="Fix it"), response("message", role="assistant", content="Done.")
    paginated = completed("UserMessage", content="Go on"), completed("AgentMessage", content="Gone.")

    assert said(*plain) == [("user", "Fix it"), ("agent", "Done.")]
    assert said(*paginated) == [("user", "Go on"), ("agent", "Gone.")]


@pytest.mark.parametrize("text", ["<div> is broken", "Fix it"])
def test_a_message_with_a_file_is_shown_once(text: str) -> None:
    shown = said(message("user", text), event("user_message", message=text, local_images=["/tmp/a.png"]))

    assert shown == [("user", f"{text}\n\n`/tmp/a.png`")]


def test_what_is_said_twice_is_shown_twice() -> None:
    twice = [event("user_message", message="go on"), message("user", "go on")] * 2

    assert said(*twice) == [("user", "go on")] * 2


def test_what_the_harness_says_in_the_users_name_is_context() -> None:
    shown = said(
        message("user", "<environment_context>…"),
        message("user", "# AGENTS.md"),
        message("developer", "Be brief."),
        event("user_message", message="Hello"),
    )

    assert [kind for kind, _ in shown] == ["context", "context", "context", "user"]


def test_without_events_a_users_messages_are_the_users() -> None:
    assert said(message("user", "Hello"), message("assistant", "Hi")) == [("user", "Hello"), ("agent", "Hi")]


def test_a_paginated_threads_items_are_shown() -> None:
    shown = said(
        completed("UserMessage", content=[{"type": "text", "text": "Fix it"}]),
        completed("Reasoning", summary_text=["First", "Second"], raw_content=[]),
        completed("AgentMessage", content=[{"type": "Text", "text": "Done."}]),
    )

    assert shown == [("user", "Fix it"), ("reasoning", "First"), ("reasoning", "Second"), ("agent", "Done.")]


def test_a_call_its_output_and_its_report_are_one_block() -> None:
    (block,) = blocks_of([
        call("c1", "shell", command=["bash", "-lc", "make\nmake test"]),
        output("c1", '{"output": "failed", "metadata": {"exit_code": 2, "duration_seconds": 1.5}}'),
        event("exec_command_end", call_id="c1", stdout="failed", exit_code=2),
    ])

    assert block.request == Request("shell", "make", "make\nmake test")
    assert block.outcome == Outcome("failed", 2, None, 1.5)
    assert block.has_failed


def test_a_call_without_an_output_is_open() -> None:
    assert blocks_of([call("c1", "exec_command", cmd="sleep 9")])[0].outcome is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Chunk ID: 1\nProcess exited with code 1\nOutput:\nno", Outcome("Chunk ID: 1\nProcess exited with code 1\nOutput:\nno", 1)),
        ([{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "x"}], Outcome("a")),
        ({"content": "refused", "success": False}, Outcome("refused", None, is_ok=False)),
        (None, Outcome("")),
        pytest.param("Exit code: " + "1" * 5_000, Outcome("Exit code: " + "1" * 5_000), id="digits"),
    ],
)  # fmt: skip
def test_every_form_of_output_is_read(value: object, expected: Outcome) -> None:
    assert blocks_of([call("c1", "tool"), output("c1", value)])[0].outcome == expected


@pytest.mark.parametrize(
    "item",
    [
        response("custom_tool_call", name="apply_patch", call_id="c", input=PATCH),
        call("c", "shell", command=["bash", "-lc", f"apply_patch <<'EOF'\n{PATCH}\nEOF"]),
    ],
)
def test_a_patch_is_a_diff(item: RolloutItem) -> None:
    request = blocks_of([item])[0].request

    assert request is not None
    assert (request.line, request.diff) == ("a.py", PATCH)


def test_a_megabyte_of_patches_that_never_end_is_text() -> None:
    text = "*** Begin Patch\n" * 65_536

    assert request_of("exec", {"command": text}) == Request("exec", "*** Begin Patch", text)


def test_codexs_report_of_a_patch_is_a_diff() -> None:
    changes = {
        "a.py": {"type": "update", "unified_diff": "@@ -1 +1 @@\n-a\n+b\n", "move_path": "b.py"},
        "c.py": {"type": "add", "content": "x\ny\n"},
    }

    (block,) = blocks_of([event("patch_apply_end", call_id="c", success=False, stderr="no", changes=changes)])

    assert block.request is not None
    assert block.request.diff == ("*** Update File: a.py → b.py\n@@ -1 +1 @@\n-a\n+b\n*** Add File: c.py\n+x\n+y")
    assert block.has_failed


def test_an_mcp_call_that_failed_says_so() -> None:
    result = {"Ok": {"content": [{"type": "text", "text": "no such table"}], "isError": True}}
    invocation = {"server": "db", "tool": "query", "arguments": {"sql": "select"}}

    (block,) = blocks_of([event("mcp_tool_call_end", call_id="c", invocation=invocation, result=result)])

    assert block.request == Request("db.query", '{ "sql": "select" }', '{\n  "sql": "select"\n}')
    assert block.outcome == Outcome("no such table", None, is_ok=False)


def test_a_call_that_spawns_a_sub_agent_leads_to_its_thread() -> None:
    spawn = {"tool": "spawn_agent", "status": "completed", "prompt": "Review it", "receiver_thread_ids": ["child"]}

    (block,) = blocks_of([
        call("c", "spawn_agent", message="Review it"),
        completed("CollabAgentToolCall", id="c", **spawn),
    ])

    assert (block.kind, block.threads, block.has_failed) == ("call", ("child",), False)


def test_interruptions_and_errors_are_failures() -> None:
    shown = blocks_of([event("turn_aborted", reason="interrupted"), event("error", message="usage limit")])

    assert [(block.text, block.has_failed) for block in shown] == [("Interrupted", True), ("usage limit", True)]


def test_only_pictures_that_the_message_holds_are_shown() -> None:
    images = ["data:image/png;base64,AAAA", "https://example.com/a.png", "data:image/svg+xml;base64,AAAA"]

    (block,) = blocks_of([event("user_message", message="", images=images)])

    assert block.images == ("data:image/png;base64,AAAA",)


def test_an_item_of_an_unknown_kind_is_shown_as_it_is() -> None:
    assert said(event("brand_new", value=1)) == [
        ("context", 'event_msg/brand_new: {\n  "type": "brand_new",\n  "value": 1\n}')
    ]


def test_a_turns_tokens_are_those_between_its_counts() -> None:
    def count(total: int, last: int) -> RolloutItem:
        info = {
            f"{name}_token_usage": {"input_tokens": n, "cached_input_tokens": n // 2, "output_tokens": n // 10}
            for name, n in (("total", total), ("last", last))
        }
        return event("token_count", info=info)

    items = (event("token_count", info=None), count(1_000, 200), count(1_000, 200), count(1_500, 500))

    assert tokens_of(items) == Tokens(sent=700, cached=350, received=70)


KINDS = sorted(blocks._SHOWN)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
FIELDS = (
    *("message", "text", "content", "summary", "role", "name", "arguments", "input", "action", "output", "call_id"),
    *("id", "changes", "invocation", "result", "duration", "status", "images", "local_images", "command", "plan"),
    *(
        "query",
        "info",
        "goal",
        "reason",
        "agent_thread_id",
        "receiver_thread_ids",
        "prompt",
        "tool",
        "summary_text",
        "raw_content",
        "success",
        "exit_code",
    ),
)


@st.composite
def odd_items(draw: st.DrawFn) -> RolloutItem:
    """An item of a kind that a page knows, with fields of any type."""
    line, *kind = draw(st.sampled_from(KINDS)).split("/")
    fields: dict[str, Any] = draw(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
    payload = {**fields, "type": kind[0]}
    if kind[0] == "item_completed":
        payload["item"] = {**fields, "type": kind[1]}
    return RolloutItem(line, payload, AT)


@given(
    st.lists(odd_items() | st.builds(RolloutItem, st.sampled_from(["x", "compacted", "event_msg"]), JSON), max_size=5)
)
def test_no_payload_breaks_a_page(items: list[RolloutItem]) -> None:
    turn = StoredTurn(
        turn_id="t", items=tuple(items), items_view=StoredTurnItemsView.FULL, status=StoredTurnStatus.COMPLETED
    )

    assert render_turn("", ShownTurn(turn)).count("<article") == len(blocks_of(items))
