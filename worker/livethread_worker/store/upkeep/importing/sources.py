"""Finds the rollouts of an import and identifies their threads. Nothing is changed.

A home is searched where codex keeps rollouts, any other folder for every file with a rollout's suffix. Symlinks that
lead out of the given path are not followed.
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
from typing import Any, BinaryIO, Final, Self

from livethread.model import format_time, parse_time
from livethread.rollout import lines, old_forms
from livethread.thread_id import canonical_thread_id
from livethread_worker.store.files import compression, scan
from livethread_worker.store.files.home import COMPRESSED_SUFFIX, Home, is_compressed, shown

#: Namespace of the UUIDs for ids that are not UUIDs. Never change it: imported threads would be imported again.
_NAMESPACE: Final = uuid.UUID("6f5b3a52-0c1d-5e6f-9a53-6c6976657468")

#: Fields of a ``session_meta`` that hold thread ids.
_THREAD_ID_FIELDS: Final = frozenset({"id", "session_id", "forked_from_id", "parent_thread_id"})

_SESSIONS: Final = "sessions"
_ARCHIVED: Final = "archived_sessions"
_NAME_INDEX: Final = "session_index.jsonl"
_SUFFIXES: Final = (".jsonl", ".jsonl" + COMPRESSED_SUFFIX)
_WRONG_SUFFIX: Final = f"its name does not end in {' or '.join(_SUFFIXES)}: rename it"


class NotRollout(Exception):
    """A file is not a rollout that can be imported."""

    #: Whether it holds a conversation nevertheless.
    holds_conversation = False


class LeftOut(NotRollout):
    """A file holds a conversation, or may hold one, and cannot be imported; the message says what to do."""

    holds_conversation = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file or folder that was not imported, why, and what to do."""

    path: str
    reason: str

    @classmethod
    def of(cls, path: Path, reason: Exception | str) -> Self:
        """Return the refusal of *path*, with its name as printable text."""
        return cls(shown(path), reason_of(reason) if isinstance(reason, Exception) else reason)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be a rollout."""

    #: With symlinks resolved.
    path: Path
    #: The name index of its home or folder, which need not exist.
    names: Path
    #: Whether it lies among archived rollouts.
    is_archived: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A rollout to import, and its thread."""

    path: Path
    names: Path
    thread_id: str
    #: The thread's id, unless codex's ``thread/revert`` began the rollout.
    rollout_id: str
    #: The thread's id as spelled in the rollout.
    original_id: str
    #: The line to put first if the rollout spells the id differently; else empty.
    first: bytes
    #: Its path in the home after the import.
    target: Path


@dataclass(slots=True)
class _Folder:
    """The state of a walk through a folder."""

    root: Path
    #: The home of which it is a folder of rollouts, and whether these are archived.
    home: Path | None = None
    is_archived: bool = False
    walked: set[Path] = field(default_factory=set)


@dataclass(slots=True)
class Search:
    """Collects the files to import."""

    found: dict[Path, Candidate] = field(default_factory=dict)
    not_rollouts: list[Refusal] = field(default_factory=list)
    #: Files and folders that may hold conversations.
    left_out: list[Refusal] = field(default_factory=list)
    #: Files and folders that cannot be read.
    failed: list[Refusal] = field(default_factory=list)

    def look(self, path: Path) -> None:
        """Collect the files of a home or a folder, or a single file."""
        try:
            self._look(path.resolve())
        except (OSError, RuntimeError) as error:
            self.failed.append(Refusal.of(path, error))

    def _look(self, root: Path) -> None:
        kept = [folder for name in (_SESSIONS, _ARCHIVED) if (folder := root / name).is_dir()]
        if not root.is_dir():
            self._add_file(root)
        elif not kept:
            self._walk(root, _Folder(root))
        for folder in kept:
            within = _Folder(root, root, is_archived=folder.name == _ARCHIVED)
            if Home(root).is_linked(folder):
                within.root = folder.resolve()
            self._enter(folder, within)

    def _walk(self, folder: Path, within: _Folder) -> None:
        if folder in within.walked:
            return
        within.walked.add(folder)
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            self.failed.append(Refusal.of(folder, error))
            return
        for path in paths:
            try:
                if path.is_dir() or _has_rollout_suffix(path):
                    self._enter(path, within)
                elif path.name.startswith("rollout-"):
                    self.left_out.append(Refusal.of(path, _WRONG_SUFFIX))
            except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks before Python 3.13
                self.failed.append(Refusal.of(path, error))

    def _enter(self, path: Path, within: _Folder) -> None:
        if path.is_symlink():
            real = path.resolve()
            if not real.is_relative_to(within.root):
                reason = f"it is a symlink that leads out of {shown(within.root)}: import its target"
                self.left_out.append(Refusal.of(path, reason))
                return
            path = real
        if path.is_dir():
            self._walk(path, within)
        else:
            self._add(path, within)

    def _add_file(self, path: Path) -> None:
        """Add a single file that the user named."""
        if _has_rollout_suffix(path):
            self._add(path, _Folder(path.parent))
        else:
            self.left_out.append(Refusal.of(path, _WRONG_SUFFIX))

    def _add(self, path: Path, within: _Folder) -> None:
        if not path.is_file():
            self.not_rollouts.append(Refusal.of(path, "it is not a regular file"))
        elif path.name != _NAME_INDEX:
            kept_in = _kept_in(path)
            home = within.home or (kept_in.parent if kept_in else within.root)
            is_archived = within.is_archived or (kept_in is not None and kept_in.name == _ARCHIVED)
            self.found[path] = Candidate(path, home / _NAME_INDEX, is_archived=is_archived)


def _has_rollout_suffix(path: Path) -> bool:
    return path.name.endswith(_SUFFIXES)


def _kept_in(path: Path) -> Path | None:
    """Return the folder of active or archived rollouts that contains *path*, if any."""
    return next((folder for folder in path.parents if folder.name in {_SESSIONS, _ARCHIVED}), None)


# -- whose a rollout is ------------------------------------------------------------------------------------


def identify(found: Candidate, home: Home) -> Source:
    """Identify the thread of *found* by its name and its first ``session_meta``, or by its name if there is none.

    Raises:
        LeftOut: neither tells whose conversation it is.
        NotRollout: it holds no conversation.
        OSError: it cannot be read.
        Internal: it is compressed and damaged.
        InvalidRequest: its ``session_meta`` is nested too deeply.
    """
    named = canonical_thread_id(home.thread_of(found.path) or "")
    with compression.open_rollout(found.path) as file:
        record = _own_meta(file, named, found.path)
        changed_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
    path = compression.right_name(found.path)
    if record is None:
        assert named is not None
        target = _target(home, path, None, is_archived=found.is_archived)
        rollout_id = home.rollout_id_of(found.path) or named
        return Source(found.path, found.names, named, rollout_id, original_id=named, first=b"", target=target)
    meta = record["payload"]
    thread_id = named or as_thread_id(meta["id"])
    created_at = parse_time(meta.get("timestamp")) or parse_time(record.get("timestamp")) or changed_at
    renamed = None if named else home.new_rollout(thread_id, created_at)
    return Source(
        path=found.path,
        names=found.names,
        thread_id=thread_id,
        rollout_id=(home.rollout_id_of(found.path) if named else None) or thread_id,
        original_id=meta["id"],
        first=b"" if meta["id"] == thread_id else _own_line(record, created_at),
        target=_target(home, path, renamed, is_archived=found.is_archived),
    )


def as_thread_id(text: str) -> str:
    """Return the canonical form of the UUID *text*, or a UUID that is always the same for another *text*."""
    return canonical_thread_id(text) or str(uuid.uuid5(_NAMESPACE, text))


def _own_meta(file: BinaryIO, named: str | None, path: Path) -> dict[str, Any] | None:
    """Return the first record with a ``session_meta``, of the thread *named* unless that is None.

    None if the file names its thread and has items, but no ``session_meta``.
    """
    is_first, other, has_items = True, None, False
    for record in scan.scan_records(file):
        value = record.value
        if value is None:
            continue
        if is_first and "payload" not in value:
            # Old rollouts, before September 2025, have UUIDs; other records with an id and a time are from logs.
            old = old_forms.modern_record(value)
            value = old if old and canonical_thread_id(str(value.get("id"))) else value
        is_first = False
        if value.get("type") == "session_meta" and (id_ := _id_of(value.get("payload"))):
            if named in {None, canonical_thread_id(id_)}:
                return {key: value[key] for key in ("timestamp", "type", "payload") if key in value}
            other = id_
        has_items = has_items or _is_item(value)
    if other is not None:
        reason = f"its name has the thread id {named}, but its session_meta {other[:80]!r}"
        raise LeftOut(f"{reason}: rename it to rollout-<time>-<thread id>.jsonl")
    if has_items and named:
        return None
    if has_items:
        raise LeftOut("it has no readable session_meta: rename it to rollout-<time>-<thread id>.jsonl")
    if path.name.startswith("rollout-") and file.seek(0, os.SEEK_END):
        raise LeftOut("no line of it can be read: convert it to UTF-8, or get it from a backup")
    raise NotRollout("it has no readable session_meta")


def _is_item(value: dict[str, Any]) -> bool:
    """Whether a record is an item, in today's or in the old form."""
    if "payload" in value:
        return isinstance(value.get("type"), str)
    return (old_forms.modern_record(value) or {}).get("type") == "response_item"


def _id_of(meta: Any) -> str | None:
    id_ = meta.get("id") if isinstance(meta, dict) else None
    return id_ if isinstance(id_, str) else None


def _own_line(record: dict[str, Any], created_at: datetime) -> bytes:
    """Return the ``session_meta`` *record* as a line with UUIDs as thread ids and with all fields that codex requires."""
    needed = {"timestamp": format_time(created_at), "cwd": "", "originator": "", "cli_version": ""}
    return lines.encode_json(record | {"payload": needed | _with_uuids(record["payload"])}) + b"\n"


def _with_uuids(value: Any) -> Any:
    """Return the value of a ``session_meta`` with each thread id replaced as by `as_thread_id`."""
    if not isinstance(value, dict):
        return value
    return {
        key: as_thread_id(member)
        if key in _THREAD_ID_FIELDS and member and isinstance(member, str)
        else _with_uuids(member)
        for key, member in value.items()
    }


def _target(home: Home, path: Path, renamed: Path | None, *, is_archived: bool) -> Path:
    """Return the path of *path* in the home, under its own name or *renamed*; archived if the source is."""
    active = renamed or home.active_path(path)
    if renamed and is_compressed(path):
        active = active.with_name(active.name + COMPRESSED_SUFFIX)
    return home.archived_sessions / active.name if is_archived else active


# -- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a rollout, with other lines before them."""

    path: Path
    first: bytes = b""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the lines for reading; raises the errors of `open_rollout`."""
        with compression.open_rollout(self.path) as file:
            if not self.first:
                yield file
                return
            with tempfile.TemporaryFile() as whole:
                whole.write(self.first)
                shutil.copyfileobj(file, whole)
                whole.seek(0)
                yield whole


def reason_of(error: Exception) -> str:
    """Return the message of *error*, without the path if it is an `OSError`."""
    return shown((isinstance(error, OSError) and error.strerror) or str(error))
