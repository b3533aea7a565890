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

from livethread import CreateThreadParams, InMemoryThreadStore, ListThreadsParams, LiveThread

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


async def test_the_other_quickstart_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    for block in python_blocks("docs/quickstart.md")[1:]:
        exec(block, scope)
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


def test_the_tests_that_guarantees_names_exist() -> None:
    text = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")

    named = set(re.findall(r"`(tests/[\w/.]+)`", text))

    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
