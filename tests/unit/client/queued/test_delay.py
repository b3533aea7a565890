"""Errors say why tasks wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livethread.queued.delay import RECENT_S, Circumstances

NOW = 1_800_000_000.0
IDLE = Circumstances(
    shard=3,
    queue="livethread.3",
    now=NOW,
    looked_at=None,
    swept_at=None,
    is_draining=False,
    ready=1,
    messages=0,
    claimed_until=None,
    put_back="",
    failed=0,
)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({}, "No worker has ever looked for tasks of shard 3. Is a worker running"),
        (
            {"looked_at": NOW - 60},
            "No worker has looked for tasks of shard 3 since 2027-01-15 07:59:00 UTC. Is a worker",
        ),
        ({"messages": 7}, "ever looked for tasks of shard 3. 7 messages wait in the queue livethread.3. Is a worker"),
        ({"swept_at": NOW - RECENT_S - 1}, "Is a worker running"),
        ({"swept_at": NOW - 2}, "does one on the host of the shard's home serve the queue livethread.3?"),
        ({"is_draining": True, "ready": 40}, "A worker is at work on shard 3, which has 40 ready threads."),
        (
            {"is_draining": True, "claimed_until": NOW + 5},
            "A worker holds the thread's claim until 2027-01-15 08:00:05",
        ),
        ({"claimed_until": NOW - 1}, "No worker has ever looked"),
        ({"is_draining": True, "put_back": "x.lock is held"}, "A worker put the thread back: x.lock is held"),
        ({"put_back": "disk full", "failed": 4}, "put the thread back (4 failed attempts so far): disk full"),
    ],
)
def test_the_cause_is_the_nearest_one(change: dict[str, object], cause: str) -> None:
    assert cause in replace(IDLE, **change).cause()  # type: ignore[arg-type]  # each field has its own type


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"messages": 1}, "1 message waits in the queue livethread.3. Is a worker running"),
        (
            {"looked_at": NOW - 7200, "swept_at": NOW - 2},
            "A worker swept at 2027-01-15 07:59:58 UTC. If it still runs",
        ),
        ({"is_draining": True, "ready": 0}, "A worker is at work on shard 3."),
    ],
)
def test_a_read_waits_for_other_reasons_than_a_task(change: dict[str, object], cause: str) -> None:
    """An idle worker looks for no tasks, and takes reads."""
    assert replace(IDLE, **change).cause_of_read().startswith(cause)  # type: ignore[arg-type]  # as above
