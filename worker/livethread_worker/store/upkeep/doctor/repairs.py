"""Keeps a journal of repairs, so that `undo` can restore what they removed from the home.

A line is written before the repair changes anything. If a crash comes in between, undoing that repair changes nothing.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from livethread.errors import ThreadStoreError
from livethread.rollout.lines import encode_json
from livethread_worker.store.files import compression, locks, name_index, quarantine, replacement, sync
from livethread_worker.store.files.home import FILE_MODE, Home, make_directory
from livethread_worker.store.index import Index
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.upkeep.rebuild import read_state

#: How long to wait for a thread's lock.
LOCK_WAIT: Final = 2.0  # seconds


class RepairKind(StrEnum):
    """What a repair did with what is kept."""

    #: The whole file was moved.
    MOVED = "moved"
    #: The end of the file was cut off.
    CUT = "cut"
    #: The file was replaced with a repaired one.
    REPLACED = "replaced"
    #: Lines were removed from the name index.
    NAMES = "names"


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair."""

    kind: RepairKind
    #: Name of the file in the quarantine.
    kept: str
    #: Path of the repaired file, relative to the home.
    path: str
    thread_id: str | None = None
    #: Where the file was cut, or the length of the repaired file.
    size: int = 0
    #: SHA-256 of the repaired file.
    digest: str = ""


def note(home: Home, repair: Repair) -> None:
    """Write *repair* durably to the journal; what it removes is kept already, or is moved next."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(_journal(home), flags, FILE_MODE), "ab") as file:  # noqa: PTH123 - a descriptor
        file.write(encode_json(asdict(repair)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync.sync_directory(home.own)


def move_away(home: Home, path: Path, thread_id: str) -> Path:
    """Move the rollout *path* into the quarantine, and return its new path."""
    target = quarantine.free_path(home, path.name)
    note(home, Repair(RepairKind.MOVED, target.name, home.relative(path), thread_id))
    replacement.move(path, target)
    return target


def cut(home: Home, path: Path, thread_id: str, size: int) -> Path:
    """Cut the plain rollout *path* to *size*; return where the quarantine keeps the rest."""
    with path.open("r+b") as file:
        file.seek(size)
        kept = quarantine.keep(home, f"{thread_id}-{size}.torn", file.read())
        note(home, Repair(RepairKind.CUT, kept.name, home.relative(path), thread_id, size))
        file.truncate(size)
        os.fsync(file.fileno())
    return kept


@contextmanager
def replacing(home: Home, path: Path, thread_id: str) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Yield the plain rollout *path* and the file that replaces it; the quarantine keeps the old one."""
    with path.open("rb") as old, replacement.replacing(path, old.fileno()) as new:
        yield old, new
        new.flush()
        new.seek(0)
        digest = hashlib.sha256(new.read()).hexdigest()
        old.seek(0)
        kept = quarantine.keep(home, path.name, old.read())
        repair = Repair(RepairKind.REPLACED, kept.name, home.relative(path), thread_id, new.tell(), digest)
        note(home, repair)


def forget_names(home: Home, thread_ids: list[str]) -> Path | None:
    """Remove the lines of *thread_ids* from the name index; return where the quarantine keeps them, if there were any."""
    kept: list[Path] = []

    def keep(lines: bytes) -> None:
        kept.append(quarantine.keep(home, "names.jsonl", lines))
        note(home, Repair(RepairKind.NAMES, kept[0].name, home.relative(home.session_index)))

    name_index.forget_names(home, *thread_ids, keep=keep)
    return kept[0] if kept else None


@dataclass(slots=True)
class UndoReport:
    """What `undo` restored."""

    #: Paths relative to the home.
    restored: list[str] = field(default_factory=list)
    #: What stays in the quarantine, and why.
    kept: list[str] = field(default_factory=list)


def undo(home: Home) -> UndoReport:
    """Restore all lines and files that repairs removed, the last repair first. Lines that were added since stay.

    Raises:
        OSError: a file cannot be read or written; a second run continues.
        IndexUnavailable: the index cannot be written.
    """
    report = UndoReport()
    with closing(Index(home)) as index:
        for repair in reversed(_read_journal(home)):
            _undo(home, index, repair, report)
    return report


def _undo(home: Home, index: Index, repair: Repair, report: UndoReport) -> None:
    kept = home.quarantine / repair.kept
    if not kept.exists():  # restored before
        return
    try:
        with ExitStack() as stack:
            if repair.thread_id is not None:
                stack.enter_context(locks.file_lock(home.thread_lock(repair.thread_id), wait_s=LOCK_WAIT))
                index.distrust(repair.thread_id)  # its lines are about to move
            _restore(home, repair, kept)
            kept.unlink(missing_ok=True)
            if repair.thread_id is not None:
                _read_again(home, index, repair.thread_id)
    except locks.LockBusy:
        report.kept.append(f"{home.relative(kept)}: its thread is being written; run this again")
    except (ThreadStoreError, _ChangedError) as error:
        report.kept.append(f"{home.relative(kept)}: {error}")
    else:
        report.restored.append(repair.path)


class _ChangedError(Exception):
    """A repaired file was changed since the repair."""


def _journal(home: Home) -> Path:
    return home.own / "repairs.jsonl"


def _read_journal(home: Home) -> list[Repair]:
    try:
        lines = _journal(home).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    values = [json.loads(line) for line in lines]
    return [Repair(**value | {"kind": RepairKind(value["kind"])}) for value in values]


def _restore(home: Home, repair: Repair, kept: Path) -> None:
    if repair.kind is RepairKind.NAMES:
        name_index.restore_names(home, kept.read_bytes())
        return
    path = home.resolve(repair.path)
    if repair.kind is RepairKind.MOVED:
        if path.exists():
            if not filecmp.cmp(kept, path, shallow=False):
                raise _ChangedError(f"{repair.path} exists")
            return  # a copy of it, with the wrong suffix before another repair
        make_directory(path.parent)
        replacement.move(kept, path)
        return
    assert repair.thread_id is not None
    if not path.exists():
        path = home.require_rollout(repair.thread_id)
    path = compression.plain_form(path)
    content = path.read_bytes()
    whole = _original(repair, kept.read_bytes(), content)
    if not content.startswith(whole):  # otherwise, a crash came after it was restored
        added = content[repair.size :]
        if added and not whole.endswith(b"\n"):
            whole += b"\n"
        with path.open("rb") as file, replacement.replacing(path, file.fileno()) as new:
            new.write(whole + added)


def _original(repair: Repair, kept: bytes, content: bytes) -> bytes:
    """Return what the rollout held before the repair; *content* is what it holds now.

    Raises:
        _ChangedError: another program changed what the repair left.
    """
    left = content[: repair.size]
    if repair.kind is RepairKind.CUT and len(left) == repair.size:
        return left + kept
    if repair.kind is RepairKind.REPLACED and (
        hashlib.sha256(left).hexdigest() == repair.digest or content.startswith(kept)
    ):
        return kept
    raise _ChangedError(f"{repair.path} was changed since the repair; compare the two by hand")


def _read_again(home: Home, index: Index, thread_id: str) -> None:
    with suppress(ThreadStoreError):  # it is damaged as before
        path = home.find_rollout(thread_id)
        state = path and read_state(home, thread_id, path, name_index.read_names(home))
        if state and state.thread is not None:
            index.replace([thread_rows(state, None)])
