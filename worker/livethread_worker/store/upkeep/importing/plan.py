"""Says what is to be done with each rollout of an import, by what a home has of its thread. Nothing is changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from livethread.model import parse_time
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread_worker.store.files.home import Home, other_form
from livethread_worker.store.files.name_index import NameLine, NameReader
from livethread_worker.store.files.scan import READ_BYTES, scan_backward, scan_records
from livethread_worker.store.upkeep.importing.sources import Lines, Refused, Source, reason_of, shown


class Outcome(StrEnum):
    """What becomes of one rollout."""

    IMPORTED = "imported"
    #: The thread was there; the lines that the source has more were appended.
    GROWN = "grown"
    UNCHANGED = "unchanged"
    #: It lies in the home, and the index did not know it.
    INDEXED = "indexed"
    #: The thread is there with other lines.
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with one rollout, by what was seen of it."""

    outcome: Outcome
    #: The thread's rollout in our home; None where there is none.
    ours: Path | None
    name: NameLine | None = None
    #: Where the lines that ours lacks begin and end in the source, and how long ours is.
    begin: int = 0
    end: int = 0
    size: int = 0

    @property
    def changes_nothing(self) -> bool:
        """Whether the home stays as it is."""
        return self.outcome in {Outcome.UNCHANGED, Outcome.CONFLICT} and self.name is None


class Planner:
    """Compares rollouts with what a home has of their threads."""

    def __init__(self, home: Home) -> None:
        self._home = home
        #: What lies in the home.
        self.lying = {path: thread_id for thread_id, path in home.rollouts()}
        #: The rollout of each thread: in the home, or of a dry run, where it would be taken from.
        self.ours: dict[str, Lines] = {}
        for path, thread_id in self.lying.items():
            self.ours.setdefault(thread_id, Lines(path))
        #: The names that a dry run would have given.
        self.given: dict[str, NameLine] = {}
        self._names = NameReader(home.session_index)
        self._their_names: dict[Path, dict[str, NameLine]] = {}
        #: Name indexes that are not used, and why.
        self.refused_names: list[Refused] = []

    def plan(self, source: Source) -> Plan:
        """Say what is to be done with *source*: for certain, while the lock of its thread is held.

        Raises:
            OSError: the one or the other cannot be read.
            Internal: the one or the other is compressed, and damaged.
            InvalidRequest: ours is a symlink.
        """
        ours = self._our_lines(source)
        if ours is None:
            return Plan(Outcome.IMPORTED, None, self._new_name(source, None))
        with ours.open() as one, Lines(source.path, source.first).open() as other:
            size = _size(one)
            begin, end = missing_lines(one, other)
        if begin is None:
            return Plan(Outcome.CONFLICT, ours.path)
        outcome = Outcome.GROWN if begin < end else Outcome.UNCHANGED
        return Plan(outcome, ours.path, self._new_name(source, ours), begin, end, size)

    def _our_lines(self, source: Source) -> Lines | None:
        """Return what the home has of the thread; it may be moved, compressed or made plain at any time."""
        known = self.ours.get(source.thread_id)
        for path in (known.path, other_form(known.path)) if known else (source.target, other_form(source.target)):
            if path.exists():
                return known if known and known.path == path else Lines(path)
        moved = self._home.find_rollout(source.thread_id) if known else None
        return Lines(moved) if moved else None

    def _new_name(self, source: Source, ours: Lines | None) -> NameLine | None:
        """Return the name that the thread gets from the source; None where ours is newer, or was taken away since."""
        names = self._names_beside(source)
        theirs = names.get(source.original_id) or names.get(source.thread_id)
        if theirs is None or theirs.name is None:
            return None
        mine = self.given.get(source.thread_id) or self._names.read().get(source.thread_id)
        if mine is not None:
            return theirs if theirs.at > mine.at and theirs.name != mine.name else None
        given_at = _name_changed_at(ours) if ours else None
        return theirs if given_at is None or given_at < theirs.at else None

    def _names_beside(self, source: Source) -> dict[str, NameLine]:
        if source.names not in self._their_names:
            self._their_names[source.names] = self._read_names(source.names)
        return self._their_names[source.names]

    def _read_names(self, names: Path) -> dict[str, NameLine]:
        try:
            if not names.is_symlink():
                return NameReader(names).read()
            reason = "a symlink"
        except OSError as error:
            reason = reason_of(error)
        self.refused_names.append(Refused(shown(names), f"{reason}: no name is taken from it"))
        return {}


def missing_lines(ours: BinaryIO, theirs: BinaryIO) -> tuple[int | None, int]:
    """Return where what *ours* lacks of *theirs* begins (None: they differ) and ends; the same: it lacks nothing.

    A torn last line counts on neither side, but where the other one goes on with it.
    """
    end = _end_of_good(theirs)
    common = _common_length(ours, theirs)
    if common >= end:
        return end, end
    if common == _size(ours):
        return common, end
    good = _end_of_good(ours)
    return (good if common >= good else None), end


def _end_of_good(file: BinaryIO) -> int:
    """Return where the last line ends that is whole: by its end, or since it is a JSON object without one."""
    size = _size(file)
    last = next(scan_backward(file, size), None)
    return last.offset if last and not last.is_complete and last.value is None else size


def _common_length(one: BinaryIO, other: BinaryIO) -> int:
    one.seek(0)
    other.seek(0)
    length = 0
    while True:
        left, right = one.read(READ_BYTES), other.read(READ_BYTES)
        if left != right or not left:
            return length + _first_difference(left, right)
        length += len(left)


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _name_changed_at(ours: Lines) -> datetime | None:
    """Return when somebody last named the thread in our home, or took its name away."""
    changed_at = None
    with ours.open() as file:
        for record in scan_records(file):
            value = record.value or {}
            payload = value.get("payload")
            if value.get("type") == THREAD_METADATA_TYPE and isinstance(payload, dict) and "name" in payload:
                changed_at = parse_time(value.get("timestamp")) or changed_at
    return changed_at
