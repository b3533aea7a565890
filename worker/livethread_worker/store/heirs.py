"""Finds the threads that need another one: forks that continue one of its rollouts, or are attached to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from livethread.errors import Conflict, ThreadStoreError
from livethread_worker.store.files.compression import open_rollout
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.lineage import First, read_first
from livethread_worker.store.index import Index
from livethread_worker.store.index.index import Heir
from livethread_worker.store.rollout_paths import rollouts_of, unindexed_rollouts


def require_unneeded(home: Home, index: Index, thread_id: str) -> None:
    """Check that no other thread needs *thread_id*, so that it can be deleted.

    Raises:
        Conflict: another thread needs it.
    """
    heir = next(_heirs(home, index, thread_id), None)
    if heir is None:
        return
    if heir.is_attached:
        raise Conflict(
            f"cannot delete thread {thread_id} while attached thread {heir.thread_id} exists; delete that one first"
        )
    raise Conflict(
        f"cannot delete thread {thread_id}: thread {heir.thread_id} was forked from it and reads its rollout; delete "
        "that one first, or archive this one"
    )


def _heirs(home: Home, index: Index, thread_id: str) -> Iterator[Heir]:
    # codex lets forks continue only paginated threads.
    is_paginated = index.rollout(thread_id) is None or index.lineage(thread_id).is_paginated
    rollouts = rollouts_of(home, index, thread_id) if is_paginated else []
    rollout_ids = {id_ for path in rollouts if (id_ := home.rollout_id_of(path))}
    for known in index.heirs(thread_id, rollout_ids):
        if (home.root / known.path).exists():
            yield known
    if not any(_first(path).is_paginated for path in rollouts):
        return
    for other, path in unindexed_rollouts(home, index):
        if other == thread_id:
            continue
        first = _first(path)
        if first.attached_to == thread_id:
            yield Heir(other, home.relative(path), is_attached=True)
        elif first.base is not None and first.base.rollout_id in rollout_ids:
            yield Heir(other, home.relative(path), is_attached=False)


def continued_rollouts(home: Home) -> set[str]:
    """Return the ids of all rollouts that others continue: their bytes must not move. Reads each rollout's first line."""
    return {base.rollout_id for _, path in home.rollouts() if (base := _first(path).base) is not None}


def _first(path: Path) -> First:
    with suppress(OSError, ThreadStoreError), open_rollout(path) as file:
        return read_first(file)
    return First(0)
