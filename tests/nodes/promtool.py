"""Prometheus' own checks of metrics and rules."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

import pytest

PROMTOOL: Final = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool: apt-get install prometheus")


def promtool(*arguments: str, given: str | None = None) -> str:
    """Run promtool, with *given* as its input, and return what it found; empty: it ended with 0."""
    assert PROMTOOL is not None
    run = subprocess.run([PROMTOOL, *arguments], input=given, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr if run.returncode else ""
