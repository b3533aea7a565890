"""Codex and livethread lock a thread that they write: both ``flock`` ``thread-writer-locks/<id>.lock``."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.codex.app_server import CodexError
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import TURNS, begin
from tests.codex.model_server import ModelServer
from tests.codex.ours import go_on, summary
from tests.nodes.items import read
from tests.nodes.stores import opened

from livethread import LiveThread, ResumeThreadParams, Settings, Unavailable
from livethread_worker.store import LocalThreadStore, local
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.locks import file_lock

BEFORE, LATER = TURNS[1:]


@pytest.fixture(autouse=True)
def _takes_locks(codex: Codex) -> None:
    if not codex.takes_locks:
        pytest.skip("codex takes locks from 0.160 on")


async def write_thread(home: Path) -> tuple[str, Path]:
    """Write a thread and return its id and its rollout."""
    async with LocalThreadStore(Settings(home=home)) as store:
        thread = await begin(store, BEFORE)
        path = await thread.rollout_path()
        await thread.shutdown()
    assert path is not None
    return thread.thread_id, path


async def test_codex_writes_nothing_while_livethread_holds_the_lock(
    serve: Serve, model: ModelServer, home: Path
) -> None:
    thread_id, path = await write_thread(home)
    before = path.read_bytes()
    model.answers.append("Gern.")

    async with serve(home) as codex:
        with file_lock(Home(home).thread_lock(thread_id)):
            with pytest.raises(CodexError, match="already has an active writer"):
                await codex.call("thread/resume", threadId=thread_id)
            assert await codex.said(thread_id) == [BEFORE.said]
            assert path.read_bytes() == before
        await codex.call("thread/resume", threadId=thread_id)
        await codex.run_turn(thread_id, "Jetzt?")

    assert path.read_bytes().startswith(before)
    assert "Jetzt?" in path.read_text(encoding="utf-8")


async def test_an_append_is_refused_while_codex_has_the_thread_open(
    serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOCK_WAIT", 0.05)
    thread_id, path = await write_thread(home)

    async with LocalThreadStore(Settings(home=home)) as store:
        async with serve(home) as codex:
            await codex.call("thread/resume", threadId=thread_id)
            thread = await LiveThread.resume(store, ResumeThreadParams(thread_id=thread_id))
            with pytest.raises(Unavailable, match="held by another writer"):
                await thread.append_items(list(LATER.items()))
            assert LATER.turn_id not in path.read_text(encoding="utf-8")
        await thread.append_items(list(LATER.items()))

        assert await summary(store, thread_id) == [(turn.question, turn.answer) for turn in (BEFORE, LATER)]


async def test_a_worker_waits_until_codex_has_closed_the_thread(serve: Serve, home: Path) -> None:
    thread_id, path = await write_thread(home)

    async with opened(Settings(home=home, redis_url=None)) as store:
        async with serve(home) as codex:
            await codex.call("thread/resume", threadId=thread_id)
            thread = await go_on(store, await read(store, thread_id), LATER)
            with pytest.raises(Unavailable):
                await thread.flush(timeout_s=0.5)
            assert LATER.turn_id not in path.read_text(encoding="utf-8")
        await thread.flush()

        assert await summary(store, thread_id) == [(turn.question, turn.answer) for turn in (BEFORE, LATER)]
        await thread.shutdown()
