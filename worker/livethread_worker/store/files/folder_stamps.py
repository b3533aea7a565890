"""Detects whether the entries of a folder of rollouts changed, without listing it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from livethread_worker.store.files.home import Home

#: A folder that changed more recently may change again without a new stamp: clocks of file systems are coarse.
QUIET_TIME: Final = 2.0  # seconds


class FolderStamp(NamedTuple):
    """Differs from the folder's later stamps if a rollout was added, moved or deleted in between.

    It takes the inode's change time, because a program that copies files may set any modification time.
    """

    changed_ns: int
    #: As text: SQLite's integers are signed.
    inode: str

    @classmethod
    def of(cls, folder: str) -> Self:
        """Return the present stamp of *folder*.

        Raises:
            OSError: it is missing, or cannot be read.
        """
        stat = os.stat(folder)  # noqa: PTH116 - a Path takes as long as the call
        return cls(stat.st_ctime_ns, str(stat.st_ino))

    def is_quiet(self) -> bool:
        """Whether the folder has not changed for a while, so that its next change will have a different time."""
        return abs(time.time_ns() - self.changed_ns) > QUIET_TIME * 1e9


def folder_stamps(home: Home) -> dict[str, FolderStamp]:
    """Return the stamp of each folder of rollouts, by its path in the home."""
    stamps: dict[str, FolderStamp] = {}
    for folder in home.rollout_folders():
        with suppress(OSError):  # there are no archived rollouts, or a symlink leads nowhere
            stamps[home.relative(folder)] = FolderStamp.of(str(folder))
    return stamps
