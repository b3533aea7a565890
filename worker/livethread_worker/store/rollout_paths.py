"""Where the rollouts of a thread are, by index and files: the cost does not grow with the home, see `RolloutSearch`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from livethread.errors import ThreadNotFound
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.rollout_search import KnownFolder
from livethread_worker.store.index import Index


def find_rollout(home: Home, index: Index, thread_id: str) -> Path | None:
    """Return the live rollout of *thread_id*, which may not be where the index knows it; None if it has no rollout."""
    known = index.rollout(thread_id)
    if known is not None:
        path = home.where_it_lies(home.active_path(home.root / known[0]))
        if path is not None and home.is_within(path.parent):
            return home.live_rollout(path)
    return home.find_rollout(thread_id, _known_folders(home, index, known))


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
    found = set(home.rollouts_of(thread_id, _known_folders(home, index, known)))
    if known is not None:
        live = home.root / known[0]
        forms = {live, *map(Path, home.forms(home.active_path(live)))}
        found |= {path for path in forms if path.exists() and home.is_within(path.parent)}
    return sorted(found, key=home.rank)


def _known_folders(home: Home, index: Index, known: tuple[str, int] | None) -> Mapping[str, KnownFolder] | None:
    """Return the folders that need not be searched for a thread whose rollout the index *known* does not find."""
    # Of a thread that codex reverted, the index learned of a new rollout, and its folders stayed as they were.
    if index.in_memory or not index.is_complete or (known and home.generation(Path(known[0]))):
        return None
    return index.folders
