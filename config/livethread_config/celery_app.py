"""The Celery application of a deployment, which no setting of another application in the process affects."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from celery import Celery
from celery.app.amqp import AMQP
from celery.loaders.app import AppLoader

from livethread_config.celery_settings import celery_settings
from livethread_config.settings import Settings

#: What Celery takes from the environment before an application's own settings; its options ``--broker``,
#: ``--result-backend``, ``--config`` and ``--loader`` set some of these.
_OTHERS_SETTINGS: Final = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_CONFIG_MODULE",
    "CELERY_LOADER",
)


class OwnLoader(AppLoader):
    """Reads no configuration module: ``CELERY_CONFIG_MODULE`` names another application's."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:  # noqa: ARG002 - Celery passes it
        """Return no settings."""
        return {}


class DeploymentApp(Celery):
    """Connects to the Redis of its settings, whatever ``CELERY_BROKER_URL`` and its like say."""

    #: A function, and its arguments, that make this application in a spawned process. None: Celery does.
    remade_by: tuple[Callable[..., Celery], tuple[Any, ...]] | None = None

    def __reduce__(self) -> Any:
        """Have a spawned process of a pool make the application: Celery would leave out its tasks."""
        return self.remade_by or super().__reduce__()

    # Celery passes `url`, which may come from the environment.
    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:  # noqa: ARG002
        """Return a connection to our broker."""
        return super().connection_for_read(self.conf["broker_url"], **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:  # noqa: ARG002
        """Return a connection to our broker."""
        return super().connection_for_write(self.conf["broker_url"], **kwargs)

    @property
    def backend_cls(self) -> str:  # type: ignore[override]  # Celery only reads it
        """The result backend's URL."""
        url: str = self.conf["result_backend"]
        return url


def deployment_app(name: str, settings: Settings, amqp: type[AMQP] = AMQP) -> DeploymentApp:
    """Return an application that connects to *settings*' Redis; it does not become the process's current one."""
    # Without fix-ups: the one for Django would set up the host process's site.
    app = DeploymentApp(
        name, amqp=amqp, loader="livethread_config.celery_app:OwnLoader", set_as_current=False, fixups=[]
    )
    app.conf.update(celery_settings(settings))
    return app


def ignored_variables() -> list[str]:
    """Return the variables of the environment that set up another Celery application, and do not affect ours."""
    return [name for name in _OTHERS_SETTINGS if os.environ.get(name)]
