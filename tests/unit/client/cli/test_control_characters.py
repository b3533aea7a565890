"""What a thread says cannot control the terminal on which a command shows it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
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


@pytest.mark.parametrize("form", ["jsonl", "markdown"])
def test_an_export_cannot_control_the_terminal(tmp_path: Path, form: str) -> None:
    command = [sys.executable, "-m", "livethread", "export", NAME, "--format", form]
    environment = {**os.environ, "LIVETHREAD_HOME": str(tmp_path)}
    reader, terminal = os.openpty()
    with (
        open(reader, "rb", buffering=0) as shown,  # noqa: PTH123 - a descriptor
        subprocess.Popen(command, env=environment, stdout=terminal) as process,
    ):
        os.close(terminal)
        output = b"".join(_until_closed(shown)).decode()
    piped = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout.decode()

    assert process.returncode == 0
    assert "there" in output
    assert not {"\x1b", "\x9b", "\x7f"} & {*output}
    assert "\x9b" in piped


def _until_closed(terminal: io.RawIOBase) -> Iterator[bytes]:
    with suppress(OSError):  # Linux fails, and macOS ends, once no process has the terminal open
        while read := terminal.read(65536):
            yield read


def test_a_reason_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read() -> Status:
        return Status.of(facts(shard(95, parked_threads=1), longest=(waits(95, reason=ATTACK, is_parked=True),)))

    monkeypatch.setattr(status_module, "_read", read)

    run = CliRunner().invoke(main, ["status", "--once"])

    assert "hi \ufffd]52" in run.output
    assert not {"\x1b", "\x9b", "\r"} & {*run.output}
