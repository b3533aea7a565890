from __future__ import annotations

import time
from collections.abc import Iterator

import pytest


@pytest.fixture
def new_york() -> Iterator[None]:
    """Let this process's time zone be five hours behind UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()
