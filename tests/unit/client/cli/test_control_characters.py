"""What a thread says cannot control the terminal on which a command shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.nodes.statuses import facts, shard, waits
from tests.unit.worker.builders import item_line, opened_store, thread_id

from livethread.cli import main
from livethread.cli import status as status_module
from livethread.status.status import Status

NAME = thread_id(1)
#: Copies to the clipboard, clears the screen, and goes back to the line's start.
ATTACK = "hi \x1b]52;c;cm0gLXJm\x07 \x9b2J\r there\x7f"
SHOWN = "hi \ufffd]52;c;cm0gLXJm\ufffd \ufffd2J there\ufffd"


@pytest.fixture(autouse=True)
def _attacking_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVETHREAD_HOME", str(tmp_path))
    for store in opened_store(tmp_path):
        store.write_rollout(NAME, item_line("event_msg", {"type": "user_message", "message": ATTACK}))


@pytest.mark.parametrize(
    "command", [["ls"], ["show", NAME], ["tail", NAME], ["tail", NAME, "--full"], ["search", "there"]], ids=" ".join
)
def test_a_thread_cannot_control_the_terminal(command: list[str]) -> None:
    run = CliRunner().invoke(main, command)

    assert run.exit_code == 0, run.output
    assert SHOWN in run.output or "--full" in command
    assert not {"\x1b", "\x9b", "\r"} & {*run.output}


def test_a_reason_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read() -> Status:
        return Status.of(facts(shard(95, parked_threads=1), longest=(waits(95, reason=ATTACK, is_parked=True),)))

    monkeypatch.setattr(status_module, "_read", read)

    run = CliRunner().invoke(main, ["status", "--once"])

    assert "hi \ufffd]52" in run.output
    assert not {"\x1b", "\x9b", "\r"} & {*run.output}
