"""``livethread tail``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.worker.builders import item_line, opened_store, thread_id

from livethread.cli import item_lines, main

NAME = thread_id(1)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages of a thread, after its ``session_meta``."""
    monkeypatch.setattr(item_lines, "PAGE", 3)
    monkeypatch.setenv("LIVETHREAD_HOME", str(tmp_path))
    texts = [f"message {n} " + "x" * 300 for n in range(30)]
    for store in opened_store(tmp_path):
        lines = (item_line("event_msg", {"type": "agent_message", "message": text}) for text in texts)
        store.write_rollout(NAME, *lines)
    return texts


def tailed(*options: str) -> list[str]:
    run = CliRunner().invoke(main, ["tail", *options])
    assert run.exit_code == 0, run.output
    return run.stdout.splitlines()


@pytest.mark.parametrize("thread", [NAME, NAME[:10], NAME.upper()])
def test_the_last_twenty_items_are_printed_uncut(texts: list[str], thread: str) -> None:
    assert [line.split(maxsplit=3)[-1] for line in tailed(thread, "--utc")] == texts[-20:]


@pytest.mark.parametrize(("last", "count"), [("0", 0), ("1", 1), ("7", 7), ("99", 31)])
def test_so_many_items_are_printed(texts: list[str], last: str, count: int) -> None:
    assert len(tailed(NAME, "--last", last)) == count == len(tailed(NAME, "-n", last, "--full"))


def test_times_are_of_here(texts: list[str], new_york: None) -> None:
    assert tailed(NAME, "-n", "1")[0].split()[:2] == ["2026-11-22", "07:00:00"]
    assert tailed(NAME, "-n", "1", "--utc")[0].split()[:2] == ["2026-11-22", "12:00:00Z"]


def test_each_item_is_a_line_of_json(texts: list[str]) -> None:
    shown = json.loads(CliRunner().invoke(main, ["show", NAME, "--last", "2", "--json"]).stdout)

    assert [json.loads(line) for line in tailed(NAME, "-n", "2", "--json")] == shown["history"]["items"]


def test_an_unknown_thread_is_an_error(texts: list[str]) -> None:
    run = CliRunner().invoke(main, ["tail", "no such thread"])

    assert (run.exit_code, run.stdout) == (1, "")
    assert "no such thread" in run.stderr
