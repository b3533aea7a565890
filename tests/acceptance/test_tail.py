"""``livethread tail -f`` as a user has it: in a process of its own, beside a session that writes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.nodes.items import message
from tests.nodes.waiting import DEADLINE

from livethread import CreateThreadParams, DeleteThreadParams, LiveThread, Settings
from livethread_worker.store import LocalThreadStore


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", redis_url=None)


def listen_to_ctrl_c() -> None:
    """A shell starts a job in the background with Ctrl-C ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def tailing(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIVETHREAD_")}
    command = [sys.executable, "-m", "livethread", "tail", *arguments]
    environment = inherited | {"LIVETHREAD_HOME": str(settings.home)}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_ctrl_c,  # noqa: PLW1509 - it runs no code that another thread could hold up
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def next_text(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["payload"]["content"][0]["text"])


async def test_it_prints_items_as_they_come_until_it_is_interrupted(settings: Settings) -> None:
    async with LocalThreadStore(settings) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        await thread.append_items([message("1"), message("2"), message("3")])

        with tailing(settings, thread.thread_id, "-f", "-n", "2", "--json") as process:
            assert [next_text(process) for _ in range(2)] == ["2", "3"]
            for text in ("4", "5"):  # each comes while the process goes on
                await thread.append_items([message(text)])
                assert next_text(process) == text
            process.send_signal(signal.SIGINT)

            assert process.communicate(timeout=DEADLINE) == ("", "")
            assert process.returncode == 130


async def test_it_can_begin_with_what_comes_next(settings: Settings) -> None:
    async with LocalThreadStore(settings) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        await thread.append_items([message("1")])

        with tailing(settings, thread.thread_id, "--follow", "--last", "0", "--json") as process:
            last = 1
            assert process.stdout is not None
            while not select.select([process.stdout], [], [], 0.05)[0]:
                last += 1
                await thread.append_items([message(f"{last}")])
            first = int(next_text(process))
            assert first > 1
            assert [int(next_text(process)) for _ in range(first, last)] == [*range(first + 1, last + 1)]


async def test_it_ends_when_its_reader_does_and_when_the_thread_is_deleted(settings: Settings) -> None:
    async with LocalThreadStore(settings) as store:
        thread = await LiveThread.create(store, CreateThreadParams())
        await thread.append_items([message("1")])

        with (
            tailing(settings, thread.thread_id, "-f", "-n", "1", "--json") as read_no_more,
            tailing(settings, thread.thread_id, "-f", "-n", "1", "--json") as deleted,
        ):
            assert [next_text(each) for each in (read_no_more, deleted)] == ["1", "1"]
            assert read_no_more.stdout is not None
            read_no_more.stdout.close()
            await thread.append_items([message("2")])
            assert next_text(deleted) == "2"
            assert read_no_more.wait(DEADLINE) == 1
            assert read_no_more.stderr is not None
            assert read_no_more.stderr.read() == ""
            await store.delete_thread(DeleteThreadParams(thread_id=thread.thread_id))

            assert deleted.wait(DEADLINE) == 1
            assert deleted.stderr is not None
            assert "not found" in deleted.stderr.read()
