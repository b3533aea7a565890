"""``livethread replay`` as a user runs it, on recorded rollouts: kept items come out equal, once and in order.

``LIVETHREAD_TEST_ROLLOUTS`` names a directory of rollout files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tests.codex
from tests.nodes.waiting import DEADLINE

ROLLOUTS = os.environ.get("LIVETHREAD_TEST_ROLLOUTS", "")

pytestmark = pytest.mark.skipif(not ROLLOUTS, reason="LIVETHREAD_TEST_ROLLOUTS names no directory of rollouts")

#: Each kind of item and whether codex persists it; independent of the shipped policy, which is under test.
POLICY = [
    json.loads(line) for line in (Path(tests.codex.__path__[0]) / "policy.jsonl").read_text("utf-8").splitlines()
]


#: Kinds of older codex that were not persisted.
OLDER_DROPPED = frozenset({"background_event", "thread_name_updated"})


def kind_of(item: dict[str, Any]) -> tuple[Any, ...]:
    payload = item["payload"]
    if item["type"] not in {"event_msg", "response_item"}:
        return (item["type"],)
    inner = payload.get("item") if payload["type"] == "item_completed" else payload
    kind = inner.get("kind") if inner["type"] in {"Extension", "SubAgentActivity", "sub_agent_activity"} else None
    return item["type"], payload["type"], inner["type"], kind


KEPT = {kind_of(row): row for row in POLICY}


def is_kept(item: dict[str, Any], mode: str) -> bool:
    if item["type"] == "thread_metadata" or item["payload"].get("type") in OLDER_DROPPED:
        return False
    row = KEPT.get(kind_of(item))
    return row is None or row[mode]


def mode_of(items: list[dict[str, Any]]) -> str:
    """Return the history mode of a rollout's *items*."""
    meta = next(item["payload"] for item in items if item["type"] == "session_meta")
    return "paginated" if meta.get("history_mode") == "paginated" else "legacy"


def lines_of(path: Path) -> list[Any]:
    """Return the decoded lines of a rollout; None for a line that is not JSON."""

    def decoded(line: bytes) -> Any:
        try:
            return json.loads(line)
        except ValueError:
            return None

    return [decoded(line) for line in path.read_bytes().split(b"\n") if line.strip()]


def items_of(path: Path) -> list[dict[str, Any]]:
    return [line for line in lines_of(path) if isinstance(line, dict) and {"type", "payload"} <= line.keys()]


def recordings() -> dict[str, list[dict[str, Any]]]:
    """Return the items of each file that has a ``session_meta``."""
    items = {str(path): items_of(path) for path in sorted(Path(ROLLOUTS).absolute().glob("*.jsonl"))}
    return {path: each for path, each in items.items() if any(item["type"] == "session_meta" for item in each)}


class Command:
    """The command ``livethread``, with its own home."""

    def __init__(self, home: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIVETHREAD_")}
        self.env = inherited | {"LIVETHREAD_HOME": str(home)}
        self.folder = home.parent

    def __call__(self, *arguments: str) -> Any:
        """Run it and return the JSON that it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "livethread", *arguments, "--json"],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=10 * DEADLINE,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def livethread() -> Iterator[Command]:
    folder = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))  # the path of a unix socket must be short
    yield Command(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def replayed(livethread: Command) -> list[dict[str, Any]]:
    """The command's result for each file, from one run."""
    files = list(recordings())
    assert files, f"{ROLLOUTS} holds no rollout"
    results: list[dict[str, Any]] = livethread("replay", *files)
    assert [result["file"] for result in results] == files
    return results


def test_persisted_items_come_out_equal_and_in_order_after_session_meta(
    replayed: list[dict[str, Any]],
) -> None:
    recorded = recordings()
    for result in replayed:
        own, *items = lines_of(Path(result["rollout_path"]))
        recording = recorded[result["file"]]
        expected = [item for item in recording if is_kept(item, mode_of(recording))]

        assert (own["type"], own["payload"]["id"]) == ("session_meta", result["thread_id"])
        assert [item["type"] for item in items] == [item["type"] for item in expected], result["file"]
        assert [item["payload"] for item in items] == [item["payload"] for item in expected], result["file"]


def test_every_line_is_stored_once_and_the_counts_agree(replayed: list[dict[str, Any]]) -> None:
    recorded = recordings()
    for result in replayed:
        lines = lines_of(Path(result["rollout_path"]))
        items = recorded[result["file"]]

        assert [line["ordinal"] for line in lines] == list(range(len(lines))), result["file"]
        assert result["sent"] == len(items)
        assert result["dropped_by_policy"] == sum(not is_kept(item, mode_of(items)) for item in items)
        assert result["unreadable"] == len(lines_of(Path(result["file"]))) - len(items)
        assert result["lines"] == result["sent"] - result["dropped_by_policy"] + 1 == len(lines)


def test_the_replayed_threads_are_listed(livethread: Command, replayed: list[dict[str, Any]]) -> None:
    page = livethread("ls", "--all", "--limit", "1000")

    paths = {thread["thread_id"]: thread["rollout_path"] for thread in page["items"]}
    assert paths == {result["thread_id"]: result["rollout_path"] for result in replayed}
    assert page["next_cursor"] is None


def test_a_replayed_thread_is_shown(livethread: Command, replayed: list[dict[str, Any]]) -> None:
    result = max(replayed, key=lambda each: int(each["lines"]))

    shown = livethread("show", result["thread_id"])

    lines = lines_of(Path(result["rollout_path"]))
    assert (shown["thread_id"], shown["rollout_path"]) == (result["thread_id"], result["rollout_path"])
    assert [(item["type"], item["payload"], item["ordinal"]) for item in shown["history"]["items"]] == [
        (line["type"], line["payload"], line["ordinal"]) for line in lines
    ]
