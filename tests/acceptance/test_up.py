"""``livethread up`` as a user runs it: outside the checkout, with the shipped Procfile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nodes.waiting import wait_until

from livethread.cli.up import read_procfile
from livethread.errors import InvalidRequest
from livethread_config import Settings
from livethread_worker.embedded.deployment_files import deployment_root
from livethread_worker.embedded.redis_server import answers

DEADLINE = 30.0  # seconds
LIVETHREAD = [sys.executable, "-m", "livethread"]


class Up:
    """A running ``livethread up``, and what it has printed."""

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*LIVETHREAD, "up"], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.lines.extend(output)

    def names_of(self, event: str) -> list[str]:
        """Return the processes with *event*, in order."""
        return [line.split()[1] for line in self.lines if f"| {event}" in line]

    def end(self) -> int:
        returncode = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return returncode


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LIVETHREAD_", "PORT"))}
    return inherited | {"LIVETHREAD_HOME": str(tmp_path / "home")}


@pytest.fixture
def up(env: dict[str, str], tmp_path: Path) -> Iterator[Up]:
    up = Up(env, tmp_path)
    yield up
    up.process.kill()
    up.end()


def test_up_runs_everything_once_and_stops_in_reverse_on_sigterm(up: Up, env: dict[str, str], tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", redis_url=None)
    wait_until(lambda: "up" in up.names_of("all processes are running"), "the start of all processes", DEADLINE)
    served = answers(settings)
    second = subprocess.run([*LIVETHREAD, "up"], env=env, capture_output=True, text=True, check=False)

    up.process.send_signal(signal.SIGTERM)
    returncode = up.end()

    assert served
    assert (second.returncode, second.stderr) == (1, f"Error: livethread up is already running for {settings.home}\n")
    assert returncode == 0, up.lines
    started = up.names_of("started")
    assert started[:2] == ["redis", "worker.1"]
    assert up.names_of("ended") == started[::-1]
    # Flower may get the signal before it can end in order.
    assert {"worker.1", "redis"} <= set(up.names_of("ended with exit code 0"))
    assert not answers(settings)


def test_the_shipped_procfile_names_each_kind_of_process() -> None:
    names = [name for name, _ in read_procfile(deployment_root() / "Procfile")]

    assert names == ["redis", "worker", "browse", "metrics", "flower"]


def test_a_malformed_procfile_line_is_refused_with_its_number(tmp_path: Path) -> None:
    procfile = tmp_path / "Procfile"
    procfile.write_text("# comment\n\nweb: true\nweb true\n")

    with pytest.raises(InvalidRequest, match=r"Procfile:4: expected"):
        read_procfile(procfile)


def test_help_fits_a_screen_and_imports_no_command() -> None:
    script = "import sys, livethread.cli; print([m for m in sys.modules if m.startswith(('livethread.cli.', 'livethread_worker'))])"
    imported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    shown = subprocess.run([*LIVETHREAD, "--help"], capture_output=True, text=True, check=True).stdout.splitlines()

    assert imported == "[]\n"
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80
