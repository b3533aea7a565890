"""Threads on the command line, as a user has it: a terminal, a pipe, and nothing that runs already."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from tests.nodes.items import said
from tests.nodes.waiting import DEADLINE

from livethread import CreateThreadParams, LiveThread, Settings
from livethread_worker.store import LocalThreadStore

WIDTH = 80


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIVETHREAD_")}
    inherited.pop("COLUMNS", None)
    return inherited | {"LIVETHREAD_HOME": str(tmp_path / "home"), "TERM": "xterm"}


def piped(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "livethread", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=10 * DEADLINE, check=True
    ).stdout


def on_a_terminal(environment: dict[str, str], *arguments: str) -> list[str]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    command = [sys.executable, "-m", "livethread", *arguments]
    with os.fdopen(ours, "rb") as terminal, subprocess.Popen(command, env=environment, stdout=theirs):
        os.close(theirs)
        seen = b""
        try:
            while part := terminal.read1():
                seen += part
        except OSError:  # Linux, when the last process closes the other end
            pass
    return seen.decode().splitlines()


async def a_thread(tmp_path: Path, text: str) -> str:
    async with LocalThreadStore(Settings(home=tmp_path / "home", redis_url=None)) as store:
        thread = await LiveThread.create(store, CreateThreadParams(cwd="/a/directory"), collect_git=False)
        await thread.append_items([said(text)])
        await thread.shutdown()
        return thread.thread_id


async def test_a_terminal_gets_lines_that_fit_and_a_pipe_whole_ones(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    text = "a [bold] word " * 20
    thread_id = await a_thread(tmp_path, text)

    for command in (["ls"], ["search", "word"], ["show", thread_id, "--last", "1"]):
        last = on_a_terminal(environment, *command)[-1]
        assert len(last) <= WIDTH
        assert "[bold]" in last
        assert last.endswith("…")
    assert text.strip() in piped(environment, "ls")
    assert text.strip() in piped(environment, "show", thread_id)


async def test_threads_are_changed_by_name_without_a_running_worker(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    thread_id = await a_thread(tmp_path, "Fix the build")

    assert piped(environment, "rename", thread_id[:20], "A name").startswith(f"renamed to 'A name': {thread_id}")
    assert piped(environment, "delete", "A name", "--yes") == f"deleted: {thread_id} (A name)\n"

    home = tmp_path / "home"
    assert piped(environment, "ls") == f"no threads in the home {home}\n"
    assert [*(home / "sessions").rglob("*.jsonl")] == []
