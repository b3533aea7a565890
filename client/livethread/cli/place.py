"""The deployment or the home on which a command acts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from livethread.errors import InvalidRequest

if TYPE_CHECKING:
    from livethread_config import Settings


def home_to_work_on(*, must_exist: bool = True) -> Path:
    """Return the home of the settings, for a command that reads or changes its files itself.

    Raises:
        InvalidRequest: Redis is configured and the home is not: its workers may have another home, on another host. Or the
            home does not exist.
    """
    from livethread_config import Settings

    settings = Settings()
    if not settings.is_embedded and "home" not in settings.model_fields_set:
        raise InvalidRequest(
            f"nothing was done: the home of {deployment(settings)} is not known here. Run this on the workers' host, and "
            "set LIVETHREAD_HOME to their home"
        )
    if must_exist and not settings.home.is_dir():
        raise InvalidRequest(
            f"the home {settings.home} does not exist; run this on the workers' host, and set LIVETHREAD_HOME"
        )
    return settings.home


def has_deployment(settings: Settings) -> bool:
    """Whether there may be tasks and threads: an embedded Redis without a home has none, and must not create it."""
    return not settings.is_embedded or settings.home.is_dir()


def nothing(what: str, *filters: str) -> str:
    """Return a message that a read found no *what*; it names the place, and the options among *filters* that were given."""
    from livethread_config import Settings

    context = click.get_current_context()
    words: list[str] = []
    for option in context.command.params:
        name, value = str(option.name), context.params.get(str(option.name))
        if name in filters and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            values = value if isinstance(value, tuple) else (value,)
            words += [word for each in values for word in (option.opts[-1], *(() if each is True else (str(each),)))]
    return f"no {what} in {place_of_reads(Settings())}" + (f" with {shlex.join(words)}" if words else "")


def place_of_reads(settings: Settings) -> str:
    """Return what a read with *settings* looks at, as messages name it."""
    from livethread.composition.home import has_home

    return f"the home {settings.home}" if has_home(settings) else deployment(settings)


def deployment(settings: Settings) -> str:
    """Return the deployment of *settings*, as messages name it."""
    from livethread_config.redis_url import without_password

    if settings.is_embedded:
        return f"the embedded Redis of the home {settings.home}"
    return f"the deployment {settings.key_prefix} at {without_password(settings.client_url)}"
