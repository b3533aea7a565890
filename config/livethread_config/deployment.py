"""The deployment record: the wire's version, the shards, the time from which each counts, and the homes that serve them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from livethread_config import names

#: The version of the wire that this release speaks: Redis keys, scripts, tasks and Celery messages.
WIRE: Final = 1

#: Fields of the record; ``home:<shard>`` follow.
WIRE_FIELD: Final = "wire"
EPOCHS_FIELD: Final = "epochs"
HOME_FIELD: Final = "home:"
#: The latest id of a new thread whose time was ahead of Redis' clock: see ``enqueue.lua``.
AHEAD_FIELD: Final = "ahead"


def home_field(shard: int) -> str:
    """Return the record's field with the home of *shard*."""
    return f"{HOME_FIELD}{shard}"


@dataclass(frozen=True, slots=True)
class ShardEpochs:
    """From which time on new threads are spread over how many shards."""

    #: As the record holds them: JSON, ``[[0, 1], [1795882750617, 3]]``.
    text: str
    #: (ms from which the epoch counts, number of shards). The first begins at 0; later ones have more shards.
    epochs: tuple[tuple[int, int], ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Parse the text.

        Raises:
            ValueError: it is not a list of shard epochs.
        """
        try:
            epochs = tuple((since, shards) for since, shards in json.loads(self.text))
        except TypeError:
            epochs = ()
        later = itertools.pairwise(epochs)
        if (
            not epochs
            or not all(isinstance(number, int) for epoch in epochs for number in epoch)
            or epochs[0][0] != 0
            or epochs[0][1] < 1
            or any(since <= before or more <= fewer for (before, fewer), (since, more) in later)
        ):
            raise ValueError(f"these are no shard epochs: {self.text[:200]}")
        object.__setattr__(self, "epochs", epochs)

    @classmethod
    def of(cls, *epochs: tuple[int, int]) -> Self:
        """Return these epochs."""
        return cls(json.dumps(epochs, separators=(",", ":")))

    @property
    def shards(self) -> int:
        """The number of all shards, including those of an epoch that has not begun."""
        return self.epochs[-1][1]

    def begin_of(self, shard: int) -> int:
        """Return the time in ms from which *shard* takes new threads."""
        return next(since for since, shards in self.epochs if shard < shards)

    def continues(self, earlier: ShardEpochs) -> bool:
        """Whether these begin with *earlier*."""
        return self.epochs[: len(earlier.epochs)] == earlier.epochs

    def shard_of(self, thread_id: str) -> int:
        """Return the shard of *thread_id*, for good: later epochs do not change it."""
        if len(self.epochs) > 1:
            at = made_at(thread_id)
            shards = next(shards for since, shards in reversed(self.epochs) if since <= at)
        else:
            shards = self.epochs[0][1]
        return names.shard_of(thread_id, shards)


def made_at(thread_id: str) -> int:
    """Return the time in ms in a UUIDv7; 0 for ids of other kinds."""
    return int(thread_id[:8] + thread_id[9:13], 16) if thread_id[14:15] == "7" else 0


@dataclass(frozen=True, slots=True)
class HomeIdentity:
    """Tells a home from all others, and from its copies."""

    id: str
    #: Of the file that holds the id: a copy's file has another one.
    inode: str
    #: Where a worker last used it; for people.
    host: str = field(default="", compare=False)
    path: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the home that the record describes.

        Raises:
            ValueError: *text* describes no home.
        """
        try:
            known = json.loads(text)
            return cls(str(known["id"]), str(known["inode"]), str(known.get("host", "")), str(known.get("path", "")))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this describes no home: {text[:200]}") from error

    @property
    def text(self) -> str:
        """The home as the record describes it."""
        return json.dumps({"id": self.id, "inode": self.inode, "host": self.host, "path": self.path})

    @property
    def sign(self) -> str:
        """What a worker of the home leaves when it sweeps."""
        return f"{self.id} {self.inode}"

    def __str__(self) -> str:
        return f"{self.id} ({self.host}:{self.path})"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The deployment record as a process last read it."""

    epochs: ShardEpochs
    #: Shard -> the home that serves it. A shard that no worker has served yet is missing.
    home_of: Mapping[int, HomeIdentity] = field(default_factory=dict)

    @classmethod
    def parse(cls, fields: Mapping[str, str]) -> Self:
        """Return the deployment of a record that has its epochs.

        Raises:
            ValueError: a value is malformed.
        """
        homes = {
            int(name.removeprefix(HOME_FIELD)): HomeIdentity.parse(text)
            for name, text in fields.items()
            if name.startswith(HOME_FIELD)
        }
        return cls(ShardEpochs(fields[EPOCHS_FIELD]), homes)

    @property
    def shards(self) -> range:
        """The numbers of all shards."""
        return range(self.epochs.shards)

    def shard_of(self, thread_id: str) -> int:
        """Return the shard of *thread_id*."""
        return self.epochs.shard_of(thread_id)

    def fields(self) -> dict[str, str]:
        """Return the record."""
        homes = {home_field(shard): home.text for shard, home in self.home_of.items()}
        return {WIRE_FIELD: str(WIRE), EPOCHS_FIELD: self.epochs.text, **homes}
