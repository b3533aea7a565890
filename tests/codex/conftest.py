"""The real codex, a model for it to talk to, and homes.

``LIVETHREAD_TEST_CODEX`` names the executables, separated as in ``PATH``; `make test-codex` installs and names them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from tests.codex.app_server import AppServer
from tests.codex.model_server import ModelServer, model_server


@dataclass(frozen=True)
class Codex:
    """An installed codex."""

    path: Path
    version: tuple[int, ...]

    @classmethod
    def at(cls, path: str) -> Codex:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
        version = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
        assert version is not None, said
        return cls(Path(path).absolute(), tuple(map(int, version.groups())))

    @property
    def takes_locks(self) -> bool:
        """Whether it locks a thread that it has loaded."""
        return self.version >= (0, 160)

    @property
    def migrates(self) -> bool:
        """Whether it rewrites legacy rollouts as paginated ones."""
        return self.version >= (0, 169)

    def migrate(self, home: Path) -> list[str]:
        """Have it rewrite every legacy rollout of *home*, and return the result of each."""
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), "TZ": "UTC"}
        command = [str(self.path), "migrate-rollouts", "--apply", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=env, cwd=home)
        return [outcome["status"] for outcome in json.loads(done.stdout)["outcomes"]]


CODEXES = [Codex.at(path) for path in os.environ.get("LIVETHREAD_TEST_CODEX", "").split(os.pathsep) if path]
NO_CODEX = pytest.mark.skip("LIVETHREAD_TEST_CODEX names no codex; `make test-codex` installs and names it")


class Serve(Protocol):
    """Returns a codex for a home."""

    def __call__(self, home: Path) -> AppServer: ...


@pytest.fixture(
    scope="session",
    params=[pytest.param(codex, id=".".join(map(str, codex.version))) for codex in CODEXES]
    or [pytest.param(None, id="none", marks=NO_CODEX)],
)
def codex(request: pytest.FixtureRequest) -> Codex:
    """Each installed codex."""
    assert isinstance(request.param, Codex)
    return request.param


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def serve(codex: Codex, model: ModelServer) -> Serve:
    return partial(AppServer, codex.path, model_url=model.url)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that codex and livethread share."""
    home = tmp_path / "home"
    home.mkdir()
    return home
