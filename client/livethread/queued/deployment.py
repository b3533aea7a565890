"""The deployment record in Redis, as clients and workers read, create and restore it.

A process takes the record's shards, and refuses to work if its settings, its home or its release contradict the record.
If Redis loses the record, any process that knew it restores it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from livethread.errors import InvalidRequest
from livethread.queued.outage import Outage
from livethread.queued.scripts import load_script
from livethread_config import Settings, names
from livethread_config.deployment import EPOCHS_FIELD, WIRE, WIRE_FIELD, Deployment, ShardEpochs

logger = logging.getLogger(__name__)

#: How often a process reads the record. A new epoch begins later than that after it was written.
READ_INTERVAL: Final = 15.0  # seconds


class Change(NamedTuple):
    """A field of the record that is to change."""

    field: str
    #: Its value now; empty: it is missing.
    now: str
    new: str


def reconcile(
    record: Mapping[bytes, bytes], settings: Settings, known: Deployment | None
) -> Deployment | list[Change]:
    """Return the deployment of *record*, or what is missing in it: *known* is what this process last read.

    Raises:
        InvalidRequest: the record contradicts *settings*, *known* or this release.
    """
    fields = {name.decode(): value.decode() for name, value in record.items()}
    key = names.deployment_key(settings.key_prefix)
    wire = fields.get(WIRE_FIELD, str(WIRE))
    if wire != str(WIRE):
        raise InvalidRequest(
            f"the deployment {settings.key_prefix!r} speaks version {wire} of the wire, and this release version {WIRE}: "
            "install the release that the deployment's workers run"
        )
    wanted = known or Deployment(ShardEpochs.of((0, settings.shards or 1)))
    missing = [Change(name, "", value) for name, value in wanted.fields().items() if name not in fields]
    if WIRE_FIELD not in fields or EPOCHS_FIELD not in fields:
        return missing
    try:
        found = Deployment.parse(fields)
    except ValueError as error:
        raise InvalidRequest(f"the deployment record in Redis ({key}) is malformed: {error}") from None
    if known is not None and not found.epochs.continues(known.epochs):
        if known.epochs.continues(found.epochs):  # Redis lost the last change
            return [Change(EPOCHS_FIELD, found.epochs.text, known.epochs.text)]
        raise InvalidRequest(
            f"the deployment record in Redis ({key}) says {_counted(found.epochs)}, and this process knows "
            f"{_counted(known.epochs)}: Redis lost the record, and a process with other settings wrote a new one. Delete "
            f"{key}, and start first a worker that has a home of this deployment"
        )
    if settings.shards is not None and settings.shards not in {shards for _, shards in found.epochs.epochs}:
        raise InvalidRequest(
            f"LIVETHREAD_SHARDS is {settings.shards}, but the deployment {settings.key_prefix!r} has "
            f"{_counted(found.epochs)}: unset it, or add shards with livethread shards add"
        )
    return found


def _counted(epochs: ShardEpochs) -> str:
    return f"{epochs.shards} shard{'' if epochs.shards == 1 else 's'} ({epochs.text})"


class DeploymentWatch:
    """The deployment as a client knows it; while it is entered, it reads the record again every `READ_INTERVAL`."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis: Any = redis  # redis-py's types leave open whether replies are bytes; ours are
        self._settings = settings
        self._key = names.deployment_key(settings.key_prefix)
        self._change = redis.register_script(load_script("livethread.queued", "record"))
        #: The deployment as last read; until then, what the record will hold if this process writes it.
        self.current = Deployment(ShardEpochs.of((0, settings.shards or 1)))
        #: Whether the record was read.
        self.is_read = False
        self._observers: list[Callable[[], Awaitable[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read_regularly())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # redis-py can swallow a cancellation that arrives together with a reply.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)

    def on_more_shards(self, observer: Callable[[], Awaitable[None]]) -> None:
        """Have *observer* called whenever there are more shards than before."""
        self._observers.append(observer)

    async def refresh(self) -> Deployment:
        """Read the record; create or restore it if Redis has none.

        Raises:
            InvalidRequest: the record contradicts the settings, this release, or what this process knew.
            RedisError, OSError: Redis does not answer.
        """
        while True:
            record = await self._redis.hgetall(self._key)
            found = reconcile(record, self._settings, self.current if self.is_read else None)
            if not isinstance(found, list):
                break
            await self.change(found)
        has_more = found.epochs.shards > self.current.epochs.shards
        if not self.is_read or found != self.current:  # else keep the object: writers compare its epochs by identity
            self.current, self.is_read = found, True
        if has_more:
            for observer in self._observers:
                await observer()
        return self.current

    async def look(self) -> Deployment:
        """Read the record; restore it if Redis lost it, but create none.

        Raises:
            InvalidRequest, RedisError, OSError: as `refresh`.
        """
        if self.is_read or await self._redis.exists(self._key):
            await self.refresh()
        return self.current

    async def change(self, changes: list[Change]) -> bool:
        """Change the record if its fields have the values that are expected; return whether they had."""
        return bool(await self._change(keys=[self._key], args=[part for change in changes for part in change]))

    async def _read_regularly(self) -> None:
        outage = Outage(logger, "read_record")
        while True:
            await asyncio.sleep(READ_INTERVAL)
            try:
                try:
                    await self.look()
                except RedisConnectionError:  # of a connection that broke while it was idle
                    await self.look()
            except (RedisError, OSError, InvalidRequest) as error:
                outage.begin(error, "the shards are taken as they were")
            else:
                outage.end()
