"""Examines a home: its index, each thread under its lock, then names and rows without a thread.

Workers may keep writing. Nothing is changed unless *fix* is set.
"""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from livethread import errors, types
from livethread.rollout.lines import encode_json
from livethread_worker.store.files import locks, name_index, quarantine
from livethread_worker.store.files.home import COMPRESSED_SUFFIX, DIRECTORY_MODE, FILE_MODE, Home, is_text, shown
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.index.database import BUSY_TIMEOUT, is_damaged, set_aside
from livethread_worker.store.upkeep.doctor import repairs
from livethread_worker.store.upkeep.doctor.examine_thread import ThreadExamination
from livethread_worker.store.upkeep.doctor.faults import DoctorReport, Fault, FaultKind
from livethread_worker.store.upkeep.doctor.full_text import BeyondRepairError, stale_full_texts
from livethread_worker.store.upkeep.rebuild import rebuild

#: How long to wait for a lock before a thread is left out.
LOCK_WAIT: Final = 2.0  # seconds

#: Permissions of the group and of other users.
_OTHERS_MODE: Final = 0o077


def examine(home: Home, *, fix: bool, advance: Callable[[int], None] = lambda _: None) -> DoctorReport:
    """Return the faults of *home* after repairing them if *fix* is set; call *advance* after each thread.

    Everything removed goes to the quarantine, except originals of threads that another program deleted. A second
    examination of a repaired home finds no fault.

    Raises:
        IndexUnavailable: the index stayed locked.
        LockBusy: another process sets the index aside.
        OSError: the home cannot be read, or, with *fix*, cannot be written.
    """
    examination = HomeExamination(home, fix=fix)
    examination.run(advance)
    return examination.report


@dataclass(slots=True)
class HomeExamination:
    """Finds the faults of a home, and repairs them if *fix* is set."""

    home: Home
    fix: bool
    report: DoctorReport = field(default_factory=DoctorReport)

    def run(self, advance: Callable[[int], None]) -> None:
        """Examine everything."""
        self._examine_entries()
        self._examine_permissions()
        for thread_id, path in self.home.unfinished_copies():
            self._examine_copy(thread_id, path)
        index = self._examine_index()
        try:
            rollouts: dict[str, list[Path]] = defaultdict(list)
            for thread_id, path in self.home.rollouts():
                rollouts[thread_id].append(path)
            names = name_index.NameCache(self.home)
            for thread_id, paths in rollouts.items():
                self._examine_thread(index, names, thread_id, paths)
                advance(1)
            # Some rollouts may be in the quarantine by now.
            known = {thread_id for thread_id, paths in rollouts.items() if any(path.exists() for path in paths)}
            if index is not None:
                for thread_id in index.thread_ids():
                    if thread_id not in known:
                        self._examine_row(index, thread_id)
            self._examine_names(known)
            self._examine_originals(known)
            # Once more, since a repair may have uncovered other faults.
            if index is not None and self.fix and (problem := self._examine_full_texts()):
                self._add_fault(FaultKind.DAMAGED_INDEX, self.home.index, problem)
        finally:
            if index is not None:
                index.close()

    def _examine_copy(self, thread_id: str, path: Path) -> None:
        with self._locked(thread_id) as is_locked:
            if is_locked and path.exists():  # no process is writing it
                fault = self._add_fault(FaultKind.UNFINISHED_COPY, path, "a crash left it incomplete", thread_id)
                if self.fix:
                    path.unlink()
                    fault.repair = "removed"

    def _examine_thread(
        self, index: Index | None, names: name_index.NameCache, thread_id: str, paths: list[Path]
    ) -> None:
        self.report.threads += 1
        with self._locked(thread_id) as is_locked:
            if not is_locked:
                return
            present = [path for path in paths if path.exists()]
            if not present:  # moved or deleted since it was listed
                found = self.home.find_rollout(thread_id)
                present = [found] if found else []
            if present:
                examination = ThreadExamination(self.home, index, names, thread_id, self.report.faults, fix=self.fix)
                examination.examine(present)

    def _examine_index(self) -> Index | None:
        """Return the index; None if it is missing or damaged and was not rebuilt."""
        home, problem = self.home, _index_problem(self.home)
        if problem is None and home.index.exists():
            # Before the threads, since damaged full text prevents their repair.
            problem = self._examine_full_texts()
        if problem is None:
            return Index(home) if home.index.exists() else None
        fault = self._add_fault(FaultKind.DAMAGED_INDEX, home.index, problem)
        if not self.fix:
            return None
        fault.repair = "rebuilt from the rollouts"
        with locks.file_lock(home.index.with_suffix(".lock"), wait_s=LOCK_WAIT):
            if home.index.exists():
                set_aside(home, problem)
                fault.repair += f"; the old one is kept in {home.relative(home.quarantine)}"
        index = Index(home)
        rebuild(home, index)
        return index

    def _examine_row(self, index: Index, thread_id: str) -> None:
        """Examine a thread that has a row in the index, and no rollout."""
        home = self.home
        with self._locked(thread_id) as is_locked:
            thread = index.read_thread(thread_id)
            if not is_locked or thread is None or thread.rollout_path is None or home.find_rollout(thread_id):
                return  # deleted or created since the listing
            fault = self._add_fault(
                FaultKind.ROW_WITHOUT_FILE, thread.rollout_path, "it is gone, but in the index", thread_id
            )
            if self.fix:
                kept = quarantine.keep(home, f"{thread_id}.row.json", encode_json(thread.model_dump(mode="json")))
                index.commit((), [thread_id])
                fault.repair = f"row kept in {home.relative(kept)}"

    def _examine_names(self, known: Container[str]) -> None:
        home = self.home
        orphan_ids = [id_ for id_ in name_index.read_names(home) if id_ not in known and not _has_rollout(home, id_)]
        faults = [
            self._add_fault(FaultKind.NAME_WITHOUT_THREAD, home.session_index, f"no rollout has the id {thread_id!r}")
            for thread_id in orphan_ids
        ]
        if self.fix and orphan_ids:
            kept = repairs.forget_names(home, orphan_ids)
            for fault in faults:
                fault.repair = f"name kept in {home.relative(kept)}" if kept else "removed meanwhile"

    def _examine_originals(self, known: Container[str]) -> None:
        """Examine the originals of threads without a rollout: another program deleted it.

        Skipped while the whole folder of rollouts is missing, as when a disk is not mounted.
        """
        home = self.home
        is_there = home.originals.is_dir() and home.sessions.is_dir()
        for path in sorted(home.originals.iterdir()) if is_there else ():
            thread_id = home.thread_of(path)
            if thread_id is None or thread_id in known:
                continue
            with self._locked(thread_id) as is_locked:
                if not is_locked or home.find_rollout(thread_id) is not None:
                    continue
                fault = self._add_fault(FaultKind.ORIGINAL_WITHOUT_FILE, path, "its rollout is gone", thread_id)
                if self.fix:
                    path.unlink(missing_ok=True)
                    fault.repair = "deleted, as its rollout was"

    def _examine_full_texts(self) -> str | None:
        """Examine the full texts; return what is wrong with them if only a rebuild of the whole index can help."""
        try:
            problems = stale_full_texts(self.home.index, fix=self.fix)
        except IndexUnavailable:
            self.report.busy.append(self.home.relative(self.home.index))
            return None
        except BeyondRepairError as error:
            return str(error)
        for problem in problems:
            fault = self._add_fault(FaultKind.STALE_FULL_TEXT, self.home.index, problem)
            if self.fix:
                fault.repair = "rebuilt from the index"
        return None

    def _examine_permissions(self) -> None:
        for path in _private_paths(self.home):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # moved or deleted since it was listed
                continue
            if not mode & _OTHERS_MODE or path.is_symlink():
                continue
            detail = f"other users have access: mode {mode & 0o777:04o}"
            fault = self._add_fault(FaultKind.BAD_PERMISSIONS, path, detail)
            if self.fix:
                path.chmod(DIRECTORY_MODE if path.is_dir() else FILE_MODE)
                fault.repair = "only the owner has access now"

    def _examine_entries(self) -> None:
        """Report files among the rollouts that are not rollouts."""
        for folder in (self.home.sessions, self.home.archived_sessions):
            if folder.is_symlink() and not self.home.is_within(folder):
                self._add_link_out(folder)
            elif folder.exists() or folder.is_symlink():
                self._examine_folder(folder)

    def _examine_folder(self, folder: Path) -> None:
        try:
            with os.scandir(folder) as entries:
                by_name = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._add_fault(FaultKind.UNREADABLE_FILE, folder, error.strerror or str(error))
            return
        for entry in by_name:
            path = Path(entry)
            if self.home.thread_of(path) or self.home.copied_thread(path):
                continue
            if entry.is_symlink() and not self.home.is_within(path):
                self._add_link_out(path)
            elif entry.is_dir(follow_symlinks=False) and is_text(entry.name):
                self._examine_folder(path)
            else:
                self._add_fault(FaultKind.UNRECOGNIZED_FILE, path, _reason(entry))

    def _add_link_out(self, path: Path) -> None:
        detail = f"it leads to {os.path.realpath(path)}; it is kept: remove it, or import its target"
        self._add_fault(FaultKind.LINK_OUT, path, detail)

    @contextmanager
    def _locked(self, thread_id: str) -> Iterator[bool]:
        """Hold the thread's lock and yield True; yield False, and report the thread as busy, if it stays held."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locks.file_lock(self.home.thread_lock(thread_id), wait_s=LOCK_WAIT))
            except locks.LockBusy:
                self.report.busy.append(thread_id)
                yield False
            else:
                yield True

    def _add_fault(self, kind: FaultKind, path: Path, detail: str, thread_id: str | None = None) -> Fault:
        relative = "." if path == self.home.root else shown(self.home.relative(path))
        fault = Fault(kind, relative, detail, thread_id)
        self.report.faults.append(fault)
        return fault


def _index_problem(home: Home) -> str | None:
    """Return what is wrong with the file of the index; None if it is sound, or missing in a home without rollouts.

    Raises:
        IndexUnavailable: it cannot be checked now, for example because it is locked.
    """
    if not home.index.exists():
        return "it is missing" if any(home.rollouts()) else None
    try:
        uri = f"file:{quote(str(home.index))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT)) as connection:
            [[answer]] = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damaged(error):
            raise IndexUnavailable(f"the index: {error}") from error
        return str(error)
    return None if answer == "ok" else str(answer)


def _has_rollout(home: Home, thread_id: str) -> bool:
    """Return whether *thread_id*, which may be any text in the name index, has a rollout by now."""
    try:
        return home.find_rollout(types.ReadThreadParams(thread_id=thread_id).thread_id) is not None
    except errors.InvalidRequest:
        return False


def _reason(entry: os.DirEntry[str]) -> str:
    """Return why *entry* is not a rollout, and what to do."""
    if entry.is_symlink():
        return "it is a symlink, which is not followed: remove it"
    if not is_text(entry.name):
        return "its name is not UTF-8: rename it"
    if not entry.name.endswith((".jsonl", f".jsonl{COMPRESSED_SUFFIX}")):
        return "its name is not a rollout's: move it out"
    return "its name is not rollout-<time>-<thread id>.jsonl: move it out, then run livethread import on it"


def _private_paths(home: Home) -> Iterator[Path]:
    """Yield the files and folders to which only the owner should have access."""
    index = (home.index.with_name(home.index.name + suffix) for suffix in ("", "-wal", "-shm"))
    folders = (
        home.root,
        home.sessions,
        home.archived_sessions,
        home.locks,
        home.own,
        home.quarantine,
        home.originals,
    )
    for path in (*folders, home.session_index, *index):
        if path.exists():
            yield path
    yield from (folder for folder in home.rollout_folders() if folder not in folders)
    for _, path in home.rollouts():
        yield path
