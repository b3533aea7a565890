from __future__ import annotations

import pytest

from livethread_config import Settings


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own environment from these tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LIVETHREAD_{name}".upper(), raising=False)
