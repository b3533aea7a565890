"""`RolloutRecorder`: the only code that appends to rollouts. Its lines are canonical already."""

from __future__ import annotations

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Self

from livethread_worker.store.files.home import FILE_MODE, make_directory


class RolloutRecorder:
    """An open rollout; the caller holds its thread's lock.

    A batch's lines go after the committed length in one write, so a crash leaves a prefix of them.
    """

    def __init__(self, path: Path, file: FileIO, *, is_new: bool, is_named: bool) -> None:
        self.path = path
        self.file = file
        #: Whether this recorder created the file.
        self.is_new = is_new
        #: Whether its name is known to be on disk: a process may have crashed right after creating the file.
        self.is_named = is_named
        #: Whether this recorder wrote everything that may not be on disk. For what another process wrote before,
        #: only ``fdatasync`` reports every error.
        self.is_all_ours = is_new or is_named
        stat = os.fstat(file.fileno())
        self.device = stat.st_dev
        #: Length in bytes up to the last good line.
        self.size = stat.st_size
        #: Length before the first append.
        self.appended_from = self.size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open *path* for appending, until the end of the recorder's ``with`` block.

        Raises:
            FileNotFoundError: it does not exist, and *create* is false.
        """
        if create:
            make_directory(path.parent)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        is_new = create and not path.exists()
        return cls(path, FileIO(os.open(path, flags, FILE_MODE), "r+b"), is_new=is_new, is_named=not create)

    def append(self, lines: bytes) -> None:
        """Write *lines* after the last good one; after an error, cut the file back.

        Raises:
            OSError: for example, the disk is full; none of *lines* counts as written.
        """
        start = self.size
        self.appended_from = min(self.appended_from, start)
        view = memoryview(lines)
        try:
            while view:
                written = os.pwrite(self.file.fileno(), view, self.size)
                view = view[written:]
                self.size += written
        except OSError:
            self.size = start
            with suppress(OSError):
                self.cut()
            raise

    def cut(self) -> None:
        """Truncate the file to `size`."""
        os.ftruncate(self.file.fileno(), self.size)

    def take_back(self) -> None:
        """Cut off what was appended after syncing it failed, so that it is written again.

        The kernel marks the failed pages clean, so the next ``fdatasync`` would not report them.
        """
        self.size = self.appended_from
        with suppress(OSError):
            self.cut()
