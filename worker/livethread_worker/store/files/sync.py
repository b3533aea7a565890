"""Syncs a batch to disk: its rollouts, and the names of new ones."""

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

#: Files synced at the same time: several take little longer than one.
SYNC_THREADS: Final = 8


class Syncing:
    """Syncs the files of *recorders*, and the names of new ones, in a thread pool; the constructor syncs a single file.

    The recorders must stay open until `wait` has returned.
    """

    def __init__(self, recorders: Sequence[RolloutRecorder]) -> None:
        self._recorders = recorders
        self._errors: list[OSError | None] = [None] * len(recorders)
        self._name_errors: list[OSError | None] = [None] * len(recorders)
        self._pending: list[Future[None]] = []
        shares = self._shares()
        if len(recorders) > 1:  # handing a single file to a thread takes longer
            with suppress(RuntimeError):  # the interpreter is shutting down, or no thread can start
                while shares:
                    self._pending.append(_sync_pool().submit(shares[-1]))
                    shares.pop()
        for share in shares:
            share()

    def is_done_within(self, seconds: float) -> bool:
        """Wait for up to *seconds*, and return whether everything is synced."""
        return not wait(self._pending, seconds).not_done

    def wait(self) -> list[OSError | None]:
        """Wait until everything is synced, and return each recorder's error."""
        for share in self._pending:
            share.result()
        return [error or name_error for error, name_error in zip(self._errors, self._name_errors, strict=True)]

    def _shares(self) -> list[Callable[[], None]]:
        """Split the work into calls that may run at the same time."""
        if self._can_sync_together():
            return [self._sync_together]
        shares: list[Callable[[], None]] = []
        if not all(recorder.is_named for recorder in self._recorders):
            shares.append(self._sync_names)
        # One for each thread of the pool: submitting each file takes more CPU time than writing it.
        shares += (partial(self._sync_share, first) for first in range(min(len(self._recorders), SYNC_THREADS)))
        return shares

    def _can_sync_together(self) -> bool:
        """Return whether one `sync_filesystem` does the same as a sync of each file, and reports every error."""
        recorders = self._recorders
        return (
            len(recorders) > 1
            and all(recorder.is_all_ours for recorder in recorders)
            and len({recorder.device for recorder in recorders}) == 1
            and is_cheap_to_sync(recorders[0].file.fileno())
        )

    def _sync_together(self) -> None:
        """Sync all files with one call; after an error, sync each to learn which failed."""
        try:
            # The first file was opened before any file was written to, so this reports every error since.
            sync_filesystem(self._recorders[0].file.fileno())
        except OSError:
            for first in range(SYNC_THREADS):
                self._sync_share(first)
            self._sync_names()
        else:
            for recorder in self._recorders:
                recorder.is_named = True

    def _sync_share(self, first: int) -> None:
        for number in range(first, len(self._recorders), SYNC_THREADS):
            self._errors[number] = _sync_data(self._recorders[number])

    def _sync_names(self) -> None:
        """Sync the names of new files, each folder once."""
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
    """Sync the rollout of *recorder* to disk, and the name of a new one.

    Raises:
        OSError: the disk failed.
    """
    if error := Syncing([recorder]).wait()[0]:
        raise error


@cache
def _sync_pool() -> ThreadPoolExecutor:
    """Return the process's pool; starting threads for each batch takes too long."""
    return ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="sync")


# A forked child inherits the pool without its threads.
os.register_at_fork(after_in_child=_sync_pool.cache_clear)


def _sync_data(recorder: RolloutRecorder) -> OSError | None:
    try:
        _datasync(recorder.file.fileno())
    except OSError as error:
        return error
    return None


def sync_directories(folder: Path) -> None:
    """Sync the names in *folder* and in its three parents to disk."""
    for path in (folder, *folder.parents[:3]):
        sync_directory(path)


def sync_directory(path: Path) -> None:
    """Sync the names in *path* to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
