"""Codex and livethread show the same turns of the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import PROVIDER, Turn, begin
from tests.nodes.histories import HISTORIES
from tests.store_spec.operations import close
from tests.store_spec.turns import turns_of

from livethread import Settings, StoredTurn
from livethread_worker.store import LocalThreadStore

#: Codex's name of a status -> ours.
STATUSES = {"completed": "completed", "interrupted": "interrupted", "failed": "failed", "inProgress": "in_progress"}

TIMES = [
    {"type": "event_msg", "payload": {"type": "task_started", "turn_id": "t1", "started_at": 1795000000}},
    {"type": "event_msg", "payload": {"type": "user_message", "message": "q"}},
    {
        "type": "event_msg",
        "payload": {"type": "task_complete", "turn_id": "t1", "completed_at": 1795000009, "duration_ms": 8765}
        | {"error": {"message": "no", "codex_error_info": "usage_limit_exceeded"}},
    },
]


def written(home: Path, number: int, items: list[dict[str, Any]]) -> str:
    """Write a rollout as codex 0.120 did, and return its thread's id."""
    thread_id = f"01a20000-0000-7000-8000-{number:012}"
    meta = {"id": thread_id, "timestamp": "2026-06-01T10:00:00.000Z", "cwd": "/srv", "originator": "codex_cli_rs"}
    meta |= {"cli_version": "0.120.0", "source": "cli", "model_provider": PROVIDER}
    lines = [{"type": "session_meta", "payload": meta}, *items]
    path = home / f"sessions/2026/06/01/rollout-2026-06-01T10-00-00-{thread_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            json.dumps({"timestamp": f"2026-06-01T10:00:{n:02}.000Z", **line}) + "\n" for n, line in enumerate(lines)
        )
    )
    return thread_id


@pytest.fixture(autouse=True)
def newest(codex: Codex) -> None:
    if codex.version < (0, 169):
        pytest.skip("codex 0.138 lets a turn go on after an abort, and knows of no errors of turns")


async def test_the_same_turns_of_every_history(serve: Serve, home: Path) -> None:
    threads = {name: written(home, n, items) for n, (name, (items, _)) in enumerate(HISTORIES.items())}

    async with serve(home) as codex:
        theirs = {name: [shown(turn) for turn in await codex.turns(id_)] for name, id_ in threads.items()}
    async with LocalThreadStore(Settings(home=home)) as store:
        ours = {name: [ours_shown(turn) for turn in await turns_of(store, id_)] for name, id_ in threads.items()}

    assert ours == theirs
    assert theirs == {
        name: [(status.value, texts) for status, texts in turns] for name, (_, turns) in HISTORIES.items()
    }


async def test_the_same_times_and_errors(serve: Serve, home: Path) -> None:
    thread_id = written(home, 1, TIMES)

    async with serve(home) as codex:
        [theirs] = await codex.turns(thread_id)
    async with LocalThreadStore(Settings(home=home)) as store:
        [ours] = await turns_of(store, thread_id)

    assert ours.started_at is not None
    assert ours.completed_at is not None
    assert ours.error is not None
    assert (theirs["startedAt"], theirs["completedAt"]) == (
        ours.started_at.timestamp(),
        ours.completed_at.timestamp(),
    )
    assert (theirs["durationMs"], theirs["error"]["message"]) == (ours.duration_ms, ours.error.message)
    assert (theirs["error"]["codexErrorInfo"], ours.error.code) == ("usageLimitExceeded", "usage_limit_exceeded")


async def test_both_call_a_killed_sessions_turn_interrupted(serve: Serve, home: Path) -> None:
    async with LocalThreadStore(Settings(home=home)) as store:
        live = await begin(store)
        await live.append_items(list(Turn("t1", "killed while at work", "never").items())[:3])
        [running] = await turns_of(store, live.thread_id)
        await close(store, live.thread_id)
        [ours] = await turns_of(store, live.thread_id)
    async with serve(home) as codex:
        [theirs] = await codex.turns(live.thread_id)

    assert (running.status, ours.status, theirs["status"]) == ("in_progress", "interrupted", "interrupted")


def shown(turn: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the status and the messages of a turn of codex."""
    return STATUSES[turn["status"]], [
        item["text"] if item["type"] == "agentMessage" else "".join(part["text"] for part in item["content"])
        for item in turn["items"]
        if item["type"] in {"userMessage", "agentMessage"}
    ]


def ours_shown(turn: StoredTurn) -> tuple[str, list[str]]:
    messages = (item.payload for item in turn.items if item.kind in {"user_message", "agent_message"})
    return turn.status.value, [payload["message"] for payload in messages if payload["message"]]
