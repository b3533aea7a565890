"""What every command has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from livethread.cli import main

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["ls", "--help"], ["ls"], ["config", "--json"]])
def test_output_that_cannot_be_written_is_reported_on_one_line(arguments: list[str], tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "LIVETHREAD_HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "livethread", *arguments]

    with FULL.open("w") as full:
        ended = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["Error: No space left on device"]


@pytest.mark.parametrize(("typed", "meant"), [("lss", "ls"), ("archiv", "archive"), ("paked", "parked")])
def test_a_misspelt_command_is_refused_with_a_similar_one(typed: str, meant: str) -> None:
    result = CliRunner().invoke(main, [typed])

    assert result.exit_code == 2
    assert f"No such command '{typed}'. Did you mean {meant!r}?" in result.output


def test_a_command_that_resembles_none_is_refused() -> None:
    assert CliRunner().invoke(main, ["xyz"]).output.endswith("No such command 'xyz'.\n")
