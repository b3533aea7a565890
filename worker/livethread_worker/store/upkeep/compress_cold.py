"""Compresses rollouts that have not changed for a long time."""

from __future__ import annotations

import logging
from collections.abc import Container
from datetime import datetime
from typing import Final

from livethread.errors import ThreadStoreError
from livethread_worker.store.files import compression, locks, originals, quarantine
from livethread_worker.store.files.home import Home, is_compressed
from livethread_worker.store.index import Index

logger = logging.getLogger(__name__)

#: After so many errors of the operating system in a row, every other rollout would fail as well.
FAILURES: Final = 10


def compress_cold(home: Home, index: Index, before: datetime) -> dict[str, int]:
    """Compress the rollouts of threads unchanged since *before*; return how many, and their bytes before and after.

    Each is compressed under its thread's lock. Skipped are rollouts that are in use, differ from the index, fail
    verification, cannot be read, lie outside the home because of a symlink, or are continued by others. Reads work as
    before; the next change of a thread decompresses its rollout.

    Raises:
        IndexUnavailable: the index cannot be used.
        OSError: the home cannot be written, as on a full disk; every rollout is whole, in one form or both.
    """
    counts = {"threads": 0, "bytes": 0, "compressed_bytes": 0}
    continued = index.base_ids()
    failures = 0
    for thread_id in index.unchanged_since(before):
        try:
            with locks.file_lock(home.thread_lock(thread_id)):
                if sizes := _compress(home, index, thread_id, before, continued):
                    counts["threads"] += 1
                    counts["bytes"] += sizes[0]
                    counts["compressed_bytes"] += sizes[1]
        except locks.LockBusy:
            continue
        except (ThreadStoreError, OSError) as error:
            failures = failures + 1 if isinstance(error, OSError) else 0
            if failures == FAILURES:
                raise
            logger.exception(
                "compressing thread %s failed", thread_id, extra={"action": "compress", "thread_id": thread_id}
            )
        else:
            failures = 0
    return counts


def _compress(
    home: Home, index: Index, thread_id: str, before: datetime, continued: Container[str | None]
) -> tuple[int, int] | None:
    """Compress one rollout and return its sizes before and after; None if it is not cold, or others continue it."""
    state = index.load_states({thread_id: set()}).get(thread_id)
    if state is None or state.thread is None or state.thread.updated_at >= before:
        return None
    path = home.resolve(state.path)
    if is_compressed(path) or not path.exists() or home.rollout_id_of(path) in continued:
        return None
    stat = path.stat()
    # codex before 0.160 writes without the lock: then the file is new, or longer than in the index.
    if stat.st_mtime >= before.timestamp() or stat.st_size != state.rollout_bytes:
        return None
    quarantine.move_other_form_away(home, path)
    is_own_original = originals.is_linked(home, path)
    compressed = compression.compress(path)
    if is_own_original:
        originals.link(home, compressed)
    index.set_path(thread_id, home.relative(compressed))
    return stat.st_size, compressed.stat().st_size
