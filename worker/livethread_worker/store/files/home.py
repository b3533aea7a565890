"""Where a home keeps its files.

The layout beside our own folder is codex's. No path is ever built from unchecked text: thread ids are
canonical UUIDs, and what the index calls a rollout must lie within the home.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Final

from livethread.errors import InvalidRequest, ThreadNotFound
from livethread_config.settings import OWN_FOLDER

#: Permissions of every directory and file we create: the owner's alone.
DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600

#: What a cold rollout's name has behind the plain one's.
COMPRESSED_SUFFIX: Final = ".zst"

_ROLLOUT_NAME: Final = re.compile(
    r"rollout-(?P<time>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2})-(?P<id>[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\.jsonl(\.zst)?"
)

#: Folders of days. Others hold no rollout of ours or codex's, and their names may be no text.
_DATED: Final = "[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]/"

#: What no file is called.
_NO_NAMES: Final = frozenset({"", ".", ".."})

_name: Final = attrgetter("name")


class Home:
    """The directory of one store."""

    def __init__(self, root: Path, *, looks_once: bool = False) -> None:
        self.root = root
        self.sessions = root / "sessions"
        self.archived_sessions = root / "archived_sessions"
        self.session_index = root / "session_index.jsonl"
        self.locks = root / "thread-writer-locks"
        self._locks = str(self.locks)
        self.own = root / OWN_FOLDER
        self.index = self.own / "index.sqlite"
        self.quarantine = self.own / "quarantine"
        #: Folders that were looked at, as they are named -> without links; None: each is looked at again.
        self._looked_at: dict[str, Path] | None = {} if looks_once else None

    def for_a_moment(self) -> Home:
        """Return this home for the work of a moment: it looks for links in a folder once, not with every rollout in it."""
        return self if self._looked_at is not None else Home(self.root, looks_once=True)

    def create(self) -> None:
        """Create the folders, with mode 0700; existing ones keep theirs."""
        for folder in (self.root, self.sessions, self.locks, self.own, self.own / "run", self.quarantine):
            make_directory(folder)

    def thread_lock(self, thread_id: str) -> str:
        """Return the path of the file whose ``flock`` a writer of the thread holds, codex too."""
        return f"{self._locks}/{thread_id}.lock"

    def new_rollout(self, thread_id: str, created_at: datetime) -> Path:
        """Return the path of a new thread's rollout; its folder and name say the time in UTC."""
        at = created_at.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00")
        return self.sessions / at[:10].replace("-", "/") / f"rollout-{at.replace(':', '-')}-{thread_id}.jsonl"

    def relative(self, path: Path) -> str:
        """Return *path* as the index holds it."""
        root, text = f"{self.root}/", str(path)
        if text.startswith(root):  # all but always, and told ten times as fast
            return text[len(root) :]
        return path.relative_to(self.root).as_posix()

    def active_path(self, path: Path) -> Path:
        """Return where the rollout *path* lies while its thread is active: the dated folder that its name says."""
        match = _ROLLOUT_NAME.fullmatch(path.name)
        day = match["time"][:10].replace("-", "/") if match else datetime.now(UTC).strftime("%Y/%m/%d")
        return self.sessions / day / path.name

    def resolve(self, relative: str) -> Path:
        """Return the path of a rollout that is named relative to the home, or absolutely.

        Raises:
            InvalidRequest: it is no path, or leads out of the home. (Where the file itself is a symlink, opening it
                for writing fails, and reading it is refused.)
        """
        named, _, name = relative.rpartition("/")
        if self._looked_at and name not in _NO_NAMES and (known := self._looked_at.get(named)):
            return known / name
        path = self.root / relative
        try:
            folder = self.root / _without_links(path.parent).relative_to(self.root.resolve())
        except ValueError:
            raise InvalidRequest(f"{relative!r} leads out of {self.root}, or is no path") from None
        if path.name in _NO_NAMES:
            raise InvalidRequest(f"{relative!r} is no file")
        if self._looked_at is not None and path.name == name:
            self._looked_at[named] = folder
        return folder / path.name

    def find_rollout(self, thread_id: str) -> Path | None:
        """Return the rollout of *thread_id*, active ones first and plain ones before compressed; None if there is none.

        The folder that the id's own time names is tried first; an id without one costs a look into every
        dated folder.
        """
        for folder in (*(self.sessions / day for day in _days_of(thread_id)), *self.rollout_folders()):
            for path in sorted(folder.glob(f"rollout-*-{thread_id}.jsonl*")):
                if self.thread_of(path) and self.is_within(folder):
                    return path
        return None

    def where_it_lies(self, path: Path) -> Path | None:
        """Return *path*, or where else the rollout of that name lies: archived, or compressed; None where it does not."""
        plain = (str(path), f"{self.archived_sessions}/{path.name}")
        for text in (*plain, *(f"{each}{COMPRESSED_SUFFIX}" for each in plain)):
            if os.path.exists(text):  # noqa: PTH110 - as paths they would take four times as long
                return Path(text)
        return None

    def require_rollout(self, thread_id: str) -> Path:
        """Return the rollout of *thread_id*.

        Raises:
            ThreadNotFound: there is none.
        """
        path = self.find_rollout(thread_id)
        if path is None:
            raise ThreadNotFound(thread_id, f"{self.root} holds no rollout of it")
        return path

    def rollouts(self) -> Iterator[tuple[str, Path]]:
        """Yield the id and the path of every rollout, active ones first and plain ones before compressed."""
        for thread_id, entry in self.rollout_entries():
            yield thread_id, Path(entry)

    def rollout_entries(self, folders: Iterable[Path] | None = None) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the id and the directory entry of every rollout in *folders*, by default all, in the order of `rollouts`."""
        for folder in self.rollout_folders() if folders is None else folders:
            if not folder.is_dir() or not self.is_within(folder):
                continue
            with os.scandir(folder) as entries:
                by_name = sorted(entries, key=_name)
            for entry in by_name:
                if match := _ROLLOUT_NAME.fullmatch(entry.name):
                    yield match["id"], entry

    def unfinished_copies(self) -> Iterator[tuple[str, Path]]:
        """Yield the thread and the path of every copy of a rollout that is being made, or that a crash left."""
        for folder in self.rollout_folders():
            if folder.is_dir() and self.is_within(folder):
                for path in sorted(folder.glob(".rollout-*.new")):
                    if match := _ROLLOUT_NAME.fullmatch(path.name.removeprefix(".").removesuffix(".new")):
                        yield match["id"], path

    def one_rollout_each(
        self, known: Mapping[str, tuple[str, int]], entries: Iterable[tuple[str, os.DirEntry[str]]]
    ) -> tuple[dict[str, os.DirEntry[str]], list[os.DirEntry[str]]]:
        """Return one of *entries* for each thread, and the others of threads that have several.

        It is the rollout that the index knows, by *known* (thread -> path relative to the home, length); else a plain one
        before a compressed one, and the longest: a copy does not grow.
        """
        root = f"{self.root}/"
        chosen: dict[str, os.DirEntry[str]] = {}
        others: list[os.DirEntry[str]] = []

        def rank(thread_id: str, entry: os.DirEntry[str]) -> tuple[bool, bool, int]:
            is_known = thread_id in known and known[thread_id][0] == entry.path.removeprefix(root)
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # moved or deleted since it was listed
                size = -1
            return is_known, not entry.name.endswith(COMPRESSED_SUFFIX), size

        for thread_id, entry in entries:
            rival = chosen.get(thread_id)
            if rival is not None and rank(thread_id, rival) >= rank(thread_id, entry):
                others.append(entry)
                continue
            chosen[thread_id] = entry
            if rival is not None:
                others.append(rival)
        return chosen, others

    def rollout_folders(self) -> Iterator[Path]:
        """Yield the folders that hold rollouts: the dated ones, and the folder of archived ones."""
        yield from sorted(self.sessions.glob(_DATED))
        yield self.archived_sessions

    def is_within(self, folder: Path) -> bool:
        """Whether *folder* lies in the home: a symlink may lead anywhere, or in a circle."""
        try:
            return _without_links(folder).is_relative_to(self.root.resolve())
        except ValueError:
            return False

    def thread_of(self, path: Path) -> str | None:
        """Return the id of the thread whose rollout *path* is, going by its name; None for any other file."""
        match = _ROLLOUT_NAME.fullmatch(path.name)
        return match["id"] if match else None

    def time_of(self, path: Path) -> datetime | None:
        """Return the time that the name of the rollout *path* says; None where it is none."""
        match = _ROLLOUT_NAME.fullmatch(path.name)
        try:
            return datetime.strptime(match["time"], "%Y-%m-%dT%H-%M-%S").replace(tzinfo=UTC) if match else None
        except ValueError:
            return None

    def is_archived(self, path: Path) -> bool:
        """Whether *path* lies among the archived rollouts."""
        # As texts: to compare the paths takes five times as long.
        return str(path).rpartition("/")[0] == str(self.archived_sessions)


def _without_links(path: Path) -> Path:
    """Return *path* without a symlink in it.

    Raises:
        ValueError: it is no path, or its links lead in a circle.
    """
    try:
        real = path.resolve()
    except RuntimeError as error:  # Python < 3.13
        raise ValueError(str(error)) from None
    if real.is_symlink():
        raise ValueError(f"the symlink {real} leads in a circle")
    return real


def is_compressed(path: Path) -> bool:
    """Whether *path* is that of a compressed rollout."""
    return str(path).endswith(COMPRESSED_SUFFIX)  # told five times as fast as by the suffix


def other_form(path: Path) -> Path:
    """Return the path of the plain rollout *path* compressed, or of the compressed one plain."""
    return path.with_suffix("") if is_compressed(path) else path.with_name(path.name + COMPRESSED_SUFFIX)


def make_directory(path: Path) -> None:
    """Create *path* and its missing parents, each with mode 0700 whatever the umask is."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(DIRECTORY_MODE, exist_ok=True)


def _days_of(thread_id: str) -> Iterator[str]:
    """Yield the dated folders in which a UUIDv7's rollout lies, whatever the writer's time zone was."""
    if thread_id[14] != "7":
        return
    try:
        made_at = datetime.fromtimestamp(int(thread_id[:8] + thread_id[9:13], 16) / 1000, UTC)
        days = [made_at + timedelta(days=days) for days in (0, -1, 1)]
    except (ValueError, OverflowError, OSError):  # beyond the calendar: an id says what its maker likes
        return
    yield from (day.strftime("%Y/%m/%d") for day in days)
