"""``livethread show``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.unit.worker.builders import item_line, opened_store, thread_id

from livethread.cli import item_lines, main
from livethread.rollout.item import RolloutItem

AT = "2025-11-23T10:00:00.000Z"


def test_an_item_without_ordinal_has_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = thread_id(1)
    meta = {"id": name, "timestamp": AT, "cwd": "/repo", "originator": "codex", "cli_version": "0.1", "source": "cli"}
    message = {"type": "user_message", "message": "hello"}
    lines = [
        {"timestamp": AT, "type": "session_meta", "payload": meta},
        {"timestamp": AT, "type": "event_msg", "payload": message},
    ]
    rollout = tmp_path / f"sessions/2025/11/23/rollout-2025-11-23T10-00-00-{name}.jsonl"
    rollout.parent.mkdir(parents=True)
    rollout.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv("LIVETHREAD_HOME", str(tmp_path))

    shown = CliRunner().invoke(main, ["show", name, "--utc"])

    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[-1].split() == [AT[:10], "10:00:00Z", "event_msg/user_message", "hello"]


@pytest.mark.parametrize("content", ["hello", [{"type": "input_text", "text": "hello"}]])
def test_a_message_is_shown_by_its_text(content: Any) -> None:
    message = RolloutItem("response_item", {"type": "message", "role": "user", "content": content})

    assert item_lines.item_line(message, full=False, in_utc=True).split() == ["response_item/message", "hello"]


def test_only_the_last_items_are_shown_whole_and_with_times_of_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_york: None
) -> None:
    monkeypatch.setattr(item_lines, "PAGE", 2)
    monkeypatch.setenv("LIVETHREAD_HOME", str(tmp_path))
    name, texts = thread_id(1), [f"{n} " + "x" * 300 for n in range(7)]
    for store in opened_store(tmp_path):
        store.write_rollout(
            name, *(item_line("event_msg", {"type": "agent_message", "message": text}) for text in texts)
        )

    def shown(*options: str) -> str:
        return CliRunner().invoke(main, ["show", name, *options]).stdout

    facts, items = shown("--last", "5").split("\n\n")
    assert "updated_at             2026-11-22 07:00:00" in facts.splitlines()
    assert [line.split(maxsplit=3)[-1] for line in items.splitlines()] == texts[2:]
    assert " 2026-11-22 07:00:00 " in items
    found = json.loads(shown("--last", "5", "--json"))
    assert [item["payload"]["message"] for item in found["history"]["items"]] == texts[2:]
    assert len(json.loads(shown("--last", "99", "--json"))["history"]["items"]) == 1 + len(texts)
