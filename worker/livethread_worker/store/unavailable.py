"""Translates errors of files and SQLite into the contract's: a client may not have the worker's classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from livethread.errors import Unavailable
from livethread_worker.store.files.locks import LockBusy
from livethread_worker.store.index import IndexUnavailable


@contextmanager
def as_unavailable() -> Iterator[None]:
    """Raise `Unavailable` in place of errors that may pass."""
    try:
        yield
    except IndexUnavailable as error:
        raise Unavailable(f"{error}; try again, or delete the index: it is rebuilt from the rollouts") from error
    except (OSError, LockBusy) as error:
        raise Unavailable(f"the home cannot be used: {error}") from error
