"""The home on this host, if this process reads and may write one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from livethread.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from livethread_config import Settings
    from livethread_config.deployment import HomeIdentity


def local_home(settings: Settings) -> HomeIdentity | None:
    """Return the home that this process reads and may write; None if it reads none, or no worker has served it yet.

    Raises:
        InvalidRequest: the home belongs to a deployment with another prefix.
    """
    if not has_home(settings):
        return None
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.files.identity import find_identity

    try:
        return find_identity(Home(settings.home), settings.key_prefix)
    except OSError:  # reading the home says more
        return None


def new_home(settings: Settings) -> HomeIdentity:
    """Return the home of this host that is to serve a shard; it gets an identity if it has none.

    Raises:
        InvalidRequest: ``LIVETHREAD_HOME`` is not set, the worker extra is missing, or Redis is embedded.
        Unavailable: the home cannot be created.
    """
    if settings.is_embedded or "home" not in settings.model_fields_set or not has_worker_extra():
        raise InvalidRequest(
            "a shard is moved to the home LIVETHREAD_HOME of this host, in the deployment LIVETHREAD_REDIS_URL: set both, "
            "and install the worker extra (pip install 'livethread[worker]')"
        )
    from livethread_worker.store.files.home import Home
    from livethread_worker.store.files.identity import identify

    try:
        return identify(Home(settings.home), settings.key_prefix)
    except OSError as error:
        raise Unavailable(f"the home {settings.home} cannot be used: {error}") from error


def stored_threads(settings: Settings) -> Iterator[str]:
    """Yield the threads of the home of this host; some perhaps twice.

    Raises:
        Unavailable: the home cannot be read.
    """
    from livethread_worker.store.files.home import Home

    try:
        yield from (thread_id for thread_id, _ in Home(settings.home).rollouts())
    except OSError as error:
        raise Unavailable(f"the home {settings.home} cannot be read: {error}") from error


def has_home(settings: Settings) -> bool:
    """Whether this process may write to the workers' home: it is on this host, and the worker extra is installed."""
    return has_worker_extra() and reads_locally(settings)


def reads_locally(settings: Settings) -> bool:
    """Whether to read the home on this host: ``auto`` does if a home is set or Redis is embedded."""
    if settings.reads != "auto":
        return settings.reads == "local"
    return has_worker_extra() and (settings.is_embedded or "home" in settings.model_fields_set)


def has_worker_extra() -> bool:
    """Whether the worker extra is installed."""
    return find_spec("livethread_worker") is not None and find_spec("sqlite_utils") is not None
