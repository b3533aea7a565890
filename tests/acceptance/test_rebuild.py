"""``livethread rebuild`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.nodes.items import without_positions

from livethread import (
    AppendThreadItemsParams,
    ArchiveThreadParams,
    CreateThreadParams,
    GitInfoPatch,
    LiveThread,
    RolloutItem,
    Settings,
    ThreadMetadataPatch,
)
from livethread_worker.store import LocalThreadStore


def livethread(home: Path, *arguments: str) -> Any:
    """Run a command on *home* and return the JSON that it prints."""
    environment = {**os.environ, "LIVETHREAD_HOME": str(home)}
    environment.pop("LIVETHREAD_REDIS_URL", None)
    command = [sys.executable, "-m", "livethread", *arguments, "--json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(result.stdout)


async def write_threads(home: Path) -> str:
    """Write threads of several kinds; return the id of one."""
    async with LocalThreadStore(Settings(home=home)) as store:
        for n in range(3):
            thread = await LiveThread.create(store, CreateThreadParams(cwd=f"/{n}", thread_source="automation"))
            items = [{"type": "event_msg", "payload": {"type": "user_message", "message": f"Größe {n} 🎉"}}]
            await thread.append_items(items)
            await thread.update_metadata(ThreadMetadataPatch(name=f"n{n}", git_info=GitInfoPatch(branch="b")))
            await thread.shutdown()
        await store.archive_thread(ArchiveThreadParams(thread_id=thread.thread_id))
        raw = CreateThreadParams(cwd="/raw")
        await store.create_thread(raw)
        item = RolloutItem(type="response_item", payload={"type": "reasoning"}, timestamp="2020-01-01T00:00:00Z")
        await store.append_items(AppendThreadItemsParams(thread_id=raw.thread_id, items=(item,)))
        return raw.thread_id


async def test_a_rebuild_restores_every_listing_after_the_index_is_deleted(tmp_path: Path) -> None:
    thread_id = await write_threads(tmp_path)
    before = [livethread(tmp_path, "ls", "--all"), livethread(tmp_path, "ls", "--all", "--archived")]
    assert [len(page["items"]) for page in before] == [3, 1]
    for file in (tmp_path / "livethread").glob("index.sqlite*"):
        file.unlink()

    report = livethread(tmp_path, "rebuild")

    assert (report["threads"], report["unreadable"], report["duplicates"], report["busy"]) == (4, [], [], [])
    after = [livethread(tmp_path, "ls", "--all"), livethread(tmp_path, "ls", "--all", "--archived")]
    assert without_positions(after) == without_positions(before)
    next((tmp_path / "sessions").rglob(f"rollout-*-{thread_id}.jsonl")).unlink()
    assert livethread(tmp_path, "rebuild")["forgotten"] == 1
    assert [thread["thread_id"] for thread in livethread(tmp_path, "ls", "--all")["items"]].count(thread_id) == 0
