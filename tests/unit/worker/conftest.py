from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from tests.unit.worker.builders import Store, opened_store

from livethread_worker.store.files import sync


class LimitFileSize(Protocol):
    def __call__(self, size: int) -> AbstractContextManager[None]: ...


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from opened_store(tmp_path / "home")


@contextmanager
def _limited(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def limit_file_size() -> LimitFileSize:
    """Limit the size of files: a write across the limit is cut short, and the next one fails with EFBIG."""
    return _limited


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync each rollout with a call of its own, whatever the file system is."""
    monkeypatch.setattr(sync, "is_cheap_to_sync", lambda _: False)


@pytest.fixture(params=["_datasync", "sync_filesystem"])
def forcing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the function that syncs the rollouts of a batch: called for each, or once for all."""
    monkeypatch.setattr(sync, "is_cheap_to_sync", lambda _: request.param == "sync_filesystem")
    return str(request.param)
