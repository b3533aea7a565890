"""Fixtures of unit tests; Hypothesis without deadlines: how long an example takes says nothing about whether it is right."""

from __future__ import annotations

import pytest
from hypothesis import settings

from livethread_config import Settings

settings.register_profile("unit", deadline=None, max_examples=60)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own environment from these tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LIVETHREAD_{name}".upper(), raising=False)
