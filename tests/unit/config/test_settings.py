from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from livethread_config import Settings
from livethread_config.celery_settings import celery_settings
from livethread_config.settings import MAX_SOCKET_PATH_BYTES

EXAMPLE = Path(__file__).parents[3] / "config" / "worker.env.example"
REFERENCE = Path(__file__).parents[3] / "docs" / "reference.md"


# -- reading the environment -------------------------------------------------------------------------------


def test_every_setting_has_a_default() -> None:
    settings = Settings()

    assert settings.home == Path.home() / ".livethread"
    assert (settings.redis_url, settings.key_prefix, settings.shards) == (None, "livethread", None)
    assert (settings.sync, settings.reads) == ("fdatasync", "auto")


def test_settings_are_read_from_variables_with_our_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVETHREAD_SHARDS", "8")
    monkeypatch.setenv("LIVETHREAD_REDIS_URL", "redis://other:6379/2")

    settings = Settings()

    assert (settings.shards, settings.redis_url) == (8, "redis://other:6379/2")


def test_variables_without_our_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings()
    for name in Settings.model_fields.keys() - {"home"}:  # the user's own default comes from HOME
        monkeypatch.setenv(name.upper(), "7")

    assert Settings() == before


def test_no_env_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LIVETHREAD_SHARDS=8\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    assert Settings().shards is None


def test_what_is_passed_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVETHREAD_SHARDS", "8")

    assert Settings(shards=2).shards == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shards", 0),
        ("shards", 4097),
        ("key_prefix", ""),
        ("key_prefix", "a:b"),
        ("key_prefix", "{a}"),
        ("key_prefix", "a\n"),
        ("reads", "sometimes"),
        ("sync", "fsync"),
        ("max_item_bytes", 1023),
        ("mailbox_max_tasks", 1),
        ("backpressure", "block"),
        ("backpressure_timeout_s", 0),
        ("enqueue_timeout_s", 0),
        ("claim_ttl_s", -1),
        ("task_events_per_s", -1),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


def test_settings_do_not_change() -> None:
    settings = Settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.shards = 2  # type: ignore[misc]  # that is the test


def test_every_setting_is_in_the_reference() -> None:
    """docs/reference.md says each variable's name."""
    text = REFERENCE.read_text(encoding="utf-8")

    missing = [name for name in Settings.model_fields if f"LIVETHREAD_{name}".upper() not in text]

    assert missing == []


def test_the_example_environment_lists_every_setting_with_its_default() -> None:
    """config/worker.env.example: what is commented out is what holds without it."""
    lines = re.findall(r"^#LIVETHREAD_(\w+)=(.*)$", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    said = {name.lower(): value for name, value in lines}

    assert set(said) == set(Settings.model_fields)
    examples = {"redis_url", "redis_server", "home", "shards", "compress_after_days", "flower_url"}
    for name, value in said.items():
        if name not in examples:
            assert getattr(Settings(**{name: value}), name) == getattr(Settings(), name), name


# -- home --------------------------------------------------------------------------------------------------


def test_a_home_is_absolute_and_a_tilde_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")

    assert Settings(home=Path("threads")).home == tmp_path / "threads"
    assert Settings(home=Path("~/threads")).home == Path("/home/ada/threads")
    assert Settings().home == Path("/home/ada/.livethread")


def test_the_embedded_socket_is_in_the_home() -> None:
    settings = Settings(home=Path("/srv/threads"))

    assert settings.own_dir == Path("/srv/threads/livethread")
    assert settings.embedded_socket == Path("/srv/threads/livethread/run/redis.sock")


@pytest.mark.parametrize("part", ["x" * 100, "é" * 60, "deep/" * 30])
def test_the_socket_of_a_long_home_is_short_and_its_own(part: str) -> None:
    settings, again, other = (Settings(home=Path("/srv") / name) for name in (part, part, f"{part}2"))

    socket = settings.embedded_socket

    assert len(str(socket).encode()) <= MAX_SOCKET_PATH_BYTES
    assert socket.is_relative_to(tempfile.gettempdir())
    assert socket == again.embedded_socket
    assert socket != other.embedded_socket


def test_a_socket_path_may_be_as_long_as_the_limit() -> None:
    rest = len("//livethread/run/redis.sock")
    fits, too_long = (Settings(home=Path("/" + "x" * (MAX_SOCKET_PATH_BYTES - rest + n))) for n in (0, 1))

    assert len(str(fits.embedded_socket)) == MAX_SOCKET_PATH_BYTES
    assert fits.embedded_socket.is_relative_to(fits.home)
    assert not too_long.embedded_socket.is_relative_to(too_long.home)


# -- URLs --------------------------------------------------------------------------------------------------


def test_a_url_that_cannot_work_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match="the option socket_timeout is not supported"):
        Settings(redis_url="redis://r?socket_timeout=1")


@pytest.mark.parametrize("login", ["u:hunter2@h/0", "h/0?password=hunter2"])
def test_a_representation_hides_the_password(login: str) -> None:
    settings = Settings(redis_url=f"redis://{login}")

    assert "redis_url='redis://" in repr(settings)
    assert "***" in repr(settings)
    assert "hunter2" not in f"{settings!r} {settings} {settings.redis!r}"


@pytest.mark.parametrize(
    "rest",
    ["hunter2@h/0?foo=1", "hunter2/@h", "7/hunter2@h", "a?hunter2@h", "a#hunter2@h", "[hunter2@h", "hunter2℀@h"],
)
def test_a_refusal_hides_the_password(rest: str) -> None:
    with pytest.raises(ValidationError, match="redis_url") as refused:
        Settings(redis_url=f"redis://u:{rest}")

    assert "hunter2" not in str(refused.value)


def test_without_a_url_both_lead_to_the_embedded_servers_socket() -> None:
    settings = Settings(home=Path("/srv/threads"))

    socket = "/srv/threads/livethread/run/redis.sock"
    assert settings.is_embedded
    assert settings.client_url == f"unix://{socket}?db=0"
    assert settings.redis.for_kombu == f"redis+socket://{socket}?virtual_host=0"


def test_celery_gets_a_queue_a_shard_and_keys_under_our_prefix() -> None:
    settings = Settings(redis_url="redis://r:6379/1", key_prefix="app", shards=3)

    celery = celery_settings(settings)

    assert (celery["broker_url"], celery["broker_use_ssl"]) == ("redis://r:6379/1", None)
    assert celery["result_backend"] == "disabled://"
    assert list(celery["task_queues"]) == ["app.0", "app.1", "app.2"]
    assert celery["task_default_queue"] == "app.0"
    assert celery["broker_transport_options"]["global_keyprefix"] == "app:celery:"
    assert celery["accept_content"] == ["json"]
