"""What a host process sets for its own Celery application does not affect ours."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery, current_app

from livethread_config import Settings
from livethread_config.celery_app import deployment_app, ignored_variables

OURS = "redis://ours:6379/1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(redis_url=OURS, home=tmp_path)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a process with a Celery application of its own."""
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "amqp://theirs//")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "cache+memory://")
    config = ModuleType("their_celery_config")
    config.task_always_eager = True  # type: ignore[attr-defined]  # a module takes any attribute
    config.task_routes = {"livethread.*": "theirs"}  # type: ignore[attr-defined]  # likewise
    monkeypatch.setitem(sys.modules, "their_celery_config", config)
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "their_celery_config")
    monkeypatch.setenv("CELERY_LOADER", "their_loader:Loader")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "their_site.settings")


def test_another_applications_environment_leads_to_their_broker(theirs: None) -> None:
    """The fixture has the effect that ours must not have."""
    app = Celery("theirs", loader="app", set_as_current=False, fixups=[])

    assert app.connection_for_write().hostname == "theirs"
    assert app.conf.task_always_eager is True


def test_ours_leads_to_the_redis_of_the_settings(theirs: None, settings: Settings) -> None:
    app = deployment_app("test", settings)

    connections = [app.connection_for_read(), app.connection_for_write(), app.connection()]

    assert [(each.transport_cls, each.hostname, each.virtual_host) for each in connections] == [
        ("redis", "ours", "1")
    ] * 3
    assert app.backend.as_uri() == "disabled://"
    assert (app.conf.task_always_eager, app.conf.task_routes) == (False, None)


def test_ours_is_not_the_processs_current_application(settings: Settings) -> None:
    before = current_app._get_current_object()  # type: ignore[attr-defined]  # a proxy's

    deployment_app("test", settings)

    assert current_app._get_current_object() is before  # type: ignore[attr-defined]  # a proxy's


def test_ignored_variables_are_named(theirs: None) -> None:
    assert ignored_variables() == [
        "CELERY_BROKER_URL",
        "CELERY_BROKER_READ_URL",
        "CELERY_BROKER_WRITE_URL",
        "CELERY_RESULT_BACKEND",
        "CELERY_CONFIG_MODULE",
        "CELERY_LOADER",
    ]
