"""Measures deletions in a row through the queue, of all threads of a day's folder."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import scale
from benchmarks.deployments import deployed
from benchmarks.listing import made_home
from livethread import types
from livethread_worker.embedded.redis_server import run_dir
from livethread_worker.store.files.home import Home

#: Deletions that wait for an answer at a time.
_AT_ONCE: Final = 500


def run(folder: Path, deletions: int) -> dict[str, Any]:
    """Return how many deletions a second were accepted and applied, and the number of claims that expired."""
    shape = scale.on_one_day(deletions)
    home = made_home(folder, deletions, shape, "deleted")
    try:
        return asyncio.run(_delete(home, [shape.thread_id(number) for number in range(deletions)]))
    finally:
        shutil.rmtree(home.root)  # the next run needs them all


async def _delete(home: Home, ids: list[str]) -> dict[str, Any]:
    async with deployed(1, home.root) as deployment:
        begin = time.perf_counter()
        for first in range(0, len(ids), _AT_ONCE):
            params = types.DeleteThreadsParams(thread_ids=tuple(ids[first : first + _AT_ONCE]))
            assert not (await deployment.store.delete_threads(params)).failed
        accepted = time.perf_counter() - begin
        await deployment.until_empty()
        applied = time.perf_counter() - begin
        assert not any(home.rollouts())
        logs = run_dir(deployment.settings).glob("*.log")
        expired = sum(log.read_text(encoding="utf-8").count("claims expired") for log in logs)
    return {
        "deletions": len(ids),
        "accepted_per_s": len(ids) / accepted,
        "applied_per_s": len(ids) / applied,
        "expired": expired,
    }
