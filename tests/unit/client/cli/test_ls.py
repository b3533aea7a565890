"""``livethread ls``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.worker.builders import Store, item_line, opened_store, thread_id

from livethread.cli import main

ONE = thread_id(1)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVETHREAD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(store: Store, n: int, cwd: Path) -> None:
    path = store.write_rollout(thread_id(n))
    path.write_bytes(item_line("session_meta", {"id": thread_id(n), "cwd": f"{cwd}/"}) + b"\n")


def test_a_directory_may_be_relative(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    for store in opened_store(home):
        write(store, 1, tmp_path / "project")
        write(store, 2, tmp_path / "other")
    monkeypatch.chdir(tmp_path / "project")

    for spelling in (".", "../project"):
        result = CliRunner().invoke(main, ["ls", "--all", "--json", "--cwd", spelling])
        assert [thread["thread_id"] for thread in json.loads(result.stdout)["items"]] == [ONE]


@pytest.mark.parametrize(
    "command", [["ls", "--all", "--json"], ["show", ONE, "--json"], ["show", ONE], ["show", ONE, "--full"]]
)
def test_integers_beyond_64_bits_are_printed(home: Path, command: list[str]) -> None:
    usage = {"total_token_usage": {"total_tokens": 2**64}}
    for store in opened_store(home):
        store.write_rollout(ONE, item_line("event_msg", {"type": "token_count", "info": usage}))

    result = CliRunner().invoke(main, command)

    assert result.exit_code == 0
    assert str(2**64) in result.stdout


def test_the_keys_of_an_item_are_printed_in_one_order(home: Path) -> None:
    for store in opened_store(home):
        line = item_line("event_msg", {"type": "x", "b": 1, "a": 2})[:-1] + b',"z":1,"y":2,"ordinal":7}'
        store.write_rollout(ONE, line)

    result = CliRunner().invoke(main, ["show", ONE, "--json"])

    item = json.loads(result.stdout)["history"]["items"][1]
    assert [*item] == ["type", "payload", "timestamp", "ordinal", "z", "y"]
    assert [*item["payload"]] == ["type", "b", "a"]


def test_nothing_found_names_the_place_and_the_filters_and_creates_no_home(home: Path) -> None:
    command = ["ls", "--archived", "--search", "a b", "--cwd", "/x", "--cwd", "/y", "--utc"]

    assert CliRunner().invoke(main, ["ls"]).output == f"no threads in the home {home}\n"
    filters = "--archived --search 'a b' --cwd /x --cwd /y"
    assert CliRunner().invoke(main, command).output == f"no threads in the home {home} with {filters}\n"
    assert not home.exists()


def test_a_pipe_gets_whole_values_and_times_of_here_or_utc(home: Path, new_york: None) -> None:
    message = "Größe [bold] " + "x" * 300
    for store in opened_store(home):
        store.write_rollout(ONE, item_line("event_msg", {"type": "user_message", "message": message}))

    local, utc = (CliRunner().invoke(main, ["ls", *option]).output for option in ([], ["--utc"]))

    assert local == f"{ONE}\t2026-11-22 07:00:00\t{message}\t\n"
    assert utc == f"{ONE}\t2026-11-22 12:00:00Z\t{message}\t\n"
