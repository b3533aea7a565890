"""``livethread config``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from livethread import Settings
from livethread.cli import main


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVETHREAD_SETTINGS_FILE", str(tmp_path / "settings.toml"))
    (tmp_path / "settings.toml").write_text('redis_url = "redis://ada:secret@r:6379/0"\nrequire_redis = false\n')
    (tmp_path / "settings.toml").chmod(0o600)
    return tmp_path / "settings.toml"


def test_each_setting_is_shown_with_its_source_and_without_passwords(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVETHREAD_SHARDS", "4")

    shown = CliRunner().invoke(main, ["config"]).stdout
    found = json.loads(CliRunner().invoke(main, ["config", "--json"]).stdout)

    table, places = shown.split("\n\n")
    rows = dict(line.split("\t", 1) for line in table.splitlines())
    assert rows.keys() == found["settings"].keys() == Settings.model_fields.keys()
    assert rows["redis_url"] == f"redis://ada:***@r:6379/0\t{file}"
    assert rows["require_redis"] == f"false\t{file}"
    assert rows["shards"] == "4\tLIVETHREAD_SHARDS"
    assert rows["compress_after_days"] == "-\tdefault"
    assert found["settings"]["shards"] == {"value": 4, "source": "LIVETHREAD_SHARDS"}
    assert found["settings"]["redis_url"]["value"] == "redis://ada:***@r:6379/0"
    assert places.splitlines() == [
        "acts on        the deployment livethread at redis://ada:***@r:6379/0",
        "reads from     the deployment livethread at redis://ada:***@r:6379/0",
        f"settings file  {file}",
    ]


def test_without_settings_the_home_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVETHREAD_HOME", str(tmp_path / "home"))

    found = json.loads(CliRunner().invoke(main, ["config", "--json"]).stdout)

    assert found["acts_on"] == f"the embedded Redis of the home {tmp_path / 'home'}"
    assert found["reads_from"] == f"the home {tmp_path / 'home'}"
    assert found["file_exists"] is False
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(("variable", "value"), [("LIVETHREAD_SHARD", "4"), ("LIVETHREAD_SHARDS", "0")])
def test_a_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)

    result = CliRunner().invoke(main, ["ls"])

    [line] = result.stderr.splitlines()
    assert result.exit_code == 1
    assert line.startswith(f"Error: {variable}")
    assert "LIVETHREAD_SHARDS" in line


def test_the_files_to_deploy_are_found() -> None:
    root = Path(CliRunner().invoke(main, ["config", "--files"]).stdout.strip())

    assert (root / "Procfile").is_file()
    assert (root / "config/systemd/livethread-worker@.service").is_file()
