"""The examples of README and quickstart run as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.nodes.items import said

from livethread import (
    CreateThreadParams,
    InMemoryThreadStore,
    ListThreadsParams,
    ListTurnsParams,
    LiveThread,
    SearchThreadsParams,
    StoredThread,
    StoredTurnItemsView,
    ThreadStore,
)
from livethread.web.blocks import Block, blocks_of

ROOT = Path(__file__).parents[2]


def python_blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_alone(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run *code* as a separate program in an empty home."""
    environment: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "HOME": str(home), "LIVETHREAD_HOME": str(home / "lt")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment, cwd=home, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def test_the_readme_example_runs_as_a_program(tmp_path: Path) -> None:
    [example] = python_blocks("README.md")

    result = run_alone(example, tmp_path)

    assert result.returncode == 0, result.stderr
    thread_id, path = result.stdout.split()
    rollout = Path(path).read_text(encoding="utf-8")
    assert thread_id in path
    assert [line.count("Fix the build") for line in rollout.splitlines()] == [0, 1]


def test_the_readme_shows_a_whole_session_by_line_30() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert lines.index("asyncio.run(main())") < 30


def test_the_quickstart_session_runs(tmp_path: Path) -> None:
    session = python_blocks("docs/quickstart.md")[0]

    result = run_alone(session, tmp_path)

    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["Fix", "the", "build", "automation", "4"]


@pytest.fixture
def scope() -> dict[str, Any]:
    """What the quickstart's examples define, but for the first."""
    scope: dict[str, Any] = {}
    for block in python_blocks("docs/quickstart.md")[1:]:
        exec(block, scope)
    return scope


async def test_the_other_quickstart_examples_run(scope: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    async with InMemoryThreadStore() as store:
        unsubscribe = scope["subscribe"](store)
        thread = await LiveThread.create(store, CreateThreadParams())
        first = await thread.append_items([said("Fix the builds")])

        renamed_at = await scope["rename"](store, thread.thread_id)

        renamed = await thread.read_thread()
        assert renamed.name == "Release 1.4"
        assert renamed.git_info is not None
        assert renamed.git_info.branch == "main"
        unsubscribe()
        capsys.readouterr()
        assert await scope["run_job"](store, thread.thread_id, [said("A job")], first.position) is None
        assert capsys.readouterr().out.endswith(f" {renamed_at}\n")
        assert await scope["run_job"](store, thread.thread_id, [said("A job")], renamed_at) != renamed_at
        await scope["tidy"](store)
        assert "Release 1.4" in capsys.readouterr().out
        assert (await store.list_threads(ListThreadsParams())).items == ()
        await scope["bring_back"](store, thread.thread_id)
        assert len((await store.list_threads(ListThreadsParams())).items) == 1
        await scope["forget"](store, thread.thread_id)
        assert (await store.list_threads(ListThreadsParams())).items == ()
    await scope["test_my_agent"]()


def test_the_quickstart_runs_synchronously(scope: dict[str, Any]) -> None:
    scope["open_store"] = InMemoryThreadStore

    assert scope["synchronous_program"]([said("Hello")])


async def listed_and_found(store: ThreadStore, term: str) -> tuple[list[StoredThread], list[str]]:
    """Return the threads that are listed, and the excerpts that a search finds."""
    found = await store.search_threads(SearchThreadsParams(search_term=term))
    return list((await store.list_threads(ListThreadsParams())).items), [each.snippet for each in found.items]


async def shown(store: ThreadStore, thread: LiveThread) -> list[list[Block]]:
    """Return what a page shows of each turn."""
    params = ListTurnsParams(thread_id=thread.thread_id, items_view=StoredTurnItemsView.FULL)
    return [blocks_of(turn.items) for turn in (await store.list_turns(params)).turns]


async def test_the_quickstarts_items_of_another_agent_are_listed_found_and_shown(scope: dict[str, Any]) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Oslo"}'}
    run = [
        {"role": "user", "content": "What is the weather?"},
        call,
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It rains."}]},
    ]
    async with InMemoryThreadStore() as store:
        thread = await LiveThread.create(store, CreateThreadParams(source={"custom": "my-agent"}))

        for item in run:
            assert (await thread.append_items(scope["items_of"](item))).dropped == 0

        [listed], found = await listed_and_found(store, "rains")
        assert (listed.preview, listed.source, found) == (
            "What is the weather?", {"custom": "my-agent"}, ["It rains."]
        )  # fmt: skip
        [turn] = await shown(store, thread)
        assert [(block.kind, block.text) for block in turn] == [
            ("user", "What is the weather?"), ("call", ""), ("agent", "It rains.")
        ]  # fmt: skip
        assert turn[1].request is not None
        assert turn[1].outcome is not None
        assert (turn[1].request.tool, turn[1].outcome.text) == ("get_weather", "rain")
        assert [item.get("role", item["type"]) for item in await scope["get_items"](thread)] == [
            "user", "function_call", "function_call_output", "assistant"
        ]  # fmt: skip

        await thread.append_items(scope["items_of"]({"role": "user", "content": "And in Bergen?"}))
        await scope["take_back"](thread)

        assert await shown(store, thread) == [turn]
        assert (await thread.search_occurrences("Bergen")).items == ()
        assert (await listed_and_found(store, "Bergen"))[1] == ["And in Bergen?"]


async def test_the_quickstarts_paginated_turn_is_listed_found_and_shown(scope: dict[str, Any]) -> None:
    async with InMemoryThreadStore() as store:
        thread = await LiveThread.create(store, CreateThreadParams(history_mode="paginated"))

        turn = scope["paginated_turn"](thread.thread_id, "1", "Fix the build", "It is fixed")
        receipt = await thread.append_items(turn)

        assert receipt.dropped == 0
        [listed], found = await listed_and_found(store, "fixed")
        assert (listed.preview, found) == ("Fix the build", ["It is fixed"])
        assert [[block.text for block in blocks] for blocks in await shown(store, thread)] == [
            ["Fix the build", "It is fixed"]
        ]


def test_the_tests_that_guarantees_names_exist() -> None:
    text = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")

    named = set(re.findall(r"`(tests/[\w/.]+)`", text))

    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
