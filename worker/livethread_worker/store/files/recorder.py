"""`RolloutRecorder`: the one writer of rollout files, of already canonical lines only."""

from __future__ import annotations

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Self

from livethread_worker.store.files.home import FILE_MODE, make_directory


class RolloutRecorder:
    """An open rollout, whose thread's lock the caller holds.

    Writes go to the committed length, all lines of a batch in one call, so that a crash leaves a prefix.
    """

    def __init__(self, path: Path, file: FileIO, *, is_new: bool, is_named: bool) -> None:
        self.path = path
        self.file = file
        #: Whether the file was made just now.
        self.is_new = is_new
        #: Whether its name is known to be on the disk: a crash may have come right behind its making.
        self.is_named = is_named
        #: Whether only this recorder has written what is not known to be on the disk. Of what a killed process, or another
        #: program, wrote before it was opened, only ``fdatasync`` tells for certain whether it could be written.
        self.is_all_ours = is_new or is_named
        stat = os.fstat(file.fileno())
        #: The file system that it lies on.
        self.device = stat.st_dev
        #: Length of the file, in bytes, as far as it is good.
        self.size = stat.st_size
        #: Where what was appended last begins.
        self.appended_from = self.size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open *path* for appending; the recorder closes it at the end of its block.

        Raises:
            FileNotFoundError: there is no such rollout, and it is not to be created.
        """
        if create:
            make_directory(path.parent)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        is_new = create and not path.exists()
        return cls(path, FileIO(os.open(path, flags, FILE_MODE), "r+b"), is_new=is_new, is_named=not create)

    def append(self, lines: bytes) -> None:
        """Write *lines* behind the last good one; on an error the file is cut back to what it was.

        Raises:
            OSError: the disk is full, or the like; nothing of *lines* counts as written.
        """
        self.appended_from = start = self.size
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
        """Cut the file to the good length."""
        os.ftruncate(self.file.fileno(), self.size)

    def take_back(self) -> None:
        """Cut off what was appended last, which could not be forced to the disk: it is to be written again.

        After such an error the kernel takes the pages for written, and the next ``fdatasync`` says nothing more of them.
        """
        self.size = self.appended_from
        with suppress(OSError):
            self.cut()
