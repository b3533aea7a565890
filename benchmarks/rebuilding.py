"""Measures a rebuild of the index and its parts, on one core."""

from __future__ import annotations

import shutil
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benchmarks import homes
from benchmarks.timing import seconds
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.upkeep.rebuild import rebuild


def run(folder: Path, threads: int, repeats: int) -> dict[str, Any]:
    """Return the median threads per second of a rebuild, and of reading and parsing the bare files.

    A rebuild waits for the disk at each commit; its threads per second of CPU time are a figure of their own.
    """
    home = Home(folder / f"rebuild-{threads}")
    if not home.sessions.exists():
        homes.write_rollouts(home, threads, homes.WHOLE)
    rebuilt, busy, parsed = [], [], []
    for _ in range(repeats):
        shutil.rmtree(home.own)
        home.create()
        index = Index(home)
        began = time.process_time()
        rebuilt.append(seconds(partial(rebuild, home, index)))
        busy.append(time.process_time() - began)
        index.close()
        parsed.append(seconds(partial(_parse, home)))
    return {
        "threads": threads,
        "bytes": sum(path.stat().st_size for _, path in home.rollouts()) // threads,
        "index_bytes": home.index.stat().st_size // threads,
        "rebuild_per_s": threads / statistics.median(rebuilt),
        "rebuild_per_cpu_s": threads / statistics.median(busy),
        "bare_per_s": threads / statistics.median(parsed),
    }


def _parse(home: Home) -> None:
    for _, path in home.rollouts():
        for line in path.read_bytes().splitlines():
            orjson.loads(line)
