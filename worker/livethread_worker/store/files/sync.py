"""Forces what a batch wrote to the disk: its rollouts, and the names of new ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Final

from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.files.syncfs import is_cheap_to_sync, sync_filesystem

#: macOS has no fdatasync.
_datasync: Final = getattr(os, "fdatasync", os.fsync)

#: Files that are forced to the disk at once: the disk takes several in hardly more time than one.
SYNCED_AT_ONCE: Final = 8


class Syncing:
    """What *recorders* wrote, and new files' names with it, on its way to the disk; a single one's is there at once.

    They stay open until `wait` has returned.
    """

    def __init__(self, recorders: Sequence[RolloutRecorder]) -> None:
        self._recorders = recorders
        self._errors: list[OSError | None] = [None] * len(recorders)
        self._name_errors: list[OSError | None] = [None] * len(recorders)
        self._under_way: list[Future[None]] = []
        shares = self._shares()
        if len(recorders) > 1:  # a single file is not worth a hand-over
            with suppress(RuntimeError):  # the interpreter ends, or the machine has no thread left
                while shares:
                    self._under_way.append(_sync_pool().submit(shares[-1]))
                    shares.pop()
        for share in shares:
            share()

    def is_done_within(self, seconds: float) -> bool:
        """Whether it is done after so long."""
        return not wait(self._under_way, seconds).not_done

    def wait(self) -> list[OSError | None]:
        """Return each recorder's error, once all is done."""
        for share in self._under_way:
            share.result()
        return [error or of_name for error, of_name in zip(self._errors, self._name_errors, strict=True)]

    def _shares(self) -> list[Callable[[], None]]:
        """Return what is to be done, in parts that may be done at once."""
        if self._is_one_call_as_good():
            return [self._sync_together]
        shares: list[Callable[[], None]] = []
        if not all(recorder.is_named for recorder in self._recorders):
            shares.append(self._sync_names)
        # One for each thread of the pool: to hand over each file takes more CPU time than to write it.
        shares += (partial(self._sync_share, first) for first in range(min(len(self._recorders), SYNCED_AT_ONCE)))
        return shares

    def _is_one_call_as_good(self) -> bool:
        """Whether `sync_filesystem` does for all what a call for each would, and tells of every error."""
        recorders = self._recorders
        return (
            len(recorders) > 1
            and all(recorder.is_all_ours for recorder in recorders)
            and len({recorder.device for recorder in recorders}) == 1
            and is_cheap_to_sync(recorders[0].file.fileno())
        )

    def _sync_together(self) -> None:
        """Sync all by one call. Of an error it is not said whose it is: each file is asked."""
        try:
            # The first was opened before any of them was written to.
            sync_filesystem(self._recorders[0].file.fileno())
        except OSError:
            for first in range(SYNCED_AT_ONCE):
                self._sync_share(first)
            self._sync_names()
        else:
            for recorder in self._recorders:
                recorder.is_named = True

    def _sync_share(self, first: int) -> None:
        for number in range(first, len(self._recorders), SYNCED_AT_ONCE):
            self._errors[number] = _sync_data(self._recorders[number])

    def _sync_names(self) -> None:
        """Force the names of new files to the disk, each folder once."""
        new: dict[Path, list[int]] = {}
        for number, recorder in enumerate(self._recorders):
            if not recorder.is_named:
                new.setdefault(recorder.path.parent, []).append(number)
        for folder, numbers in new.items():
            try:
                sync_directories(folder)
            except OSError as error:
                for number in numbers:
                    self._name_errors[number] = error
            else:
                for number in numbers:
                    self._recorders[number].is_named = True


def sync_now(recorder: RolloutRecorder) -> None:
    """Force what *recorder* wrote to the disk, and a new file's name with it.

    Raises:
        OSError: the disk could not take it.
    """
    if error := Syncing([recorder]).wait()[0]:
        raise error


@cache
def _sync_pool() -> ThreadPoolExecutor:
    """Return the process' pool: to start its threads for each batch took longer than to hand them their shares."""
    return ThreadPoolExecutor(SYNCED_AT_ONCE, thread_name_prefix="sync")


# A forked child has the pool, and none of its threads.
os.register_at_fork(after_in_child=_sync_pool.cache_clear)


def _sync_data(recorder: RolloutRecorder) -> OSError | None:
    try:
        _datasync(recorder.file.fileno())
    except OSError as error:
        return error
    return None


def sync_directories(folder: Path) -> None:
    """Force the names of *folder* and of its dated parents to the disk."""
    for path in (folder, *folder.parents[:3]):
        sync_directory(path)


def sync_directory(path: Path) -> None:
    """Force the names in *path* to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
