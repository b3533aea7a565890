"""Compares the metadata that follows from a rollout with the running codex's, case by case.

codex reads each rollout into its ``state_*.sqlite``; we read the same files. A new rule of a later codex is one line in
``CASES``.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.codex.conftest import Codex, Serve
from tests.codex.conversation import PROVIDER
from tests.codex.rollouts import MetaLine, event, thread_id_of, write_rollout
from tests.nodes.items import read, update

from livethread import (
    GitInfoPatch,
    ListThreadsParams,
    RelationKind,
    Settings,
    StoredThread,
    ThreadMetadataPatch,
    ThreadRelationFilter,
)
from livethread.metadata import DEFAULT_PROVIDER
from livethread_worker.store import LocalThreadStore

#: The first codex with all of these rules.
SINCE = (0, 171)

PARENT = thread_id_of(999)
HI = event("user_message", message="hi")


def turn(**changes: Any) -> dict[str, Any]:
    usual = {
        "cwd": "/ctx",
        "approval_policy": "never",
        "sandbox_policy": {"type": "danger-full-access"},
        "model": "m1",
        "summary": "auto",
        "effort": "high",
    }
    payload = {name: value for name, value in (usual | changes).items() if value is not None}
    return {"type": "turn_context", "payload": payload}


def settings(**changes: Any) -> dict[str, Any]:
    mode = {"mode": "default", "settings": {"model": "m2", "reasoning_effort": "low", "developer_instructions": None}}
    usual = {
        "model": "m2",
        "model_provider_id": "p2",
        "approval_policy": "on-request",
        "approvals_reviewer": "user",
        "permission_profile": {"type": "disabled"},
        "cwd": "/set",
        "reasoning_effort": "low",
        "collaboration_mode": mode,
    }
    return event("thread_settings_applied", thread_settings=usual | changes)


def later(**changes: Any) -> dict[str, Any]:
    """Return a later ``session_meta`` of the thread."""
    return {"type": "session_meta", "payload": changes}


def spawn(**changes: Any) -> dict[str, Any]:
    usual = {"parent_thread_id": PARENT, "depth": 1, "agent_nickname": "Nick", "agent_role": "explorer"}
    return {"subagent": {"thread_spawn": usual | changes}}


def user_item(part: dict[str, Any]) -> dict[str, Any]:
    item = {"type": "UserMessage", "id": "u", "content": [part]}
    return event("item_completed", thread_id=thread_id_of(0), turn_id="t", item=item, completed_at_ms=0)


def goal(objective: str) -> dict[str, Any]:
    of_thread = {"threadId": thread_id_of(0), "objective": objective, "status": "active", "tokenBudget": None}
    times = {"tokensUsed": 0, "timeUsedSeconds": 0, "createdAt": 1, "updatedAt": 1}
    return event("thread_goal_updated", threadId=thread_id_of(0), goal=of_thread | times)


PAGINATED = {"history_mode": "paginated"}

#: Name -> changes of the usual session_meta, and the items after it.
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "nothing but a message": ({}, [HI]),
    "no item": ({}, []),
    "no words": ({}, [event("user_message", message="  ")]),
    "an answer alone": ({}, [event("agent_message", message="hello")]),
    "a goal": ({}, [goal(" do it ")]),
    "a goal before a message": ({}, [goal("do it"), HI]),
    "settings": ({}, [HI, turn(), settings()]),
    "settings before a turn": ({}, [HI, settings(), turn(effort=None)]),
    "settings without effort": ({}, [HI, turn(), settings(reasoning_effort=None)]),
    "a turn without effort": ({}, [HI, turn(), turn(effort=None)]),
    "a turn's directory": ({"cwd": ""}, [HI, turn(), turn(cwd="/other")]),
    "a moved session": ({}, [HI, turn(), later(cwd="/moved")]),
    "a message of audio": ({}, [event("user_message", message="", audio=["data:audio/wav;base64,"])]),
    "a message of local audio": ({}, [event("user_message", message="", local_audio=["/a.wav"])]),
    "a message of an image": ({}, [event("user_message", message="", images=["data:"])]),
    "an image and audio": ({}, [event("user_message", message="", images=["data:"], audio=["data:"])]),
    "paginated text": (PAGINATED, [user_item({"type": "text", "text": "hi"})]),
    "paginated audio": (PAGINATED, [user_item({"type": "audio", "audio_url": "data:"})]),
    "paginated local audio": (PAGINATED, [user_item({"type": "local_audio", "path": "/a.wav"})]),
    "paginated image": (PAGINATED, [user_item({"type": "image", "image_url": "data:"})]),
    "paginated local image": (PAGINATED, [user_item({"type": "local_image", "path": "/a.png"})]),
    "full access": ({}, [HI, turn()]),
    "read-only": ({}, [HI, turn(sandbox_policy={"type": "read-only"})]),
    "read-only with network": ({}, [HI, turn(sandbox_policy={"type": "read-only", "network_access": True})]),
    "workspace": ({}, [HI, turn(sandbox_policy={"type": "workspace-write"})]),
    "another workspace": (
        {},
        [
            HI,
            turn(
                sandbox_policy={
                    "type": "workspace-write",
                    "writable_roots": ["/w1", "/w2"],
                    "network_access": True,
                    "exclude_tmpdir_env_var": True,
                    "exclude_slash_tmp": True,
                }
            ),
        ],
    ),
    "external": ({}, [HI, turn(sandbox_policy={"type": "external-sandbox", "network_access": "enabled"})]),
    "external without network": ({}, [HI, turn(sandbox_policy={"type": "external-sandbox"})]),
    "a profile": ({}, [HI, turn(permission_profile={"type": "disabled"}, sandbox_policy={"type": "read-only"})]),
    "untrusted": ({}, [HI, turn(approval_policy="untrusted")]),
    "spawned": ({"source": spawn(agent_path="/root/a")}, [HI]),
    "spawned with a type": ({"source": spawn(agent_role=None, agent_path=None)}, [HI]),
    "spawned with labels": ({"source": spawn(), "agent_nickname": "Own", "agent_role": "own"}, [HI]),
    "spawned with another parent": ({"source": spawn(), "parent_thread_id": thread_id_of(998)}, [HI]),
    "a review": ({"source": {"subagent": "review"}}, [HI]),
    "a custom source": ({"source": {"custom": "x"}}, [HI]),
    "an internal source": ({"source": {"internal": "memory_consolidation"}}, [HI]),
    "an agent's type": ({"agent_type": "explorer"}, [HI]),
    "no provider": ({"model_provider": None}, [HI]),
    "an empty provider": ({"model_provider": ""}, [HI]),
    "a later line without provider": ({}, [HI, later(model_provider=None)]),
    **{f"source {name!r}"[:40]: ({"source": name}, [HI]) for name in ("", "weird", "w" * 201, "CLI", "appServer")},
    **{f"source {name!r}": ({"source": name}, [HI]) for name in ("exec", "mcp", "unknown")},
    "no source": ({"source": None}, [HI]),
    **{f"label {name!r}"[:40]: ({"thread_source": name}, [HI]) for name in ("", " ", "x" * 201, "user")},
    "a label taken away": ({"thread_source": "label"}, [HI, later(thread_source=None)]),
    "git": ({"git": {"commit_hash": "c", "branch": "b", "repository_url": "u"}}, [HI, later(git={"branch": "n"})]),
}

IDS = {name: thread_id_of(n) for n, name in enumerate(CASES)}


@pytest.fixture
async def by_codex(codex: Codex, serve: Serve, home: Path) -> dict[str, dict[str, Any]]:
    """The threads as codex reads them, by the name of their case."""
    if codex.version < SINCE:
        pytest.skip(f"the rules are codex {SINCE[0]}.{SINCE[1]}'s")
    for name, (changes, items) in CASES.items():
        meta = MetaLine(IDS[name], changes)
        lines = [meta.line(**item["payload"]) if item["type"] == "session_meta" else item for item in items]
        write_rollout(home, meta, *lines)
    async with serve(home) as server:
        await server.call("thread/list", limit=1)
    [path] = home.glob("state_*.sqlite")
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        rows = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM threads")}
        parents = dict(connection.execute("SELECT child_thread_id, parent_thread_id FROM thread_spawn_edges"))
    finally:
        connection.close()
    return {name: {**rows[thread_id], "parent": parents.get(thread_id)} for name, thread_id in IDS.items()}


def as_codex_says_it(thread: StoredThread) -> dict[str, Any]:
    """Return *thread* as a row of codex's."""
    git = thread.git_info

    def text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    return {
        "source": text(thread.source),
        "model_provider": thread.model_provider,
        "cwd": thread.cwd,
        "title": thread.title or "",
        "preview": thread.preview,
        "first_user_message": thread.first_user_message or "",
        "sandbox_policy": thread.permission_profile,
        "approval_mode": text(thread.approval_mode),
        "cli_version": thread.cli_version,
        "agent_nickname": thread.agent_nickname,
        "agent_role": thread.agent_role,
        "agent_path": thread.agent_path,
        "model": thread.model,
        "reasoning_effort": thread.reasoning_effort,
        "thread_source": thread.thread_source,
        "history_mode": thread.history_mode or "legacy",
        "originator": thread.originator,
        "git_sha": git and git.commit_hash,
        "git_branch": git and git.branch,
        "git_origin_url": git and git.repository_url,
    }


async def test_we_read_the_metadata_that_codex_reads(by_codex: dict[str, dict[str, Any]], home: Path) -> None:
    async with LocalThreadStore(Settings(home=home)) as store:
        ours = {name: as_codex_says_it(await read(store, thread_id)) for name, thread_id in IDS.items()}
        relation = ThreadRelationFilter(kind=RelationKind.DIRECT_CHILDREN, thread_id=PARENT)
        children = (await store.list_threads(ListThreadsParams(relation_filter=relation))).items

    theirs = {name: {field: row[field] for field in ours[name]} for name, row in by_codex.items()}
    for name, row in theirs.items():
        row["sandbox_policy"] = json.loads(row["sandbox_policy"])
        if row["model_provider"] == PROVIDER:  # the configured one; we take codex's own default
            row["model_provider"] = DEFAULT_PROVIDER
        for rows in (row, ours[name]):
            if isinstance(rows["source"], str) and rows["source"].startswith("{"):
                rows["source"] = CASES[name][0]["source"]  # codex adds nulls
    assert ours == theirs
    assert {thread.thread_id for thread in children} == {
        IDS[name] for name, row in by_codex.items() if row["parent"] == PARENT
    }


@pytest.mark.parametrize("label", ["", "x" * 201])
async def test_our_patch_of_one_field_keeps_a_label_of_codex(
    codex: Codex, serve: Serve, home: Path, label: str
) -> None:
    if codex.version < (0, 140):
        pytest.skip("this codex reads only three labels")
    meta = MetaLine(thread_id_of(0), {"thread_source": label})
    write_rollout(home, meta, HI)
    async with LocalThreadStore(Settings(home=home)) as store:
        await update(store, meta.thread_id, ThreadMetadataPatch(git_info=GitInfoPatch(branch="ours")))

    async with serve(home) as server:
        [thread] = (await server.threads(modelProviders=[])).values()
        resumed = (await server.call("thread/resume", threadId=meta.thread_id))["thread"]

    assert thread["gitInfo"]["branch"] == "ours"
    assert resumed["threadSource"] == label


async def test_we_list_the_threads_that_codex_lists(
    by_codex: dict[str, dict[str, Any]], serve: Serve, home: Path
) -> None:
    async with serve(home) as server:
        kinds = ["cli", "vscode", "exec", "appServer", "subAgent", "unknown"]
        theirs = await server.threads(limit=200, sourceKinds=kinds, modelProviders=[])
    async with LocalThreadStore(Settings(home=home)) as store:
        page = await store.list_threads(ListThreadsParams(page_size=200))

    never = {
        name for name, (changes, _) in CASES.items() if {"custom", "internal"} & set(changes.get("source") or ())
    }
    assert len(by_codex) == len(IDS)
    assert {thread.thread_id for thread in page.items} - {IDS[name] for name in never} == theirs.keys()
