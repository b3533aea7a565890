"""Checks a home's rollouts line by line: every accepted item once, in order, and numbered without a gap."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def records(home: Path, thread_id: str) -> list[dict[str, Any]]:
    """Return the lines of a thread's only rollout; each is whole, and JSON."""
    [path] = home.rglob(f"rollout-*-{thread_id}.jsonl")
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def check_rollout(home: Path, thread_id: str) -> list[dict[str, Any]]:
    """Check what holds of every rollout and return its items, without the store's own records."""
    lines = records(home, thread_id)
    assert [line["ordinal"] for line in lines] == list(range(len(lines)))
    assert [line["type"] for line in lines].count("session_meta") == 1
    assert (lines[0]["type"], lines[0]["payload"]["id"]) == ("session_meta", thread_id)
    counters: dict[str, int] = {}
    for line in lines:
        writer, _, n = line["seq"].rpartition(":")
        assert int(n) >= counters.get(writer, 0), f"{writer}'s task {n} stands behind {counters[writer]}"
        counters[writer] = int(n)
    return [line for line in lines if line["type"] not in {"session_meta", "thread_metadata"}]
