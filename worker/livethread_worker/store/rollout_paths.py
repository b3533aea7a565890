"""Where the rollouts of a thread are, by index and files: the cost does not grow with the home, see `RolloutSearch`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from livethread.errors import ThreadNotFound, ThreadStoreError
from livethread_worker.store.files.compression import open_rollout
from livethread_worker.store.files.folder_stamps import folder_stamps
from livethread_worker.store.files.home import Home, thread_in
from livethread_worker.store.files.lineage import read_first
from livethread_worker.store.files.rollout_search import KnownFolder
from livethread_worker.store.index import Index


def find_rollout(home: Home, index: Index, thread_id: str) -> Path | None:
    """Return the live rollout of *thread_id*, which may not be where the index knows it; None if it has no rollout."""
    known = index.rollout(thread_id)
    if known is not None:
        path = home.where_it_lies(home.active_path(home.root / known[0]))
        if path is not None and home.was_within(path.parent):
            return live_rollout(home, path)
    path = home.find_a_rollout(thread_id, _known_folders(index))
    return live_rollout(home, path) if path else None


def live_rollout(home: Home, path: Path) -> Path:
    """Return the live rollout of the thread of *path*: codex reverts only paginated ones."""
    with suppress(OSError, ThreadStoreError), open_rollout(path) as file:
        if not read_first(file).is_paginated:
            return path
    return home.live_rollout(path)


def require_rollout(home: Home, index: Index, thread_id: str) -> Path:
    """Return what `find_rollout` returns.

    Raises:
        ThreadNotFound: it has no rollout.
    """
    path = find_rollout(home, index, thread_id)
    if path is None:
        raise ThreadNotFound(thread_id, f"{home.root} holds no rollout of it")
    return path


def rollouts_of(home: Home, index: Index, thread_id: str) -> list[Path]:
    """Return all rollouts of *thread_id*, the live one last."""
    known = index.rollout(thread_id)
    if known is None:
        return home.rollouts_of(thread_id, _known_folders(index))
    may_rest = not index.lineage(thread_id).is_paginated  # codex may have reverted it just now
    found = set(home.rollouts_of(thread_id, _known_folders(index), may_rest=may_rest, is_indexed=True))
    live = home.root / known[0]
    forms = {str(live), *home.forms(str(home.active_path(live)))}
    present = [Path(form) for form in forms if os.path.exists(form)]  # noqa: PTH110 - half the time
    found |= {path for path in present if home.was_within(path.parent)}
    if home.generation(live) and all(map(home.generation, found)):  # the first one was live when its folder was noted
        found |= set(home.rollouts_of(thread_id))
    return sorted(found, key=home.rank)


def unindexed_rollouts(home: Home, index: Index) -> Iterator[tuple[str, Path]]:
    """Yield thread and path of each rollout that the index does not hold: new ones, copies, and those that reverts left."""
    known = _known_folders(index) or {}
    for name, stamp in folder_stamps(home).items():
        folder, noted = home.root / name, known.get(name)
        is_same = noted is not None and noted.stamp == stamp
        names = noted.others if noted and is_same else [entry.name for entry in home.entries_of(folder)]
        threads = {each: thread_id for each in names if (thread_id := thread_in(each))}
        rows = index.rollouts_of(set(threads.values()))
        for each, thread_id in threads.items():
            if rows.get(thread_id, ("",))[0] != f"{name}/{each}":
                yield thread_id, folder / each


def _known_folders(index: Index) -> Mapping[str, KnownFolder] | None:
    """Return the folders that need not be listed, for their rollouts are in the index; None if it lacks rollouts."""
    return index.folders if index.is_complete and not index.in_memory else None
