"""Finds the rollouts of an import, and says whose they are. Nothing is changed.

What a home holds is found where codex keeps it; in any other folder, whatever ends like a rollout is looked into. No
symlink is followed out of what was named.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from livethread.model import format_time, parse_time
from livethread.rollout.item import encode_json
from livethread.rollout.old_forms import modern_record
from livethread.thread_id import canonical_thread_id
from livethread_worker.store.files.compression import open_rollout
from livethread_worker.store.files.home import COMPRESSED_SUFFIX, Home, is_compressed
from livethread_worker.store.files.scan import PAGE_READ_BYTES, scan_records

#: Ids that are no UUID become one under it: never to be changed, or what was imported would be imported again.
_NAMESPACE: Final = uuid.UUID("6f5b3a52-0c1d-5e6f-9a53-6c6976657468")

#: What of a ``session_meta`` names a thread.
_THREAD_KEYS: Final = frozenset({"id", "session_id", "forked_from_id", "parent_thread_id"})

_SESSIONS: Final = "sessions"
_ARCHIVED: Final = "archived_sessions"
_NAME_INDEX: Final = "session_index.jsonl"
_SUFFIXES: Final = (".jsonl", ".jsonl" + COMPRESSED_SUFFIX)


class NotRollout(Exception):
    """A file is not to be imported; says why."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What is not imported, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """A file that may be a rollout."""

    #: Without a symlink in it.
    path: Path
    #: The name index of what it lies in; it need not exist.
    names: Path


@dataclass(frozen=True, slots=True)
class Source:
    """A rollout, and the thread as which it is imported."""

    path: Path
    names: Path
    thread_id: str
    #: The thread's id as the rollout spells it.
    original_id: str
    #: The line that goes before its own ones, where these spell another id.
    first: bytes
    #: Where it lies in our home if it is imported.
    target: Path


@dataclass(slots=True)
class Search:
    """Collects the files of sources."""

    found: dict[Path, Found] = field(default_factory=dict)
    not_rollouts: list[Refused] = field(default_factory=list)
    #: What cannot be looked into.
    failed: list[Refused] = field(default_factory=list)

    def look(self, named: Path) -> None:
        """Look into a home, a folder or a file."""
        try:
            self._look(named.resolve())
        except (OSError, RuntimeError) as error:
            self.failed.append(Refused(shown(named), reason_of(error)))

    def _look(self, root: Path) -> None:
        kept = [folder for name in (_SESSIONS, _ARCHIVED) if (folder := root / name).is_dir()]
        if not root.is_dir():
            self._add(root, root.parent)
        elif not kept:
            self._walk(root, _Folder(root))
        for folder in kept:
            self._enter(folder, _Folder(root, "rollout-" if folder.name == _SESSIONS else ""))

    def _walk(self, folder: Path, within: _Folder) -> None:
        if folder in within.walked:
            return
        within.walked.add(folder)
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            self.failed.append(Refused(shown(folder), reason_of(error)))
            return
        for path in paths:
            try:
                if path.is_dir() or (_ends_so(path) and path.name.startswith(within.prefix)):
                    self._enter(path, within)
            except (OSError, RuntimeError) as error:  # RuntimeError: Python < 3.13 on symlinks in a circle
                self.failed.append(Refused(shown(path), reason_of(error)))

    def _enter(self, path: Path, within: _Folder) -> None:
        if path.is_symlink():
            real = path.resolve()
            if not real.is_relative_to(within.root):
                self.not_rollouts.append(Refused(shown(path), f"a symlink that leads out of {shown(within.root)}"))
                return
            path = real
        if path.is_dir():
            self._walk(path, within)
        else:
            self._add(path, within.root)

    def _add(self, path: Path, root: Path) -> None:
        if not _ends_so(path):
            self.not_rollouts.append(Refused(shown(path), f"it ends neither in {' nor in '.join(_SUFFIXES)}"))
        elif not path.is_file():
            self.not_rollouts.append(Refused(shown(path), "no file"))
        elif path.name != _NAME_INDEX:
            self.found[path] = Found(path, (_home_of(path) or root) / _NAME_INDEX)


@dataclass(slots=True)
class _Folder:
    """A folder that is walked through."""

    root: Path
    #: How the names of files in it must begin.
    prefix: str = ""
    walked: set[Path] = field(default_factory=set)


def _ends_so(path: Path) -> bool:
    return path.name.endswith(_SUFFIXES)


def _kept_in(path: Path) -> Path | None:
    """Return the folder of active or archived rollouts in which *path* lies, if it does."""
    return next((folder for folder in path.parents if folder.name in {_SESSIONS, _ARCHIVED}), None)


def _home_of(path: Path) -> Path | None:
    kept_in = _kept_in(path)
    return kept_in.parent if kept_in else None


# -- whose a rollout is ------------------------------------------------------------------------------------


def identify(found: Found, home: Home) -> Source:
    """Say as which thread *found* is imported into *home*, going by its first ``session_meta`` and its name.

    Raises:
        NotRollout: it has no ``session_meta``, or none of the thread that its name says.
        OSError: it cannot be read.
        Internal: it is compressed, and damaged.
        InvalidRequest: its ``session_meta`` is nested deeper than anybody reads.
    """
    named = canonical_thread_id(home.thread_of(found.path) or "")
    with open_rollout(found.path) as file:
        record = _own_meta(file, named)
        changed_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
    meta = record["payload"]
    thread_id = named or as_thread_id(meta["id"])
    created_at = parse_time(meta.get("timestamp")) or parse_time(record.get("timestamp")) or changed_at
    return Source(
        path=found.path,
        names=found.names,
        thread_id=thread_id,
        original_id=meta["id"],
        first=b"" if meta["id"] == thread_id else _own_line(record, created_at),
        target=_target(home, found.path, None if named else home.new_rollout(thread_id, created_at)),
    )


def as_thread_id(text: str) -> str:
    """Return the id under which the thread *text* is imported: itself, or for what is no UUID always the same one."""
    return canonical_thread_id(text) or str(uuid.uuid5(_NAMESPACE, text))


def _own_meta(file: BinaryIO, named: str | None) -> dict[str, Any]:
    """Return the first record with a ``session_meta``, of the thread *named* where the name says one."""
    is_first, other = True, None
    for record in scan_records(file, read_bytes=PAGE_READ_BYTES):
        value = record.value
        if value is None:
            continue
        if is_first and "payload" not in value:
            # Before September 2025 ids were UUIDs; any other record with an id and a time is a log's.
            old = modern_record(value)
            value = old if old and canonical_thread_id(str(value.get("id"))) else {}
        is_first = False
        if value.get("type") == "session_meta" and (id_ := _id_of(value.get("payload"))):
            if named in {None, canonical_thread_id(id_)}:
                return {key: value[key] for key in ("timestamp", "type", "payload") if key in value}
            other = id_
    if other is None:
        raise NotRollout("it has no readable session_meta")
    raise NotRollout(f"its name says the thread {named}, its session_meta says {other[:80]!r}")


def _id_of(meta: Any) -> str | None:
    id_ = meta.get("id") if isinstance(meta, dict) else None
    return id_ if isinstance(id_, str) else None


def _own_line(record: dict[str, Any], created_at: datetime) -> bytes:
    """Return *record*, a ``session_meta``, as the line of the thread as which it is imported.

    It names threads by UUIDs, and does not lack what codex cannot do without.
    """
    needed = {"timestamp": format_time(created_at), "cwd": "", "originator": "", "cli_version": ""}
    return encode_json(record | {"payload": needed | _with_uuids(record["payload"])}) + b"\n"


def _with_uuids(value: Any) -> Any:
    """Return a ``session_meta`` with every thread that it names named by the id under which that is imported."""
    if not isinstance(value, dict):
        return value
    return {
        key: as_thread_id(member)
        if key in _THREAD_KEYS and member and isinstance(member, str)
        else _with_uuids(member)
        for key, member in value.items()
    }


def _target(home: Home, path: Path, renamed: Path | None) -> Path:
    """Return where *path* will lie: archived or not, as it is, and dated by its own name, or as *renamed*."""
    active = renamed or home.active_path(path)
    if renamed and is_compressed(path):
        active = active.with_name(active.name + COMPRESSED_SUFFIX)
    kept_in = _kept_in(path)
    return home.archived_sessions / active.name if kept_in and kept_in.name == _ARCHIVED else active


# -- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a rollout, behind others that are not in it."""

    path: Path
    first: bytes = b""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open them for reading; raises what `open_rollout` does."""
        with open_rollout(self.path) as file:
            if not self.first:
                yield file
                return
            with tempfile.TemporaryFile() as whole:
                whole.write(self.first)
                shutil.copyfileobj(file, whole)
                whole.seek(0)
                yield whole


def shown(path: Path | str) -> str:
    """Return *path*, or what names one, as text that can be printed: a file's name need not be UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def reason_of(error: Exception) -> str:
    """Return what *error* says; of the system's, without the path."""
    return shown((isinstance(error, OSError) and error.strerror) or str(error))
