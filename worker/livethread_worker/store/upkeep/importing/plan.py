"""Plans the import of each rollout by comparing it with the home. Nothing is changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from livethread.model import parse_time
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread_worker.store.files import scan
from livethread_worker.store.files.home import Home, other_form
from livethread_worker.store.files.name_reader import NameLine, NameReader
from livethread_worker.store.upkeep.importing.sources import Lines, Refusal, Source, reason_of


class Outcome(StrEnum):
    """What an import does with one rollout."""

    IMPORTED = "imported"
    #: The home's rollout got the source's additional lines.
    GROWN = "grown"
    UNCHANGED = "unchanged"
    #: The rollout is in the home, and was missing from the index.
    INDEXED = "indexed"
    #: The home's rollout has different lines.
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Plan:
    """How to import one rollout."""

    outcome: Outcome
    #: The thread's rollout in the home, if it exists.
    ours: Path | None
    #: The name to set, if any.
    name: NameLine | None = None
    #: The range in the source of the lines that ours lacks, and the length of ours when they were compared.
    begin: int = 0
    end: int = 0
    size: int = 0

    @property
    def changes_nothing(self) -> bool:
        """Return whether the files of the home stay unchanged."""
        return self.outcome in {Outcome.UNCHANGED, Outcome.CONFLICT} and self.name is None


class Planner:
    """Compares the rollouts of an import with those of the home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        #: The thread id of each rollout in the home when the import began.
        self.thread_ids = {path: thread_id for thread_id, path in home.rollouts()}
        #: Each rollout in the home, by its id; in a dry run, also those that would be imported.
        self.ours: dict[str, Lines] = {}
        for path in self.thread_ids:
            self.ours.setdefault(home.rollout_id_of(path) or "", Lines(path))
        #: The names that a dry run would have set.
        self.dry_run_names: dict[str, NameLine] = {}
        self._names = NameReader(home.session_index)
        self._their_names: dict[Path, dict[str, NameLine]] = {}
        #: Name indexes that are skipped, and why.
        self.refused_names: list[Refusal] = []

    def plan(self, source: Source) -> Plan:
        """Compare *source* with the home. The plan is reliable only while the caller holds the thread's lock.

        Raises:
            OSError: either rollout cannot be read.
            Internal: either rollout is compressed and damaged.
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
        """Return the same rollout in the home, which may have been moved, compressed or decompressed meanwhile."""
        known = self.ours.get(source.rollout_id)
        for path in (known.path, other_form(known.path)) if known else (source.target, other_form(source.target)):
            if path.exists():
                return known if known and known.path == path else Lines(path)
        moved = self._home.find_rollout_of_id(source.rollout_id) if known else None
        return Lines(moved) if moved else None

    def _new_name(self, source: Source, ours: Lines | None) -> NameLine | None:
        """Return the source's name for the thread, or its removal; None if ours is newer."""
        names = self._names_beside(source)
        theirs = names.get(source.original_id) or names.get(source.thread_id)
        if theirs is None:
            return None
        mine = self.dry_run_names.get(source.thread_id) or self._names.read().get(source.thread_id)
        if mine is not None:
            return theirs if theirs.at > mine.at and theirs.name != mine.name else None
        changed_at = _name_changed_at(ours) if ours else None
        return theirs if changed_at is None or changed_at < theirs.at else None

    def _names_beside(self, source: Source) -> dict[str, NameLine]:
        if source.names not in self._their_names:
            self._their_names[source.names] = self._read_names(source.names)
        return self._their_names[source.names]

    def _read_names(self, names: Path) -> dict[str, NameLine]:
        try:
            if not names.is_symlink():
                return NameReader(names).read()
            reason = "it is a symlink"
        except OSError as error:
            reason = reason_of(error)
        self.refused_names.append(Refusal.of(names, f"{reason}; its names were not imported"))
        return {}


def missing_lines(ours: BinaryIO, theirs: BinaryIO) -> tuple[int | None, int]:
    """Return the range of *theirs* that *ours* lacks, empty if it lacks nothing. A begin of None: they differ.

    A torn last line of either is ignored unless the other continues it.
    """
    end = _end_of_good(theirs)
    common = scan.common_length(ours, theirs)
    if common >= end:
        return end, end
    if common == _size(ours):
        return common, end
    good = _end_of_good(ours)
    return (good if common >= good else None), end


def _end_of_good(file: BinaryIO) -> int:
    """Return the end of the last complete line; a JSON object without a line end is complete, too."""
    size = _size(file)
    last = next(scan.scan_backward(file, size), None)
    return last.offset if last and not last.is_complete and last.value is None else size


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _name_changed_at(ours: Lines) -> datetime | None:
    """Return when an explicit patch last set or cleared the thread's name in the home."""
    changed_at = None
    with ours.open() as file:
        for record in scan.scan_records(file):
            value = record.value or {}
            payload = value.get("payload")
            if value.get("type") == THREAD_METADATA_TYPE and isinstance(payload, dict) and "name" in payload:
                changed_at = parse_time(value.get("timestamp")) or changed_at
    return changed_at
