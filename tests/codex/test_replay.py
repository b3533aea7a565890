"""Codex shows what ``livethread replay`` makes of a thread of codex."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import PROVIDER, TURNS
from tests.codex.model_server import ModelServer
from tests.codex.ours import summary
from tests.codex.rollouts import MetaLine, thread_id_of, write_rollout
from tests.nodes.waiting import DEADLINE

from livethread import Settings
from livethread_worker.store import LocalThreadStore


async def replayed(file: Path, home: Path) -> str:
    """Replay *file* into *home* and return the new thread's id."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIVETHREAD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "livethread", "replay", str(file), "--json"),
        env=inherited | {"LIVETHREAD_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(5 * DEADLINE):
        printed, _ = await process.communicate()
    [result] = json.loads(printed)
    return str(result["thread_id"])


async def test_a_replayed_paginated_thread_shows_its_messages(
    codex: Codex, serve: Serve, model: ModelServer, home: Path, tmp_path: Path
) -> None:
    if not codex.takes_locks:
        pytest.skip("this codex knows no paginated threads")
    meta = MetaLine(thread_id_of(0), {"history_mode": "paginated", "model_provider": PROVIDER})
    items = [item for turn in TURNS for item in turn.paginated_items(meta.thread_id)]
    file = write_rollout(tmp_path / "recorded", meta, *items)

    thread_id = await replayed(file, home)

    async with LocalThreadStore(Settings(home=home)) as store:
        assert await summary(store, thread_id) == [(turn.question, turn.answer) for turn in TURNS]
    model.answers.append("Gern.")
    async with serve(home) as server:
        listed = await server.threads()
        await server.call("thread/resume", threadId=thread_id)
        await server.run_turn(thread_id, "Und weiter?")
        said = await server.said(thread_id)
    assert listed[thread_id]["preview"] == TURNS[0].question
    talk = [*((turn.question, turn.answer) for turn in TURNS), ("Und weiter?", "Gern.")]
    assert said == [[("userMessage", question), ("agentMessage", answer)] for question, answer in talk]
    words = [text for turn in talk for text in turn][:-1]
    assert [text for text in model.texts() if text in words] == words
