"""Finds rollouts by an id in their names.

A search lists every folder of rollouts, unless it is given the folders whose rollouts the index knows: then it lists only
those that changed since. A large folder that changes all the time is listed for 2 % of the time. In between, a search looks
for the names that a rollout has if it was created together with its id: codex and livethread name each new one so. A rollout
that another program adds to a large folder under a different name is found up to `REST_FACTOR` times as late as listing
the folder takes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from livethread_worker.store.files.folder_stamps import FolderStamp

if TYPE_CHECKING:
    from livethread_worker.store.files.home import Home

#: From so many entries on, a folder is not listed each time; nor are all folders, if a search reads so many in them.
LARGE: Final = 500

#: A large folder is listed again only after this many times the duration: 2 % of the time.
REST_FACTOR: Final = 50

#: How many seconds after its id a thread gets its rollout's name; and how many if the program is slow.
_NAMED_WITHIN: Final = 2
_NAMED_SLOWLY: Final = 10

#: The differences to UTC that are in use.
_ZONES: Final = tuple(
    timedelta(minutes=minutes)
    for minutes in (*range(-720, 841, 60), -570, -210, 210, 270, 330, 345, 390, 525, 570, 630, 765, 825)
)

_ANY_DAY: Final = timedelta(0), timedelta(-1), timedelta(1)


@dataclass(frozen=True, slots=True)
class KnownFolder:
    """A folder as it was when the index knew every rollout in it."""

    stamp: FolderStamp
    #: Names of the rollouts in it that may not be the live ones of their threads: copies, and all of reverted threads.
    others: tuple[str, ...] = ()


class RolloutSearch:
    """Searches the folders of a home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._root = str(home.root)
        #: Large folder -> monotonic time before which it is not listed again; the home's root stands for all folders.
        self._rests: dict[str, float] = {}
        #: How many folders and entries the search under way has read.
        self._listed = 0

    def by_folder(
        self,
        id_: str,
        id_of: Callable[[Path], str | None],
        known: Mapping[str, KnownFolder] | None,
        *,
        may_rest: bool = True,
        is_indexed: bool = False,
    ) -> Iterator[list[Path]]:
        """Yield the rollouts whose id, by *id_of*, is *id_*: those of each folder that has any; some perhaps twice.

        *known* folders that are unchanged hold no rollout of the id but their others. None: list every folder.
        Large folders are not listed each time if this *may_rest*. A rollout of an id that *is_indexed* is not looked for
        by the names that it may have: the caller knows its name.
        """
        may_rest &= known is not None
        made_at = time_of_id(id_)
        may_guess = known is not None and not is_indexed
        if may_guess and made_at and (paths := self._named(id_, made_at, _usual_zones(made_at))):
            yield paths
        started, self._listed, is_resting = time.monotonic(), 0, False
        for folder in self._folders(made_at, may_rest=may_rest):
            names = self._names(folder, id_, known or {}, may_rest=may_rest)
            is_resting |= names is None
            paths = [path for name in names or () if id_of(path := Path(folder, name)) == id_]
            if paths and self._home.was_within(Path(folder)):
                yield sorted(paths)
        self._rest(self._root, self._listed, started)
        if is_resting and not is_indexed and made_at:
            usual = self._named(id_, made_at, _usual_zones(made_at), _NAMED_SLOWLY)
            if paths := usual or self._named(id_, made_at, _ZONES):
                yield paths

    def _named(
        self, id_: str, made_at: datetime, zones: Iterable[timedelta], within: int = _NAMED_WITHIN
    ) -> list[Path]:
        """Return the rollouts that are named by the time of their id, in one of *zones*, or up to *within* seconds later."""
        for zone in zones:
            for seconds in range(within + 1):
                at = f"{made_at + zone + timedelta(seconds=seconds):%Y/%m/%d/rollout-%Y-%m-%dT%H-%M-%S}"
                forms = self._home.forms(f"{self._home.sessions}/{at}-{id_}.jsonl")
                found = [Path(form) for form in forms if os.path.exists(form)]  # noqa: PTH110 - half the time
                if found:
                    return [path for path in found if self._home.was_within(path.parent)]
        return []

    def _folders(self, made_at: datetime | None, *, may_rest: bool) -> Iterator[str]:
        """Yield the folders to search, those of the id's day first; if there are many, not all of them each time."""
        home = self._home
        days = [made_at + day for day in _ANY_DAY] if made_at else []
        near = [f"{home.sessions}/{day:%Y/%m/%d}" for day in days]
        yield from near
        if not may_rest or time.monotonic() >= self._rests.get(self._root, 0.0):
            folders = [str(folder) for folder in home.rollout_folders()]
            self._listed += len(folders)
        else:
            today = datetime.now(UTC)
            folders = [f"{home.sessions}/{today + day:%Y/%m/%d}" for day in _ANY_DAY]
            folders += [str(home.sessions), str(home.archived_sessions)]
        yield from (folder for folder in folders if folder not in near)

    def _names(
        self, folder: str, id_: str, known: Mapping[str, KnownFolder], *, may_rest: bool
    ) -> Iterable[str] | None:
        """Return the names in *folder* that hold *id_*; None if it is large and was listed just now."""
        try:
            before = known.get(folder.removeprefix(f"{self._root}/"))
            if before is not None and before.stamp == FolderStamp.of(folder):
                return [name for name in before.others if id_ in name]
            started = time.monotonic()
            if may_rest and started < self._rests.get(folder, 0.0):
                return None
            names = os.listdir(folder)  # noqa: PTH208 - twice as fast
        except (FileNotFoundError, NotADirectoryError):
            return ()
        self._listed += len(names)
        self._rest(folder, len(names), started)
        return [name for name in names if id_ in name]

    def _rest(self, folder: str, entries: int, started: float) -> None:
        if entries >= LARGE:
            now = time.monotonic()
            self._rests[folder] = now + REST_FACTOR * (now - started)


def time_of_id(id_: str) -> datetime | None:
    """Return the time in a UUIDv7; None for any other id."""
    if id_[14] != "7":
        return None
    try:
        made_at = datetime.fromtimestamp(int(id_[:8] + id_[9:13], 16) / 1000, UTC)
        made_at - timedelta(days=2), made_at + timedelta(days=2)
    except (ValueError, OverflowError, OSError):  # an id may hold a time beyond the calendar
        return None
    return made_at


def _usual_zones(at: datetime) -> tuple[timedelta, ...]:
    local = at.astimezone().utcoffset()
    return (timedelta(0), local) if local else (timedelta(0),)
