"""The files to deploy, as the programs that read them see them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[3] / "config"
UNITS = CONFIG / "systemd"
#: Ours name these; `systemd-analyze` wants them in its tree.
BASE_UNITS = Path("/usr/lib/systemd/system")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root directory with our units, the base units, and programs that the units start."""
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system")
    base = tmp_path / BASE_UNITS.relative_to("/")
    base.mkdir(parents=True)
    for kind in "target", "slice", "socket":
        for unit in BASE_UNITS.glob(f"*.{kind}"):
            shutil.copy(unit, base)
    for unit in UNITS.glob("*.service"):
        program = tmp_path / started_by(unit)[0].lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return tmp_path


def started_by(unit: Path) -> list[str]:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as configparser documents it
    parser.read(unit)
    return parser["Service"]["ExecStart"].split()


def analyzed(verb: str, tree: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", verb, f"--root={tree}", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def instances() -> list[str]:
    return ["livethread.target", *(unit.name.replace("@", "@1") for unit in UNITS.glob("*.service"))]


@needs_systemd
def test_systemd_accepts_the_units(tree: Path) -> None:
    checked = analyzed("verify", tree, "--man=no", "--recursive-errors=no", *instances())

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@needs_systemd
def test_systemd_would_refuse_a_misspelt_unit(tree: Path) -> None:
    common = tree / "etc/systemd/system/livethread-.service.d/common.conf"
    common.write_text(common.read_text().replace("Restart=", "Restrat="))

    checked = analyzed("verify", tree, "--man=no", "--recursive-errors=no", *instances())

    assert checked.returncode != 0
    assert "Restrat" in checked.stderr


@needs_systemd
@pytest.mark.parametrize("service", [name for name in instances() if name.endswith(".service")])
def test_a_service_may_touch_little(tree: Path, service: str) -> None:
    judged = analyzed("security", tree, "--offline=true", "--threshold=25", service)  # of 100

    assert judged.returncode == 0, judged.stdout[-400:]


def test_workers_take_the_options_of_the_procfile_everywhere() -> None:
    procfile = (CONFIG.parent / "Procfile").read_text()
    options = workers_options(procfile) - {"--include"}  # for `livethread up`

    assert workers_options((UNITS / "livethread-worker@.service").read_text()) == options
    assert workers_options((CONFIG / "compose.yaml").read_text()) == options


def workers_options(text: str) -> set[str]:
    [command] = re.findall(r"celery .* worker .*", text)
    return set(re.findall(r"--[a-z-]+", command))
