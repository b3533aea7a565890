"""The layout of a home: codex's, plus a folder of our own.

No path is built from unchecked text: thread ids are canonical UUIDs, and rollout paths from the index must be within
the home.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Final

from livethread.errors import InvalidRequest, ThreadNotFound
from livethread_config.settings import INDEX_FILE, OWN_FOLDER
from livethread_worker.store.files.name_reader import NameReader
from livethread_worker.store.files.reverts import Reverts
from livethread_worker.store.files.rollout_search import KnownFolder, RolloutSearch

#: Permissions of every directory and file we create: only the owner has access.
DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600

#: Added to the name of a rollout when it is compressed.
COMPRESSED_SUFFIX: Final = ".zst"

#: How long a folder that was found without symlinks counts as having none.
LINK_CHECK_INTERVAL: Final = 1.0  # seconds

_ID: Final = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"

#: A rollout has an id of its own if codex's ``thread/revert`` began it; else its thread's.
_ROLLOUT_NAME: Final = re.compile(
    rf"rollout-(?P<time>\d{{4}}-\d{{2}}-\d{{2}}T\d{{2}}-\d{{2}}-\d{{2}})-(?P<id>{_ID})(?:_(?P<rollout>{_ID}))?\.jsonl(\.zst)?"
)

#: Links of a folder that holds no folders: "." and its own name. File systems that do not count links report 1.
_LINKS_OF_LEAF: Final = 2

#: The administrator, who may link a home's folders, too.
_ROOT_USER: Final = 0

#: No codex wrote a rollout before: a time in a name may be any.
_FIRST_DAY: Final = date(2025, 1, 1)

_name: Final = attrgetter("name")

#: Last parts of a path that do not name a file.
_NOT_FILE_NAMES: Final = frozenset({"", ".", ".."})


class Home:
    """The directory of one store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sessions = root / "sessions"
        self.archived_sessions = root / "archived_sessions"
        self.session_index = root / "session_index.jsonl"
        self.names = NameReader(self.session_index)
        self.locks = root / "thread-writer-locks"
        self._locks = str(self.locks)
        self._archived = f"{self.archived_sessions}/"
        self.own = root / OWN_FOLDER
        self.index = self.own / INDEX_FILE
        self.quarantine = self.own / "quarantine"
        self.originals = self.own / "originals"
        #: Its ``flock`` is held while a fork's rollout begins, and while a thread is deleted that no fork may need.
        self.forks_lock = self.own / "forks.lock"
        self.run = self.own / "run"
        #: Folders checked for symlinks, as spelled -> resolved, and the monotonic time at which to check them again.
        self._checked: dict[str, Path] = {}
        self._check_again_at = 0.0
        self._reverts = Reverts(self._revert_of)
        self._search = RolloutSearch(self)

    def create(self) -> None:
        """Create the missing folders with mode 0700; existing ones keep their modes."""
        own = (self.own, self.run, self.quarantine, self.originals)
        for folder in (self.root, self.sessions, self.locks, *own):
            make_directory(folder)

    def thread_lock(self, thread_id: str) -> str:
        """Return the path of the file whose ``flock`` every writer of the thread holds, including codex."""
        return f"{self._locks}/{thread_id}.lock"

    def new_rollout(self, thread_id: str, created_at: datetime) -> Path:
        """Return the path of a new thread's rollout; its folder and name hold the time in UTC."""
        at = created_at.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00")
        return self.sessions / at[:10].replace("-", "/") / f"rollout-{at.replace(':', '-')}-{thread_id}.jsonl"

    def relative(self, path: Path) -> str:
        """Return *path* relative to the home, as the index stores it."""
        root, text = f"{self.root}/", str(path)
        if text.startswith(root):  # the common case, ten times as fast
            return text[len(root) :]
        return path.relative_to(self.root).as_posix()

    def active_path(self, path: Path) -> Path:
        """Return the path of the rollout *path* while its thread is active: in the folder of the date in its name."""
        match = _ROLLOUT_NAME.fullmatch(path.name)
        day = match["time"][:10].replace("-", "/") if match else datetime.now(UTC).strftime("%Y/%m/%d")
        return self.sessions / day / path.name

    def resolve(self, relative: str) -> Path:
        """Return the path of a rollout given relative to the home, or absolutely.

        It checks for symlinks on the way again after `LINK_CHECK_INTERVAL`, and follows those of `is_linked`.

        Raises:
            InvalidRequest: it is not a path, or leads out of the home. (If the file itself is a symlink, opening it
                fails.)
        """
        named, _, name = relative.rpartition("/")
        if (now := time.monotonic()) >= self._check_again_at:
            self._checked, self._check_again_at = {}, now + LINK_CHECK_INTERVAL
        if name not in _NOT_FILE_NAMES and (known := self._checked.get(named)):
            return known / name
        path = self.root / relative
        folder = self._without_links(path.parent)
        if folder is None:
            raise InvalidRequest(f"{relative!r} leads out of {self.root}, or is not a path")
        if path.name in _NOT_FILE_NAMES:
            raise InvalidRequest(f"{relative!r} does not name a file")
        if path.name == name:
            self._checked[named] = folder
        return folder / path.name

    def find_rollout(self, thread_id: str) -> Path | None:
        """Return the live rollout of *thread_id*, preferring active over archived and plain over compressed, or None.

        A UUIDv7 leads to its dated folder; for any other id, or if that fails, every folder is searched.
        """
        path = self.find_a_rollout(thread_id)
        return self.live_rollout(path) if path else None

    def find_a_rollout(self, thread_id: str, known: Mapping[str, KnownFolder] | None = None) -> Path | None:
        """Return a rollout of *thread_id* like `find_rollout`, but perhaps one that codex's ``thread/revert`` left.

        *known* folders that did not change hold no live rollout of it: see `RolloutSearch`.
        """
        paths = next(self._search.by_folder(thread_id, self.thread_of, known), None)
        return max(paths, key=self.rank) if paths else None

    def find_rollout_of_id(self, rollout_id: str) -> Path | None:
        """Return the rollout with an id of its own, as a ``history_base`` names it, or None."""
        paths = next(self._search.by_folder(rollout_id, self.rollout_id_of, {}, may_rest=False), None)
        return max(paths, key=self.rank) if paths else None

    def rollouts_of(
        self,
        thread_id: str,
        known: Mapping[str, KnownFolder] | None = None,
        *,
        may_rest: bool = True,
        is_indexed: bool = False,
    ) -> list[Path]:
        """Return all rollouts of a thread, the live one last; codex's ``thread/revert`` leaves the earlier ones.

        For the other parameters, see `RolloutSearch.by_folder`.
        """
        found = self._search.by_folder(thread_id, self.thread_of, known, may_rest=may_rest, is_indexed=is_indexed)
        return sorted({path for paths in found for path in paths}, key=lambda path: (self.rank(path), path))

    def live_rollout(self, path: Path) -> Path:
        """Return the live rollout of the thread of *path*: the newest, in the same or in a later folder."""
        thread_id = self.thread_of(path)
        if thread_id is None:
            return path
        folders = (str(self.archived_sessions),) if self.is_archived(path) else self._folders_since(path)
        newer = (self._reverts.newest(folder, thread_id) for folder in folders)
        return max((path, *filter(None, newer)), key=self.generation)

    def generation(self, path: Path) -> str:
        """Return what sorts the rollouts of one thread by age: ids of reverts are UUIDv7s, in the order of time."""
        match = _ROLLOUT_NAME.fullmatch(path.name)
        return (match["rollout"] or "") if match else ""

    def rank(self, path: Path) -> tuple[str, bool, bool]:
        """Return what sorts the rollouts of one thread: the live one is the last."""
        return self.generation(path), not self.is_archived(path), not is_compressed(path)

    def _folders_since(self, path: Path) -> Iterator[str]:
        """Yield the folders, which need not exist, that may hold rollouts as new as *path*, in any time zone."""
        at, today = time_in_name(path.name), datetime.now(UTC).date()
        day = max(at.date() if at else today, _FIRST_DAY) - timedelta(days=1)
        while day <= today + timedelta(days=1):
            yield f"{self.sessions}/{day:%Y/%m/%d}"
            day += timedelta(days=1)

    @staticmethod
    def _revert_of(name: str) -> tuple[str, str] | None:
        """Return thread and rollout id in the file name of a rollout that a revert began."""
        match = _ROLLOUT_NAME.fullmatch(name) if "_" in name else None
        return (match["id"], match["rollout"]) if match and match["rollout"] else None

    def where_it_lies(self, path: Path) -> Path | None:
        """Return *path*, or the archived or compressed rollout of that name; None if no such file exists."""
        for text in self.forms(str(path)):
            if os.path.exists(text):  # noqa: PTH110 - a Path takes four times as long
                return Path(text)
        return None

    def forms(self, path: str) -> tuple[str, ...]:
        """Return *path*, and where a plain active rollout of that name lies if it is archived or compressed."""
        plain = (path, self._archived + path.rpartition("/")[2])
        return *plain, *(f"{each}{COMPRESSED_SUFFIX}" for each in plain)

    def require_rollout(self, thread_id: str) -> Path:
        """Return the rollout of *thread_id*.

        Raises:
            ThreadNotFound: it has no rollout.
        """
        path = self.find_rollout(thread_id)
        if path is None:
            raise ThreadNotFound(thread_id, f"{self.root} holds no rollout of it")
        return path

    def rollouts(self) -> Iterator[tuple[str, Path]]:
        """Yield the thread id and path of every rollout, active ones first, and plain ones before compressed ones."""
        for thread_id, entry in self.rollout_entries():
            yield thread_id, Path(entry)

    def rollout_entries(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the id and the directory entry of every rollout, in the order of `rollouts`."""
        for folder in self.rollout_folders():
            for entry in sorted(self.entries_of(folder), key=_name):
                if match := _ROLLOUT_NAME.fullmatch(entry.name):
                    yield match["id"], entry

    def entries_of(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        """Yield the entries of *folder*, if it exists, in any order."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            yield from entries

    def unfinished_copies(self) -> Iterator[tuple[str, Path]]:
        """Yield the thread id and path of every copy of a rollout that is in progress, or that a crash left."""
        for folder in self.rollout_folders():
            for path in sorted(folder.glob(".rollout-*.new")):
                if thread_id := self.copied_thread(path):
                    yield thread_id, path

    def one_rollout_each(
        self, known: Mapping[str, tuple[str, int]], entries: Iterable[tuple[str, os.DirEntry[str]]]
    ) -> tuple[dict[str, os.DirEntry[str]], list[os.DirEntry[str]]]:
        """Return the live one of *entries* for each thread, and other copies of a rollout.

        Of copies, prefer the one that the index knows (*known*: thread -> path relative to the home, length), then a
        plain one, then the longest: a user's backup copy does not grow.
        """
        root = f"{self.root}/"
        chosen: dict[str, os.DirEntry[str]] = {}
        others: list[os.DirEntry[str]] = []

        def generation(entry: os.DirEntry[str]) -> str:
            return self.generation(Path(entry.name))

        def rank(thread_id: str, entry: os.DirEntry[str]) -> tuple[bool, bool, int]:
            is_known = thread_id in known and known[thread_id][0] == entry.path.removeprefix(root)
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # moved or deleted since it was listed
                size = -1
            return is_known, not entry.name.endswith(COMPRESSED_SUFFIX), size

        for thread_id, entry in entries:
            rival = chosen.get(thread_id)
            if rival is not None and generation(rival) != generation(entry):
                chosen[thread_id] = max(rival, entry, key=generation)
                continue
            if rival is not None and rank(thread_id, rival) >= rank(thread_id, entry):
                others.append(entry)
                continue
            chosen[thread_id] = entry
            if rival is not None:
                others.append(rival)
        return chosen, others

    def rollout_folders(self) -> Iterator[Path]:
        """Yield the folders that may hold rollouts, as in codex: ``sessions``, ``archived_sessions``, and any in them.

        Symlinks in them are not followed, and names that are not UTF-8 are left out: the index holds text.
        """
        for folder in (self.sessions, self.archived_sessions):
            if not folder.is_symlink() or self.is_linked(folder):
                yield from map(Path, _folders_in(str(folder)))

    def is_linked(self, folder: Path) -> bool:
        """Return whether *folder*, of active or archived rollouts, is a symlink that the home's owner made.

        Its target, such as a folder on another disk, then counts as a part of the home.
        """
        if folder not in {self.sessions, self.archived_sessions} or not folder.is_symlink():
            return False
        return _owner(folder) in {_owner(self.root), _ROOT_USER}

    def is_within(self, folder: Path) -> bool:
        """Return whether *folder* is in the home after symlinks are resolved."""
        return self._without_links(folder) is not None

    def was_within(self, folder: Path) -> bool:
        """Return what `is_within` returned up to `LINK_CHECK_INTERVAL` ago."""
        try:
            self.resolve(f"{self.relative(folder)}/file")
        except (InvalidRequest, ValueError):
            return False
        return True

    def spelled(self, path: Path) -> Path | None:
        """Return the path of a file as the home spells it; None if it does not lie in the home."""
        folder = self._without_links(path.parent)
        return folder and folder / path.name

    def _without_links(self, folder: Path) -> Path | None:
        """Return *folder* without symlinks but those of `is_linked`; None if it does not lie in the home."""
        try:
            real = _resolved(folder)
            linked = {
                each: _resolved(each) for each in (self.sessions, self.archived_sessions) if self.is_linked(each)
            }
            root = self.root.resolve()
        except (ValueError, OSError):
            return None
        for spelled, target in (linked | {self.root: root}).items():
            if real.is_relative_to(target):
                return spelled / real.relative_to(target)
        return None

    def copied_thread(self, path: Path) -> str | None:
        """Return the thread id in the name of the unfinished copy *path* of a rollout; None for any other file."""
        if not (path.name.startswith(".") and path.name.endswith(".new")):
            return None
        match = _ROLLOUT_NAME.fullmatch(path.name[1:].removesuffix(".new"))
        return match["id"] if match else None

    def thread_of(self, path: Path) -> str | None:
        """Return the thread id in the name of the rollout *path*; None for any other file."""
        return thread_in(path.name)

    def rollout_id_of(self, path: Path) -> str | None:
        """Return the rollout id in the name of the rollout *path*; None for any other file."""
        match = _ROLLOUT_NAME.fullmatch(path.name)
        return (match["rollout"] or match["id"]) if match else None

    def is_archived(self, path: Path) -> bool:
        """Return whether *path* lies among the archived rollouts, at any depth."""
        # Comparing strings is five times as fast as comparing paths.
        return str(path).startswith(self._archived)


def _folders_in(folder: str) -> Iterator[str]:
    """Yield *folder* and all folders in it, in the order of their names, without following symlinks."""
    try:
        names: list[str] = []
        if os.stat(folder).st_nlink != _LINKS_OF_LEAF:  # noqa: PTH116 - a Path takes as long as the call
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return
    yield folder
    for name in names:
        if is_text(name):
            yield from _folders_in(f"{folder}/{name}")


def thread_in(name: str) -> str | None:
    """Return the thread id in the file name of a rollout; None for any other name."""
    match = _ROLLOUT_NAME.fullmatch(name)
    return match["id"] if match else None


def is_text(name: str) -> bool:
    """Return whether the name of a file or folder is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: Path | str) -> str:
    """Return *path* as printable text: file names need not be UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _owner(path: Path) -> int:
    return path.lstat().st_uid


def _resolved(path: Path) -> Path:
    """Return *path* with its symlinks resolved.

    Raises:
        ValueError: it is not a path, or its symlinks form a loop.
    """
    try:
        real = path.resolve()
    except RuntimeError as error:  # Python < 3.13
        raise ValueError(str(error)) from None
    if real.is_symlink():
        raise ValueError(f"the symlink {real} is part of a loop")
    return real


def time_in_name(path: str) -> datetime | None:
    """Return the time in the name of the rollout *path*; None if it has no valid time."""
    match = _ROLLOUT_NAME.fullmatch(path.rpartition("/")[2])
    try:
        return datetime.strptime(match["time"], "%Y-%m-%dT%H-%M-%S").replace(tzinfo=UTC) if match else None
    except ValueError:
        return None


def is_compressed(path: Path) -> bool:
    """Return whether *path* names a compressed rollout."""
    return str(path).endswith(COMPRESSED_SUFFIX)  # five times as fast as `path.suffix`


def other_form(path: Path) -> Path:
    """Return the path of the compressed form of a plain rollout, or of the plain form of a compressed one."""
    return path.with_suffix("") if is_compressed(path) else path.with_name(path.name + COMPRESSED_SUFFIX)


def make_directory(path: Path) -> None:
    """Create *path* and its missing parents, each with mode 0700."""
    if path.is_dir():
        return
    if path.is_symlink():
        raise FileNotFoundError(errno.ENOENT, f"it leads to {path.readlink()}, which is missing", str(path))
    make_directory(path.parent)
    path.mkdir(DIRECTORY_MODE, exist_ok=True)
