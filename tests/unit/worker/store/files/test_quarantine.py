from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.worker.builders import Store

from livethread_worker.store.files import quarantine
from livethread_worker.store.files.quarantine import keep


def test_what_is_kept_is_on_the_disk_with_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is cut out of where it stood."""
    synced: list[tuple[Path, list[Path]]] = []
    monkeypatch.setattr(quarantine, "sync_directory", lambda path: synced.append((path, list(path.iterdir()))))

    path = keep(store.home, "name", b"content")

    assert synced == [(path.parent, [path])]
    assert path.read_bytes() == b"content"
