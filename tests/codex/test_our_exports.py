"""Codex goes on with a thread that livethread exported and imported elsewhere, without what it shared before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import Turn
from tests.codex.model_server import ModelServer
from tests.codex.ours import go_on
from tests.codex.test_lineages import FIRST, SECOND, begin, say, shown
from tests.nodes.items import read

from livethread import Settings, ThreadManager
from livethread_worker.embedded.processes import settings_env
from livethread_worker.store import LocalThreadStore

OURS = Turn("turn-ours", "Und der quokkasort?", "Der auch 🎉")
THANKS = ("Danke", "Gern.")


def livethread(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "livethread", *arguments]
    environment = settings_env(Settings(home=home, redis_url=None))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


async def test_codex_goes_on_with_an_exported_fork(
    codex: Codex, serve: Serve, model: ModelServer, home: Path, tmp_path: Path
) -> None:
    if codex.version < (0, 169):
        pytest.skip("this codex has no paginated threads")
    async with serve(home) as server:
        source = await begin(server, model, home, FIRST, SECOND)
    async with LocalThreadStore(Settings(home=home)) as store:
        fork = await ThreadManager(store).fork_thread(source)
        await (await go_on(store, await read(store, fork.thread_id), OURS)).shutdown()
        await fork.shutdown()
    other, file = tmp_path / "other", tmp_path / "given.jsonl"
    file.write_text(livethread(home, "export", fork.thread_id), encoding="utf-8")

    livethread(other, "import", str(file))

    async with serve(other) as server:
        listed = await server.threads()
        await server.call("thread/resume", threadId=fork.thread_id)
        await say(server, model, fork.thread_id, THANKS)
        said = await server.said(fork.thread_id)
    assert listed.keys() == {fork.thread_id}
    assert said == shown(FIRST, SECOND, (OURS.question, OURS.answer), THANKS)
