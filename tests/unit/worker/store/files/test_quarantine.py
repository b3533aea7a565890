from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.worker.builders import Store

from livethread_worker.store.files import quarantine
from livethread_worker.store.files.quarantine import keep


def test_keep_syncs_the_folder_after_it_created_the_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the content is safe before the caller removes it from its place."""
    synced: list[tuple[Path, list[Path]]] = []
    monkeypatch.setattr(quarantine, "sync_directory", lambda path: synced.append((path, list(path.iterdir()))))

    path = keep(store.home, "name", b"content")

    assert synced == [(path.parent, [path])]
    assert path.read_bytes() == b"content"
