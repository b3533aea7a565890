"""``livethread export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.unit.worker import paginated
from tests.unit.worker.builders import item_line, opened_store, thread_id

from livethread import Settings, ThreadManager
from livethread.cli import main
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home

SOURCE = thread_id(1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def run(root: Path, *arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, env={"LIVETHREAD_HOME": str(root)})
    assert result.exit_code == 0, result.output
    return result.stdout


def payloads(root: Path, thread: str) -> list[Any]:
    items = json.loads(run(root, "show", thread, "--json"))["history"]["items"]
    return [item["payload"] for item in items if item["type"] != "session_meta"]


def test_a_rollout_is_exported_as_it_is(home: Home) -> None:
    for store in opened_store(home.root):
        line = item_line("event_msg", {"type": "x", "n": 2**70, "text": "Größe"})[:-1] + b',"later":{"a":1}}'
        path = store.write_rollout(SOURCE, line)

    exported = run(home.root, "export", SOURCE[:9])

    assert [*map(json.loads, exported.splitlines())] == [*map(json.loads, path.read_text().splitlines())]
    assert "Größe" in exported


@pytest.fixture
async def fork(home: Home) -> str:
    """The id of a fork that shares its source's lines."""
    paginated.begin(home, SOURCE).turn("t1", "keep apples", "kept").turn("t2", "drop them", "dropped")
    async with LocalThreadStore(Settings(home=home.root, redis_url=None)) as store:
        fork = await ThreadManager(store).fork_thread(SOURCE)
        await fork.append_items([{"type": "event_msg", "payload": {"type": "task_started", "turn_id": "t3"}}])
        await fork.shutdown()
        return fork.thread_id


def test_an_exported_fork_is_imported_without_its_source(home: Home, fork: str, tmp_path: Path) -> None:
    (tmp_path / "given.jsonl").write_text(run(home.root, "export", fork))

    run(tmp_path / "other", "import", str(tmp_path / "given.jsonl"))

    assert payloads(tmp_path / "other", fork) == payloads(home.root, fork)
    assert len(payloads(home.root, fork)) > 1
    assert json.loads(run(tmp_path / "other", "doctor", "--json"))["faults"] == []


def test_what_a_person_reads_is_exported_as_markdown_and_as_one_html_file(home: Home, fork: str) -> None:
    text = run(home.root, "export", SOURCE, "--format", "markdown")
    page = run(home.root, "export", SOURCE, "--format", "html")

    assert text.startswith("# keep apples\n\n- thread: ")
    assert "**User:**\n\nkeep apples\n\n**Agent:**\n\nkept" in text
    assert "<title>keep apples" in page
    assert "kept" in page
    assert "<script" not in page
