"""Finds the rollouts that codex's ``thread/revert`` began.

A revert leaves a thread's rollout as it is and goes on in a new one, ``rollout-<time>-<thread>_<rollout>.jsonl``. A batch
must not append to the old one, so it looks for a new one first: one ``stat`` of each folder that may hold it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from livethread_worker.store.files.folder_stamps import FolderStamp

#: Thread and rollout id in the name of a rollout that a revert began; None for any other file.
RevertOf = Callable[[str], tuple[str, str] | None]


class Reverts:
    """Remembers the newest reverts in each folder until the folder changes."""

    def __init__(self, revert_of: RevertOf) -> None:
        self._revert_of = revert_of
        #: Folder -> its stamp when it was listed, and thread -> rollout id, path.
        self._listed: dict[str, tuple[FolderStamp, dict[str, tuple[str, Path]]]] = {}

    def newest(self, folder: str, thread_id: str) -> Path | None:
        """Return the newest rollout of *thread_id* in *folder* that a revert began."""
        try:
            stamp = FolderStamp.of(folder)
            listed, reverts = self._listed.get(folder, (None, {}))
            if listed != stamp or not stamp.is_quiet():
                reverts = self._list(folder)
                self._listed[folder] = stamp, reverts
        except OSError:  # missing, or not a folder
            return None
        found = reverts.get(thread_id)
        return found[1] if found else None

    def _list(self, folder: str) -> dict[str, tuple[str, Path]]:
        reverts: dict[str, tuple[str, Path]] = {}
        # Compressed forms come after plain ones, which win.
        for name in sorted(name for name in os.listdir(folder) if "_" in name):  # noqa: PTH208 - twice as fast
            if (revert := self._revert_of(name)) is None:
                continue
            thread_id, rollout_id = revert
            if thread_id not in reverts or reverts[thread_id][0] < rollout_id:
                reverts[thread_id] = rollout_id, Path(folder, name)
        return reverts
