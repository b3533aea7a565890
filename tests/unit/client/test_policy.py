from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tests.codex

from livethread.policy import is_known, is_persisted, kind_of, persisted_items
from livethread.rollout.item import RolloutItem

#: Every kind that codex knows, and whether it persists it; `tests/codex/test_policy.py` compares it with codex.
ROWS = [
    json.loads(line)
    for line in (Path(tests.codex.__path__[0]) / "policy.jsonl").read_text(encoding="utf-8").splitlines()
]

#: Kinds of older codex that were persisted.
OLDER_KEPT = ["turn_started", "turn_complete"]

#: Kinds of older codex that were not.
OLDER_DROPPED = [
    "agent_message_delta",
    "agent_reasoning_delta",
    "background_event",
    "list_skills_response",
    "thread_name_updated",
]

FUTURE = [
    ("from_the_future", {}),
    ("response_item", {"type": "from_the_future"}),
    ("response_item", {"type": ""}),
    ("event_msg", {"type": "from_the_future"}),
    ("event_msg", {"type": "item_completed", "item": {"type": "FromTheFuture"}}),
    ("event_msg", {"type": "item_completed", "item": {"type": "Extension", "kind": "from.the.future"}}),
    ("event_msg", {"type": "item_completed", "item": {"type": "Extension"}}),
    ("event_msg", {"type": "item_completed", "item": {"type": "Extension", "kind": ["odd"]}}),
    ("event_msg", {"type": "item_completed", "item": "odd"}),
    ("event_msg", {"type": "item_completed"}),
]


def item(type_: str, **payload: Any) -> RolloutItem:
    return RolloutItem(type=type_, payload=payload)


def item_of(row: dict[str, Any]) -> RolloutItem:
    return RolloutItem(type=row["type"], payload=row["payload"])


@pytest.mark.parametrize("row", [pytest.param(row, id=kind_of(item_of(row))) for row in ROWS])
def test_each_kind_is_persisted_as_codex_does_it(row: dict[str, Any]) -> None:
    given = item_of(row)

    assert (is_persisted(given, "legacy"), is_persisted(given, "paginated")) == (row["legacy"], row["paginated"])
    assert is_persisted(given) == row["legacy"]
    assert is_known(given)


@pytest.mark.parametrize("mode", [None, "legacy", "paginated", "from_the_future"])
@pytest.mark.parametrize(("line", "payload"), FUTURE)
def test_a_kind_that_this_release_does_not_know_is_kept(line: str, payload: Any, mode: str | None) -> None:
    given = RolloutItem(type=line, payload=payload)

    assert is_persisted(given, mode)
    assert not is_known(given)


@pytest.mark.parametrize("kind", OLDER_KEPT)
def test_an_event_that_older_codex_persists_is_kept(kind: str) -> None:
    given = item("event_msg", type=kind)

    assert is_persisted(given)
    assert is_known(given)


@pytest.mark.parametrize("kind", OLDER_DROPPED)
def test_a_transient_event_of_older_codex_is_dropped(kind: str) -> None:
    given = item("event_msg", type=kind)

    assert not is_persisted(given)
    assert is_known(given)


def test_a_callers_metadata_line_is_dropped() -> None:
    assert not is_persisted(item("thread_metadata", title="forged"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (item("event_msg", type="error"), "event_msg/error"),
        (item("response_item", type="message"), "response_item/message"),
        (item("turn_context", type="odd"), "turn_context"),
        (item("event_msg", type="item_completed", item={"type": "Plan"}), "event_msg/item_completed/Plan"),
        (
            item("event_msg", type="item_completed", item={"type": "Extension", "kind": "web.search"}),
            "event_msg/item_completed/Extension/web.search",
        ),
    ],
)
def test_a_kind_has_a_name(given: RolloutItem, expected: str) -> None:
    assert kind_of(given) == expected


def test_persisted_items_keep_their_order() -> None:
    first, second = item("event_msg", type="user_message"), item("turn_context")

    assert persisted_items([first, item("event_msg", type="error"), second]) == [first, second]
    assert persisted_items([first, second], "paginated") == [second]


def test_the_reference_says_what_is_stored() -> None:
    text = (Path(__file__).parents[3] / "docs" / "reference.md").read_text(encoding="utf-8")
    table = text.partition("| `type` | kinds | others | paginated |\n|---|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()]
    said = {f"{of}/{kind}": stored for of, kinds, *stored in rows for kind in kinds.split("` `")}

    known = {
        kind_of(item_of(row)): [("dropped", "kept")[row[mode]] for mode in ("legacy", "paginated")]
        for row in ROWS
        if row["payload"].get("kind") != "completed"  # of sub_agent_activity, which the text below the table names
    }
    assert {kind: said.get(_listed(kind)) for kind in known} == known


def _listed(kind: str) -> str:
    """Return how the reference lists a kind."""
    if kind.startswith("event_msg/item_completed/"):
        return kind.removeprefix("event_msg/")
    return kind if "/" in kind else f"any other/{kind}"
