"""A thread as Markdown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.unit.client.web.items import call, event, message, output, response

from livethread import StoredThread
from livethread.types import StoredTurn, StoredTurnItemsView, StoredTurnStatus
from livethread.web.markdown import markdown
from livethread.web.transcript import ShownTurn

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
THREAD = StoredThread(
    thread_id="019a93b9-f380-7600-98ff-000000000001",
    name="Fix\n it",
    cwd="/repo",
    created_at=AT,
    updated_at=AT,
    recency_at=AT,
)


def test_turns_are_headed_and_calls_are_folded_with_their_outputs() -> None:
    items = (
        event("user_message", message="Fix *it*"),
        message("user", "Fix *it*"),
        response("reasoning", summary=[{"type": "summary_text", "text": "Looking"}]),
        call("c1", "shell", command=["bash", "-lc", "cat a.md\necho <b>"]),
        output("c1", '{"output": "````\\nno\\n````", "metadata": {"exit_code": 2, "duration_seconds": 1.5}}'),
        event("agent_message", message="Done:\n\n- one"),
        event("turn_aborted", reason="interrupted"),
    )
    turn = StoredTurn(
        turn_id="t1",
        items=items,
        items_view=StoredTurnItemsView.FULL,
        status=StoredTurnStatus.INTERRUPTED,
        started_at=AT,
        duration_ms=61_400,
    )

    paragraphs = [*markdown(THREAD, [ShownTurn(turn)], lambda at: f"{at:%H:%M}")]

    assert paragraphs == [
        "# Fix it",
        f"- thread: {THREAD.thread_id}\n- directory: /repo\n- created: 12:00\n- updated: 12:00",
        "## 1 · 12:00 · 61 s · interrupted",
        "**User:**",
        "Fix *it*",
        "<details><summary>Reasoning</summary>",
        "Looking",
        "</details>",
        "<details><summary>shell cat a.md (exit code 2)</summary>",
        "```\ncat a.md\necho <b>\n```",
        "`````\n````\nno\n````\n`````",
        "</details>",
        "**Agent:**",
        "Done:\n\n- one",
        "*Failed: Interrupted*",
    ]


@pytest.mark.parametrize(
    ("known", "heading"),
    [
        ({"name": "A name", "title": "A title", "preview": "Asked"}, "# A name"),
        ({"name": None, "title": "A\n title", "preview": "Asked"}, "# A title"),
        ({"name": None}, f"# {THREAD.thread_id}"),
    ],
)
def test_a_thread_has_the_heading_of_its_page(known: dict[str, str], heading: str) -> None:
    assert next(markdown(THREAD.model_copy(update=known), (), str)) == heading
