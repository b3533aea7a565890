"""Picks up what other programs wrote into a home: codex, a copy, an editor. It changes no rollout.

The index is right about a thread if the thread's rollout is at the same path, has the committed length, and the name
index holds the same name. Any other thread is read again under its lock, so that no worker is disturbed. codex holds the
lock of every thread that it has loaded: such a thread is read without its lock, and stored only if no other process stored
it meanwhile.

A read of one thread looks at that thread. A listing or a search does not wait for a look at every file, which takes a second
for 100,000 threads. Each one finds

- every rollout that was added, moved or compressed: it lists the folders that changed since the index knew all their
  rollouts. Of more than `LISTED` entries, the next listings continue with the rest, except for an index in memory;
- every rollout that grew or was removed, of the `UPDATED_LAST` threads updated last;
- every rollout that grew or was removed, of as many other threads as it can look at in `LOOK_TIME`: a few thousand. The
  next listings continue with the rest, so any rollout's growth shows after one round: about twenty listings for 100,000 threads.

A thread whose rollout was removed is forgotten, and its original is removed.

After each look, listings answer from the index alone for `REST_FACTOR` times as long as the look took: one or two seconds,
or longer if large folders changed.

A fresh listing must show what workers stored before. The SQLite file does; with an index in memory, a fresh listing looks at
every rollout at once.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from livethread.errors import ThreadStoreError
from livethread_worker.store.files import folder_stamps, name_index, originals
from livethread_worker.store.files.home import Home, is_compressed, thread_in
from livethread_worker.store.files.locks import LockBusy, file_lock, remove_thread_lock
from livethread_worker.store.files.rollout_search import KnownFolder
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.rollout_paths import find_rollout, live_rollout
from livethread_worker.store.thread_state import BROKEN, ThreadState
from livethread_worker.store.upkeep.rebuild import BATCH_THREADS, RebuildReport, index_batch, read_state

#: A look is repeated only after this many times its duration: 2 % of a reader's time.
REST_FACTOR: Final = 50

#: Threads updated last, which every listing looks at, and threads that one query fetches.
UPDATED_LAST: Final = 500

#: How long a listing looks at the lengths of other rollouts.
LOOK_TIME: Final = 0.02  # seconds

#: How many entries of changed folders a listing looks at.
LISTED: Final = 4_000

#: Rollouts in changed folders after which the folders are recorded in the index: other processes need not list them.
NOTED_ROLLOUTS: Final = 1_000

#: How long a reader of one thread waits for its lock: longer than a worker needs for a batch.
LOCK_WAIT: Final = 0.05  # seconds

#: No worker holds a thread's lock for longer.
HELD_FOR_LONG: Final = 0.5  # seconds

#: Sorts after every thread id.
_AFTER_ALL_IDS: Final = "~"

T = TypeVar("T")

#: Thread -> path of its rollout.
_Rollouts = dict[str, Path]

#: A thread and a rollout of it.
_Entry = tuple[str, os.DirEntry[str]]


@dataclass(slots=True)
class _RateLimit:
    """Runs a look unless one ran very recently. Reading what it found does not count towards its duration."""

    not_before: float = 0.0

    def run(self, look: Callable[[], T], *, at_once: bool = False) -> T | None:
        started = time.monotonic()
        if started < self.not_before and not at_once:
            return None
        found = look()
        self.not_before = time.monotonic() + REST_FACTOR * (time.monotonic() - started)
        return found


@dataclass(slots=True)
class _Folder:
    """A folder that changed, and how far it was listed since."""

    stamp: folder_stamps.FolderStamp
    #: Whether the folder had been unchanged for long enough to record its stamp.
    is_quiet: bool
    #: The entries that are left.
    entries: Iterator[os.DirEntry[str]]
    is_listed: bool = False
    #: Number of the rollouts so far, and whether the index knows their threads.
    rollouts: int = 0
    is_known: bool = True
    #: See `KnownFolder`.
    others: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Refresher:
    """Keeps an index up to date with the files of its home."""

    home: Home
    index: Index
    #: Folders with rollouts that the index may not know.
    _changed: dict[str, _Folder] = field(default_factory=dict)
    #: Folder -> number of its rollouts, if only this process knows yet that the index knows them.
    _unnoted: dict[str, int] = field(default_factory=dict)
    #: The next look at lengths begins with the thread before this one.
    _next_before: str = _AFTER_ALL_IDS
    #: Thread -> path and length of its rollout when it was read, if the index has a different length: the last line was
    #: torn, or there was no thread in it.
    _known_mismatches: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: Thread -> when its lock was first found held while its rollout was stale.
    _held_since: dict[str, float] = field(default_factory=dict)
    _names: name_index.NameCache = field(init=False)
    #: The names that the index was compared with.
    _compared_names: dict[str, str | None] | None = None
    _names_limit: _RateLimit = field(default_factory=_RateLimit)
    _look_limit: _RateLimit = field(default_factory=_RateLimit)

    def __post_init__(self) -> None:
        self._names = name_index.NameCache(self.home)

    def refresh_all(self, *, fresh: bool = False) -> None:
        """Look at the home, within the bounds above, and read the rollouts that changed, unless that was just done.

        If it must be *fresh*, an index in memory looks now, and at every rollout.
        Another process completes an index that has not read every rollout yet; an index in memory is completed here.

        Raises:
            IndexUnavailable: the index cannot be used.
        """
        if self.index.in_memory or self.index.is_complete:
            at_once = fresh and self.index.in_memory
            found = self._look_limit.run(lambda: self._look(is_whole=at_once), at_once=at_once)
            if found is not None:
                entries, stale, missing = found
                # Workers kept writing while we looked.
                self._read((thread_id, path) for thread_id, path in stale.items() if self._differs(thread_id, path))
                self._note(entries)
                self._forget(missing)
            self._refresh_names(at_once=at_once)

    def refresh(self, thread_id: str) -> Path | None:
        """Read the rollout of *thread_id* if the index is wrong about it; return its path, or None if there is none.

        Raises:
            IndexUnavailable: the index cannot be used.
        """
        known = self.index.rollout(thread_id)
        path = self.home.root / known[0] if known else None
        lineage = self.index.lineage(thread_id)
        if path is None or not path.exists():
            path = find_rollout(self.home, self.index, thread_id)
        elif lineage.is_paginated or self._differs(thread_id, path):
            path = live_rollout(self.home, path)
        if path is not None and (lineage.is_broken or self._differs(thread_id, path)):
            # codex may have rewritten a legacy rollout as a paginated one, and reverted it since.
            self._read([(thread_id, live_rollout(self.home, path))], wait_s=LOCK_WAIT)
        self._refresh_names()
        return path

    # -- looking -------------------------------------------------------------------------------------------

    def _look(self, *, is_whole: bool) -> tuple[list[_Entry], _Rollouts, list[str]]:
        """Return rollouts in changed folders, the rollouts about which the index is wrong, and threads without one."""
        entries = self._entries_of_changed_folders()
        stale, missing = self._stale_by_length(is_whole=is_whole)
        return entries, stale | self._stale_in(entries), missing

    def _present(self, thread_ids: Collection[str]) -> set[str]:
        """Return those of *thread_ids* that have a rollout anywhere in the home."""
        wanted = set(thread_ids)
        return {thread_id for thread_id, _ in self.home.rollout_entries() if thread_id in wanted} if wanted else set()

    def _forget(self, missing: list[str]) -> None:
        """Delete the rows of threads whose rollouts a user removed; a thread that is being written waits for a later look.

        Not while the whole folder is away, such as a disk that is not mounted. Their originals are deleted, too, for they
        hold what the user removed; not for an index in memory, which takes no locks.
        """
        known = self.index.rollouts_of(missing) if missing and self.home.sessions.is_dir() else {}
        missing = [id_ for id_, (path, _) in known.items() if (self.home.root / Path(path).parts[0]).is_dir()]
        if not missing:
            return
        with ExitStack() as locks:
            free: list[str] = []
            for thread_id in missing:
                with suppress(LockBusy):
                    if not self.index.in_memory:
                        locks.enter_context(file_lock(self.home.thread_lock(thread_id)))
                    free.append(thread_id)
            present = self._present(free)
            if gone := [thread_id for thread_id in free if thread_id not in present]:
                if not self.index.in_memory:
                    rollouts = [Path(known[thread_id][0]) for thread_id in gone]
                    if any(map(self.home.generation, rollouts)):  # codex reverted the thread: it had earlier ones
                        rollouts += originals.of_threads(self.home, set(gone))
                    for rollout in rollouts:
                        with suppress(OSError):  # a home that this process only reads; doctor finds it
                            originals.forget(self.home, rollout)
                self.index.commit((), gone)
                if not self.index.in_memory:
                    for thread_id in gone:
                        remove_thread_lock(self.home, thread_id)
        copies = ((id_, path) for id_ in present if (path := find_rollout(self.home, self.index, id_)) is not None)
        self._read(copies)

    def _entries_of_changed_folders(self) -> list[_Entry]:
        """Return the next rollouts in folders that changed since the index knew every rollout in them."""
        before, self._changed = self._changed, {}
        for name, stamp in folder_stamps.folder_stamps(self.home).items():
            known = self.index.folders.get(name)
            if name in before and not before[name].is_listed:
                self._changed[name] = before[name]
            elif known is None or known.stamp != stamp:
                entries = self.home.entries_of(self.home.root / name)
                self._changed[name] = _Folder(stamp, stamp.is_quiet(), entries)
        found: list[_Entry] = []
        left = sys.maxsize if self.index.in_memory else LISTED  # no other process fills an index in memory
        for number, name in enumerate(sorted(self._changed, reverse=True)):
            # The newest folder changes all the time, and leaves half of the look to the others.
            folder, most = self._changed[name], left if number else left // 2
            entries_of_folder = list(islice(folder.entries, most))
            folder.is_listed = len(entries_of_folder) < most
            left -= len(entries_of_folder)
            found += [(id_, each) for each in entries_of_folder if (id_ := thread_in(each.name))]
        return found

    def _stale_in(self, entries: Collection[_Entry]) -> _Rollouts:
        """Return the rollouts of *entries* about which the index is wrong; of known ones, others look at the length."""
        root = f"{self.home.root}/"
        known = self.index.rollouts_of({thread_id for thread_id, _ in entries})
        present, _ = self.home.one_rollout_each(
            known, (each for each in entries if known.get(each[0], ("",))[0] != each[1].path.removeprefix(root))
        )
        stale: _Rollouts = {}
        for thread_id, entry in present.items():
            path, row = entry.path.removeprefix(root), known.get(thread_id)
            is_copy = row is not None and self._holds_same(row[0], entry.name)
            with suppress(FileNotFoundError):  # moved or deleted since it was listed
                size = entry.stat(follow_symlinks=False).st_size
                if not is_copy and self._is_stale(thread_id, row, path, size):
                    stale[thread_id] = self.home.root / path
        return stale

    def _holds_same(self, known: str, name: str) -> bool:
        """Whether the *known* rollout is there, and not older than the one called *name*: no revert came between."""
        path = self.home.root / known
        return path.exists() and self.home.generation(path) >= self.home.generation(Path(name))

    def _stale_by_length(self, *, is_whole: bool) -> tuple[_Rollouts, list[str]]:
        """Return the rollouts that grew or were cut, and the threads whose rollouts are not where they were.

        Only among the threads to look at now, unless the look *is_whole*.
        """
        deadline = time.monotonic() + LOOK_TIME
        if is_whole:
            deadline, self._next_before = math.inf, _AFTER_ALL_IDS
        stale: _Rollouts = {}
        missing: list[str] = []
        rollouts = self.index.rollouts_updated_last(UPDATED_LAST) | self._next_rollouts()
        if self._held_since:  # they were left to their writers
            rollouts |= self.index.rollouts_of(self._held_since)
        while rollouts:
            for thread_id, row in rollouts.items():
                path = self.home.root / row[0]
                size = _size(path)
                if size < 0 and (moved := self.home.where_it_lies(self.home.active_path(path))) is not None:
                    stale[thread_id] = moved
                elif size < 0:
                    missing.append(thread_id)
                elif self._is_stale(thread_id, row, row[0], size):
                    stale[thread_id] = path
            if time.monotonic() >= deadline:
                break
            rollouts = self._next_rollouts()
        return stale, list(dict.fromkeys(missing))

    def _next_rollouts(self) -> dict[str, tuple[str, int]]:
        """Return the threads to look at next; an empty dict at the end of a round."""
        rollouts = self.index.rollouts_before(self._next_before, UPDATED_LAST)
        self._next_before = min(rollouts, default=_AFTER_ALL_IDS)
        return rollouts

    def _note(self, entries: Collection[_Entry]) -> None:
        """Note which of *entries* the index knows now, and the folders that are quiet and of which it knows all."""
        root = f"{self.home.root}/"
        known = self.index.rollouts_of({thread_id for thread_id, _ in entries})
        for thread_id, entry in entries:
            path = entry.path.removeprefix(root)
            folder = self._changed[path.rpartition("/")[0]]
            folder.rollouts += 1
            folder.is_known &= thread_id in known
            if known.get(thread_id, ("",))[0] != path or self.home.generation(Path(entry.name)):
                folder.others.append(entry.name)
        for name, folder in self._changed.items():
            if folder.is_listed and folder.is_quiet and folder.is_known:
                self.index.folders[name] = KnownFolder(folder.stamp, tuple(folder.others))
                self._unnoted[name] = folder.rollouts
        if not self.index.in_memory and sum(self._unnoted.values()) >= NOTED_ROLLOUTS:
            with suppress(IndexUnavailable):  # the next process lists the folders again
                self.index.save_folders({name: self.index.folders[name] for name in self._unnoted})
                self._unnoted.clear()

    def _differs(self, thread_id: str, path: Path) -> bool:
        """Whether the index is wrong about the rollout at *path*.

        The length is taken before the row: a worker that commits in between makes the row longer. Only threads that
        differ are locked, as a reader's lock makes a worker wait.
        """
        size, known = _size(path), self.index.rollout(thread_id)
        if known is not None and size < known[1]:
            size = _size(path)
        return self._is_stale(thread_id, known, self.home.relative(path), size)

    def _is_stale(self, thread_id: str, known: tuple[str, int] | None, path: str, size: int) -> bool:
        if known is not None and known[0] == path and (known[1] == size or is_compressed(Path(path))):
            return False
        return self._known_mismatches.get(thread_id) != (path, size)

    # -- names ---------------------------------------------------------------------------------------------

    def _refresh_names(self, *, at_once: bool = False) -> None:
        misnamed = self._names_limit.run(self._misnamed, at_once=at_once)
        if misnamed is not None:
            names, thread_ids = misnamed
            for thread_id in thread_ids:  # without locks: codex names a thread while it holds its lock
                self.index.rename(thread_id, names[thread_id])
            self._compared_names = names

    def _misnamed(self) -> tuple[dict[str, str | None], list[str]]:
        """Return the current names, and the threads for which the index has a different one."""
        names = self._names.names()
        if names is self._compared_names:
            return names, []
        return names, [id_ for id_, name in self.index.names(names).items() if name != names[id_]]

    # -- reading -------------------------------------------------------------------------------------------

    def _read(self, rollouts: Iterable[tuple[str, Path]], *, wait_s: float = 0.0) -> None:
        """Read *rollouts*, except those that are being written: the next look finds them again."""
        remaining = iter(rollouts)
        while batch := list(islice(remaining, BATCH_THREADS)):
            found = {id_: (self.home.relative(path), _size(path)) for id_, path in batch if path.exists()}
            busy = index_batch(
                self.home, self.index, batch, RebuildReport(), is_needed=self._is_needed, wait_s=wait_s
            )
            for thread_id in found.keys() - dict(busy).keys():
                self._held_since.pop(thread_id, None)
            busy = [rollout for rollout in busy if not self._read_held(*rollout)]
            for thread_id in found.keys() - dict(busy).keys():
                known = self.index.rollout(thread_id)
                if known is None or known[1] != found[thread_id][1]:
                    self._known_mismatches[thread_id] = found[thread_id]

    def _read_held(self, thread_id: str, path: Path) -> bool:
        """Read a rollout without its lock if that stays held; return whether it was read."""
        now = time.monotonic()
        if now - self._held_since.setdefault(thread_id, now) < HELD_FOR_LONG:
            return False
        known = self.index.rollout(thread_id)
        try:
            state = read_state(self.home, thread_id, path, self._names.names())
        except (OSError, ThreadStoreError):  # moved meanwhile, or damaged: opening it gives the error
            return False
        state.loaded_bytes = known[1] if known else None
        if state.thread is not None:
            self.index.replace([thread_rows(state, None)], is_locked=False)
        return True

    def _is_needed(self, known: ThreadState | None, path: Path) -> bool:
        return (
            known is None
            or known.inherited_bytes == BROKEN
            or self._is_stale(
                known.thread_id, (known.path, known.rollout_bytes), self.home.relative(path), _size(path)
            )
        )


def _size(path: Path) -> int:
    """Return the length of *path*; -1 if it was moved or deleted since it was found."""
    try:
        return path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return -1
