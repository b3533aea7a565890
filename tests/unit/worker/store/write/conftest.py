from __future__ import annotations

import pytest
from tests.unit.worker.builders import Mail


@pytest.fixture
def mail() -> Mail:
    return Mail(1)


@pytest.fixture
def other() -> Mail:
    return Mail(2)
