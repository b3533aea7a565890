"""The settings file, and names that are no settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import SettingsError

from livethread_config import Settings
from livethread_config.settings import explained, source_of
from livethread_worker.embedded.processes import settings_env


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's settings file, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "livethread").mkdir()
    return tmp_path / "livethread" / "settings.toml"


# -- the file ------------------------------------------------------------------------------------------------


def test_settings_are_read_from_the_file_unless_the_environment_sets_them(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('shards = 8\nhome = "~/threads"\nrequire_redis = false\n')
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("LIVETHREAD_SHARDS", "2")
    monkeypatch.setenv("LIVETHREAD_REDIS_URL", "")

    settings = Settings(key_prefix="app")

    assert (settings.shards, settings.home, settings.require_redis) == (2, Path("/home/ada/threads"), False)
    assert settings.model_fields_set == {"shards", "home", "require_redis", "key_prefix"}
    assert (source_of("shards"), source_of("home"), source_of("redis_url")) == ("LIVETHREAD_SHARDS", str(file), None)


def test_a_variable_names_another_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("shards = 8\n")
    monkeypatch.setenv("LIVETHREAD_SETTINGS_FILE", str(tmp_path / "other.toml"))
    with pytest.raises(SettingsError, match=r"names .*other.toml, which does not exist"):
        Settings()

    (tmp_path / "other.toml").write_text("shards = 3\n")

    assert Settings().shards == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("shards = ", "is not valid TOML"),
        ("shard = 8", "shard is not a setting; did you mean shards?"),
        ("[redis]\nurl = 1", "redis is not a setting; did you mean redis_url?"),
        ("colour = 1", "colour is not a setting; docs/reference.md lists"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(file: Path, text: str, reason: str) -> None:
    file.write_text(text)

    with pytest.raises(SettingsError) as refused:
        Settings()

    assert reason in (explained(refused.value) or "")
    assert str(file) in str(refused.value)


def test_an_invalid_value_is_explained_with_its_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("shards = 0\n")
    monkeypatch.setenv("LIVETHREAD_SYNC", "fsync")

    with pytest.raises(ValueError, match="shards") as refused:
        Settings()

    by_file, by_variable = (explained(refused.value) or "").split("; ")
    assert by_file.startswith(f"{file}: shards: ")
    assert by_variable.startswith("LIVETHREAD_SYNC: ")
    assert explained(ValueError("another program's")) is None


@pytest.mark.parametrize(
    ("url", "mode", "advice"),
    [
        ("redis://:secret@r", 0o644, "other users may read"),
        ("redis://r?password=secret", 0o604, "other users may read"),
        ("redis://r", 0o606, "other users may change"),
        ("redis://:secret@r", 0o640, None),
        ("redis://r", 0o664, None),
    ],
)
def test_other_users_must_not_read_a_password_or_change_the_file(
    file: Path, url: str, mode: int, advice: str | None
) -> None:
    file.write_text(f'redis_url = "{url}"\n')
    file.chmod(mode)

    if advice is None:
        assert Settings().redis_url == url
    else:
        with pytest.raises(SettingsError, match=rf"{advice} .*chmod 600 {file}"):
            Settings()


def test_processes_of_ours_get_the_settings_and_do_not_read_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('redis_url = "redis://r"\n')
    settings = Settings(redis_url=None, shards=3)

    for name, value in settings_env(settings).items():
        monkeypatch.setenv(name, value)

    assert (Settings().is_embedded, Settings().shards) == (True, 3)


# -- variables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("LIVETHREAD_SHARD", "did you mean LIVETHREAD_SHARDS?"),
        ("LIVETHREAD_REDIS", "did you mean LIVETHREAD_REDIS_URL?"),
        ("livethread_hoem", "did you mean LIVETHREAD_HOME?"),
        ("LIVETHREAD_COLOUR", "docs/reference.md lists the settings"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, advice: str
) -> None:
    monkeypatch.setenv(variable, "1")

    with pytest.raises(SettingsError) as refused:
        Settings()

    assert str(refused.value) == f"{variable.upper()} is not a setting; {advice}"


@pytest.mark.parametrize(
    "variable",
    [
        "LIVETHREAD_TEST_CODEX",
        "LIVETHREAD_SERVICE_HOST",
        "LIVETHREAD_PORT_6379_TCP_ADDR",
        "LIVETHREAD_REDIS_SERVICE_PORT",
        "LIVETHREADS",
    ],
)
def test_variables_of_tests_and_of_kubernetes_services_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    before = Settings()
    monkeypatch.setenv(variable, "tcp://10.0.0.11:6379")

    assert Settings() == before
