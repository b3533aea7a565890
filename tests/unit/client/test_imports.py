"""`import livethread` is light: modules and dependencies load when they are used."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import livethread
from livethread import types
from livethread.cli import COMMANDS
from livethread.cli.ls import SORT_KEYS

#: Lets imports of packages that only the queued store needs fail.
BLOCK_CELERY = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"amqp", "billiard", "celery", "hiredis", "kombu", "redis", "vine"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""

USE_IN_MEMORY_STORE = """
import asyncio
from livethread import CreateThreadParams, InMemoryThreadStore, LiveThread, RolloutItem

async def play():
    thread = await LiveThread.create(InMemoryThreadStore(), CreateThreadParams(cwd="/repo", source="cli"))
    await thread.append_items([RolloutItem(type="event_msg", payload={"type": "user_message", "message": "hello"})])
    await thread.flush()
    print([item.payload["message"] for item in (await thread.load_history()).items if item.type == "event_msg"])

asyncio.run(play())
"""


def test_importing_the_package_loads_no_submodules() -> None:
    loaded = _loaded_by("import livethread")

    assert {name for name in loaded if name.startswith("livethread")} == {"livethread"}


def test_the_in_memory_store_works_without_celery_and_redis() -> None:
    assert _python("-c", BLOCK_CELERY + USE_IN_MEMORY_STORE) == "['hello']\n"


def test_the_composition_root_imports_without_celery_and_redis() -> None:
    assert not _loaded_by("import livethread.composition") & {"celery", "redis", "pydantic", "livethread_worker"}


#: Commands that run for long, and so may take long to start.
LONG_COMMANDS = {"browse", "demo", "up", "replay"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in sorted(COMMANDS.keys() - LONG_COMMANDS))]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from livethread.cli import main
try:
    main({arguments})
except SystemExit as end:
    assert end.code == 0
    print(*sys.modules, sep="\\n")
"""

    loaded = set(_python("-c", code).splitlines())

    assert "livethread.cli" in loaded
    assert not loaded & {"celery", "kombu", "livethread_worker", "pydantic", "redis", "rich", "sqlite_utils"}


def test_type_checkers_see_the_exported_names() -> None:
    tree = ast.parse(Path(livethread.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.asname, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    assert seen == set(livethread._MODULES.items())


@pytest.mark.parametrize("name", livethread.__all__)
def test_an_exported_name_is_the_object_in_its_module(name: str) -> None:
    module = importlib.import_module(livethread._MODULES[name])

    assert getattr(livethread, name) is getattr(module, name)
    assert name in dir(livethread)


def test_the_version_is_the_installed_one() -> None:
    assert livethread.__version__ == metadata.version("livethread")


def test_a_name_that_is_not_exported_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'livethread' has no attribute 'CeleryThreadStore'"):
        _ = livethread.CeleryThreadStore  # type: ignore[attr-defined]


def test_no_module_hides_an_exported_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(livethread.__path__)}

    assert not modules & set(livethread.__all__)


def test_ls_sorts_by_every_key() -> None:
    assert tuple(types.ThreadSortKey) == SORT_KEYS


def _loaded_by(code: str) -> set[str]:
    return set(_python("-c", f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')").splitlines())


def _python(*arguments: str) -> str:
    """Run a new interpreter with this one's import path, and return its output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
