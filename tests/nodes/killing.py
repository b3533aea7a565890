"""Simulate ``kill -9`` at any change to the files or the index."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any, Final

import pytest
from hypothesis import strategies as st

from livethread_worker.store.files import sync
from livethread_worker.store.index import Index

#: Functions that change a file or a folder without writing or creating it.
_CHANGES: Final = ("ftruncate", "fsync", "mkdir", "rename", "replace", "unlink")

#: The share of a change that is made in full.
WHOLE: Final = 1_000


class Killed(BaseException):
    """The process ends here."""


@dataclass(frozen=True, slots=True)
class Death:
    """The moment at which a process is killed."""

    #: The number of its last change, from 1. A process that makes fewer changes lives on.
    change: int
    #: How much of that change is made, in thousandths: part of a write's bytes; all or nothing of any other change.
    share: int


DEATHS: Final = st.builds(Death, st.integers(1, 10), st.sampled_from([0, WHOLE]) | st.integers(1, WHOLE - 1))


class Killer:
    """Kills the code inside `killing_at` at the change that its `Death` names.

    As with a killed process, finished writes stay and SQLite rolls back the open transaction. Handlers that Python
    still runs on the way out change nothing more.
    """

    def __init__(self) -> None:
        self._death: Death | None = None
        self._changes = 0
        #: The last change of the killed code; None while it lives.
        self.killed_at: str | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Watch all changes that this process makes."""
        with pytest.MonkeyPatch.context() as patched:
            for name in _CHANGES:
                patched.setattr(os, name, self._watched(name, getattr(os, name)))
            patched.setattr(os, "pwrite", self._watched_write(os.pwrite))
            patched.setattr(os, "open", self._watched_open(os.open))
            for name in ("_datasync", "sync_filesystem"):
                patched.setattr(sync, name, self._watched(name, getattr(sync, name)))
            patched.setattr(Index, "transaction", self._watched_transaction(Index.transaction))
            yield

    @contextmanager
    def killing_at(self, death: Death | None) -> Iterator[None]:
        """Kill the code in the block at *death*; the code must let `Killed` through."""
        self._death, self._changes, self.killed_at = death, 0, None
        try:
            yield
        finally:
            self._death = None

    def _share(self, what: str) -> int | None:
        """Return how much of the next change is made; None if the process survives it."""
        if self._death is None:
            return None
        if self.killed_at is not None:
            raise Killed
        self._changes += 1
        if self._changes < self._death.change:
            return None
        self.killed_at = f"{what}, {self._death.share}/{WHOLE} of it done"
        return self._death.share

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            share = self._share(f"{name} {_names(args)}")
            if share is None:
                return original(*args, **kwargs)
            if share > WHOLE // 2:
                original(*args, **kwargs)
            raise Killed

        return call

    def _watched_write(self, original: Callable[..., int]) -> Callable[..., int]:
        def pwrite(file: int, data: memoryview, offset: int) -> int:
            share = self._share(f"a write of {len(data)} bytes")
            if share is None:
                return original(file, data, offset)
            original(file, data[: len(data) * share // WHOLE], offset)
            raise Killed

        return pwrite

    def _watched_open(self, original: Callable[..., int]) -> Callable[..., int]:
        def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            is_creation = flags & os.O_CREAT and not os.path.lexists(path)
            share = self._share(f"creating {_names((path,))}") if is_creation else None
            if share is None:
                return original(path, flags, *args, **kwargs)
            if share > WHOLE // 2:
                os.close(original(path, flags, *args, **kwargs))
            raise Killed

        return open_

    def _watched_transaction(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def transaction(index: Index, *, is_synced: bool = False) -> Iterator[Connection]:
            share = self._share("a commit to the index")
            with original(index, is_synced=is_synced) as connection:
                yield connection
                if share is not None and share <= WHOLE // 2:
                    raise Killed
            if share is not None:
                raise Killed

        return transaction


def _names(args: tuple[Any, ...]) -> str:
    return " to ".join(os.path.basename(os.fspath(arg)) for arg in args if isinstance(arg, str | os.PathLike))  # noqa: PTH119 - accepts any path-like argument
