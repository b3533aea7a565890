"""Compares the persistence policy's table with the running codex, entry by entry.

codex copies a legacy thread through its policy when it forks it, and through the paginated one when it migrates it. A
rollout line that it cannot parse makes it name all the kinds that it knows.

A new kind of a later codex is one line in ``policy.jsonl``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.codex.app_server import AppServer
from tests.codex.conftest import Codex, Serve
from tests.codex.model_server import ModelServer
from tests.codex.rollouts import MetaLine, event, thread_id_of, write_rollout
from tests.nodes.waiting import DEADLINE

from livethread.policy import kind_of
from livethread.rollout.item import RolloutItem

ROWS = [json.loads(line) for line in (Path(__file__).parent / "policy.jsonl").read_text("utf-8").splitlines()]

#: The first release of codex with the policy of the table.
SINCE = (0, 171)

#: Kinds that a migration carries out; it keeps neither them nor the turns that they remove.
CARRIED_OUT = frozenset({"event_msg/thread_rolled_back"})

UNKNOWN = "no_such_kind"
BASE = event("user_message", message="base")


@pytest.fixture(autouse=True)
def current(codex: Codex) -> None:
    if codex.version < SINCE:
        pytest.skip(f"the table is codex {SINCE[0]}.{SINCE[1]}'s")


def is_in(row: dict[str, Any], path: Path) -> bool:
    """Whether a rollout holds the item of *row*."""
    wanted = _identity(row)
    return any(_identity(json.loads(line)) == wanted for line in path.read_text("utf-8").splitlines()[1:])


def _identity(line: dict[str, Any]) -> tuple[str, Any, Any]:
    payload = line["payload"]
    item = payload.get("item")
    item_id = item.get("id") if isinstance(item, dict) else None
    return kind_of(RolloutItem(type=line["type"], payload=payload)), payload.get("kind"), item_id


def name(row: dict[str, Any]) -> str:
    kind, detail, _ = _identity(row)
    return f"{kind}/{detail}" if detail else kind


async def test_codex_persists_the_kinds_of_the_table_in_legacy_threads(serve: Serve, home: Path) -> None:
    meta = MetaLine(thread_id_of(0))
    write_rollout(home, meta, BASE, *ROWS)

    async with serve(home) as codex:
        fork = (await codex.call("thread/fork", threadId=meta.thread_id))["thread"]["id"]

    [path] = home.glob(f"sessions/**/*{fork}.jsonl")
    assert {name(row): is_in(row, path) for row in ROWS} == {name(row): row["legacy"] for row in ROWS}


async def test_codex_persists_the_kinds_of_the_table_in_paginated_threads(codex: Codex, home: Path) -> None:
    rows = [row for row in ROWS if name(row) not in CARRIED_OUT]
    paths = [write_rollout(home, MetaLine(thread_id_of(n)), BASE, row) for n, row in enumerate(rows)]

    migration = await asyncio.create_subprocess_exec(
        *(codex.path, "migrate-rollouts", "--apply", "--json"),
        env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE):
        report, _ = await migration.communicate()

    statuses = {outcome["status"] for outcome in json.loads(report)["outcomes"]}
    assert statuses == {"migrated"}
    persisted = {name(row): is_in(row, path) for row, path in zip(rows, paths, strict=True)}
    assert persisted == {name(row): row["paginated"] for row in rows}


async def test_the_table_has_every_kind_that_codex_knows(codex: Codex, model: ModelServer, home: Path) -> None:
    strange = [
        {"type": UNKNOWN, "payload": {}},
        event(UNKNOWN),
        event("item_completed", thread_id=thread_id_of(0), turn_id="t", item={"type": UNKNOWN}, completed_at_ms=0),
    ]
    meta = MetaLine(thread_id_of(0))
    write_rollout(home, meta, BASE, *strange)
    serve = partial(AppServer, codex.path, model_url=model.url, log="codex_rollout=trace")

    async with serve(home) as server:
        await server.call("thread/resume", threadId=meta.thread_id)

    lists = re.findall(rf"unknown variant `{UNKNOWN}`, expected one of (.*)", server.log())
    known = {kind for found in lists for kind in re.findall(r"`(\w+)`", found)}
    payloads = [row["payload"] for row in ROWS]
    ours = {
        *(row["type"] for row in ROWS),
        *(payload["type"] for payload in payloads if "type" in payload),
        *(payload["item"]["type"] for payload in payloads if payload.get("type") == "item_completed"),
        *("session_meta", "turn_started", "turn_complete", "item_completed"),  # its first line, and other names
    }
    assert len(known) > 100
    assert known - ours == set()
