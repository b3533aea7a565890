"""The text output of ``livethread show``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.worker.builders import thread_id

from livethread.cli import main

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

    shown = CliRunner().invoke(main, ["show", name])

    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[-1].split() == ["event_msg/user_message", "hello"]
