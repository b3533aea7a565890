"""Which home or deployment a command acts on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from livethread.cli import main

URL = "redis://:secret@redis.example:6379/0"


def run(*arguments: str, **variables: str) -> Result:
    variables = {"LIVETHREAD_HOME": "", "LIVETHREAD_REDIS_URL": ""} | variables
    return CliRunner().invoke(main, arguments, env=variables)


@pytest.fixture
def rollout(tmp_path: Path) -> Path:
    path = tmp_path / "codex/sessions/rollout-2026-11-22T12-00-00-019a93b9-f380-7600-98ff-000000000001.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    return path


@pytest.mark.parametrize("command", ["import", "doctor", "rebuild", "verify"])
def test_with_a_redis_and_no_home_no_home_is_guessed(tmp_path: Path, rollout: Path, command: str) -> None:
    arguments = [str(rollout)] if command in {"import", "verify"} else []
    (tmp_path / ".livethread").mkdir()

    result = run(command, *arguments, HOME=str(tmp_path), LIVETHREAD_REDIS_URL=URL)

    assert result.exit_code == 1
    assert "the home of the deployment livethread at redis://:***@redis.example:6379/0 is not known" in result.output
    assert "set LIVETHREAD_HOME" in result.output
    assert [*(tmp_path / ".livethread").iterdir()] == []


@pytest.mark.parametrize("command", ["import", "doctor", "rebuild"])
def test_the_home_that_was_worked_on_is_named(tmp_path: Path, rollout: Path, command: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    arguments = [command, str(rollout)] if command == "import" else [command]

    text = run(*arguments, LIVETHREAD_HOME=str(home), LIVETHREAD_REDIS_URL=URL).output
    found = json.loads(run(*arguments, "--json", LIVETHREAD_HOME=str(home)).stdout)

    assert str(home) in text
    assert found["home"] == str(home)


@pytest.mark.parametrize(
    "command",
    [
        ["ls"],
        ["search", "x"],
        ["show", "019a93b9-f380-7600-98ff-000000000001"],
        ["parked"],
        ["parked", "retry", "019a93b9-f380-7600-98ff-000000000001"],
        ["shards"],
        ["doctor"],
        ["rebuild"],
    ],
)
def test_what_only_reads_creates_no_home(tmp_path: Path, command: list[str]) -> None:
    home = tmp_path / "home"

    result = run(*command, LIVETHREAD_HOME=str(home))

    assert str(home) in result.output
    assert not home.exists()
