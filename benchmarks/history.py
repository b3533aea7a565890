"""Measures reading a history, and reading and parsing the bare file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benchmarks import homes
from benchmarks.timing import medians
from livethread.types import LoadThreadHistoryParams
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.read.thread_file import load_history
from livethread_worker.store.upkeep.rebuild import rebuild


def run(folder: Path, items: int, repeats: int) -> dict[str, Any]:
    """Return the seconds that each way of reading a thread of *items* items takes."""
    home = Home(folder / f"history-{items}")
    path = home.new_rollout(homes.ROOT, homes.BEGIN)
    if not path.exists():
        home.create()
        path.parent.mkdir(parents=True)
        homes.write_history(path, items)
    index = Index(home)
    rebuild(home, index)
    params = LoadThreadHistoryParams(thread_id=homes.ROOT)
    seconds = medians({"product": partial(load_history, home, index, params), "bare": partial(_parse, path)}, repeats)
    index.close()
    return {"items": items, "bytes": path.stat().st_size} | seconds


def _parse(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [orjson.loads(line) for line in file]
