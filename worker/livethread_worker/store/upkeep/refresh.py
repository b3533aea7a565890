"""Takes in what somebody else wrote into a home: codex, a copy, a person. No rollout is changed.

A thread is as the index has it where its rollout lies at the same path and has the committed length, and the name
index says the same name. Any other is read anew under its lock, so that a worker at work is not disturbed. codex
holds a thread's lock for as long as it has the thread loaded: then it is read without, and stored only if nobody else
has stored it meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from livethread.errors import ThreadStoreError
from livethread_worker.store.files.home import Home, is_compressed
from livethread_worker.store.files.name_index import NameCache
from livethread_worker.store.index import Index
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.upkeep.rebuild import BATCH_THREADS, RebuildReport, index_batch, read_state

#: A look at everything is made only after so many times the time that the last one took: 2 % of a reader's time.
REST_FACTOR: Final = 50

#: How long a reader of one thread waits for its lock: longer than a worker needs for a batch.
LOCK_WAIT: Final = 0.05  # seconds

#: Whoever holds a thread's lock for longer is no worker.
HELD_FOR_LONG: Final = 0.5  # seconds

T = TypeVar("T")

_Rollouts = list[tuple[str, "Path"]]


@dataclass(slots=True)
class _Rests:
    """Looks for what is to be read unless it looked just now; how long it takes to read that does not count."""

    not_before: float = 0.0

    def run(self, look: Callable[[], T]) -> T | None:
        started = time.monotonic()
        if started < self.not_before:
            return None
        found = look()
        self.not_before = time.monotonic() + REST_FACTOR * (time.monotonic() - started)
        return found


@dataclass(slots=True)
class Refresher:
    """Keeps what an index knows in step with the files of its home."""

    home: Home
    index: Index
    #: Thread -> path and length of its rollout when it was read, where the index has another length: a torn line, or
    #: no thread.
    _odd: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: Thread -> when its lock was first found held, with something to be read.
    _held_since: dict[str, float] = field(default_factory=dict)
    _names: NameCache = field(init=False)
    #: The names that the index was compared with.
    _compared_names: dict[str, str | None] | None = None
    _names_rest: _Rests = field(default_factory=_Rests)
    _rollouts_rest: _Rests = field(default_factory=_Rests)

    def __post_init__(self) -> None:
        self._names = NameCache(self.home)

    def refresh_all(self) -> None:
        """Look at every rollout and read those that are not as the index has them, unless that was done just now.

        An index that has not read every rollout yet is completed by others; one in memory is completed here.

        Raises:
            IndexUnavailable: the index cannot be used.
        """
        if self.index.in_memory or self.index.is_complete:
            stale = self._rollouts_rest.run(self._stale_rollouts) or []
            # Workers went on while we looked.
            self._read((thread_id, path) for thread_id, path in stale if self._differs(thread_id, path))
            self._refresh_names()

    def refresh(self, thread_id: str) -> None:
        """Read the rollout of *thread_id* where it is not as the index has it.

        Raises:
            IndexUnavailable: the index cannot be used.
        """
        known = self.index.rollout(thread_id)
        path = self.home.root / known[0] if known else None
        if path is None or not path.exists():
            path = self.home.find_rollout(thread_id)
        if path is not None and self._differs(thread_id, path):
            self._read([(thread_id, path)], wait_s=LOCK_WAIT)
        self._refresh_names()

    def _stale_rollouts(self) -> _Rollouts:
        """Return the rollouts that are not as the index has them; forget those that are gone, in memory."""
        known = self.index.rollouts()
        root = f"{self.home.root}/"
        present, _ = self.home.one_rollout_each(known)
        stale: _Rollouts = []
        for thread_id, entry in present.items():
            with suppress(FileNotFoundError):  # moved or deleted since it was listed
                size = entry.stat(follow_symlinks=False).st_size
                if self._is_stale(thread_id, known.get(thread_id), entry.path.removeprefix(root), size):
                    stale.append((thread_id, self.home.root / entry.path))
        if self.index.in_memory:  # in a file, a row without a rollout stays until somebody decides
            self._forget(known.keys() - present.keys())
        return stale

    def _refresh_names(self) -> None:
        misnamed = self._names_rest.run(self._misnamed)
        if misnamed is not None:
            names, thread_ids = misnamed
            for thread_id in thread_ids:  # without their locks: codex names a thread while it holds it
                self.index.rename(thread_id, names[thread_id])
            self._compared_names = names

    def _misnamed(self) -> tuple[dict[str, str | None], list[str]]:
        """Return the present names, and the threads for which the index has another one."""
        names = self._names.names()
        if names is self._compared_names:
            return names, []
        return names, [id_ for id_, name in self.index.names(names).items() if name != names[id_]]

    def _differs(self, thread_id: str, path: Path) -> bool:
        """Whether the index has something else than the rollout at *path*.

        The length is taken first: what a worker committed since then is longer. A thread is locked for what differs
        only, as a lock that a reader holds makes a worker wait.
        """
        size, known = _size(path), self.index.rollout(thread_id)
        if known is not None and size < known[1]:
            size = _size(path)
        return self._is_stale(thread_id, known, self.home.relative(path), size)

    def _is_stale(self, thread_id: str, known: tuple[str, int] | None, path: str, size: int) -> bool:
        if known is not None and known[0] == path and (known[1] == size or is_compressed(self.home.root / path)):
            return False
        return self._odd.get(thread_id) != (path, size)

    def _read(self, rollouts: Iterable[tuple[str, Path]], *, wait_s: float = 0.0) -> _Rollouts:
        """Read *rollouts*; return those that are being written: they are left for the next time."""
        left: _Rollouts = []
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
                    self._odd[thread_id] = found[thread_id]
            left += busy
        return left

    def _read_held(self, thread_id: str, path: Path) -> bool:
        """Read a rollout whose thread's lock has been held for long, without it; return whether that was done."""
        now = time.monotonic()
        if now - self._held_since.setdefault(thread_id, now) < HELD_FOR_LONG:
            return False
        known = self.index.rollout(thread_id)
        try:
            state = read_state(self.home, thread_id, path, self._names.names())
        except (OSError, ThreadStoreError):  # moved meanwhile, or damaged: whoever opens it will say so
            return False
        state.loaded_bytes = known[1] if known else None
        if state.thread is not None:
            self.index.replace([thread_rows(state, None)], is_locked=False)
        return True

    def _is_needed(self, known: ThreadState | None, path: Path) -> bool:
        return known is None or self._is_stale(
            known.thread_id, (known.path, known.rollout_bytes), self.home.relative(path), _size(path)
        )

    def _forget(self, missing: Iterable[str]) -> None:
        gone = [thread_id for thread_id in missing if not self.home.find_rollout(thread_id)]
        if gone:
            self.index.commit((), gone)


def _size(path: Path) -> int:
    """Return the length of *path*; -1 where it was moved or deleted since it was found."""
    try:
        return path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return -1
