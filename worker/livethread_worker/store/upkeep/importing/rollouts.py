"""Copies the rollouts of other homes and folders into a home, and indexes them. Sources are never changed.

A thread that the home has is compared with the source by its lines: what the source has more is appended, what it has
less is left, and where the two differ both stay as they are. Each change is made under the thread's lock and is
whole or not there, so an import that was stopped anywhere is completed by the next.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from livethread.errors import ThreadStoreError
from livethread_worker.store.files.compression import copy_rollout, decompress
from livethread_worker.store.files.home import Home, is_compressed, make_directory
from livethread_worker.store.files.locks import LockBusy, file_lock
from livethread_worker.store.files.name_index import set_name
from livethread_worker.store.files.quarantine import keep
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.files.scan import READ_BYTES
from livethread_worker.store.files.sync import sync_directories, sync_now
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.upkeep.importing.plan import Outcome, Plan, Planner
from livethread_worker.store.upkeep.importing.sources import (
    Found,
    Lines,
    NotRollout,
    Refused,
    Search,
    Source,
    identify,
    reason_of,
    shown,
)
from livethread_worker.store.upkeep.rebuild import BATCH_THREADS, RebuildReport, index_batch

logger = logging.getLogger(__name__)

#: How long an import waits, at its end, for a thread's writer before it leaves the thread to the next import.
LOCK_WAIT: Final = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Conflict:
    """A rollout that is not what the home has of its thread."""

    source: str
    rollout: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A rollout that the home has now, or has more of."""

    source: str
    thread_id: str
    outcome: Outcome


@dataclass(slots=True)
class ImportReport:
    """What an import did, or would do."""

    imported: int = 0
    grown: int = 0
    unchanged: int = 0
    indexed: int = 0
    #: Threads that got their name from the source.
    named: int = 0
    threads: list[Taken] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    not_rollouts: list[Refused] = field(default_factory=list)
    #: Threads that a writer held all the time.
    busy: list[Refused] = field(default_factory=list)
    failed: list[Refused] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether every rollout is in the home."""
        return not (self.conflicts or self.busy or self.failed)


def import_rollouts(
    home: Home,
    index: Index,
    search: Search,
    advance: Callable[[int], None] = lambda _: None,
    *,
    dry_run: bool = False,
) -> ImportReport:
    """Bring what *search* found into *home*, and say what became of it; *advance* is told of each file.

    On return everything is durable and, but for what is reported as failed, in the index. A *dry_run* changes nothing.

    Raises:
        LockBusy: another import is at work.
        IndexUnavailable: the index cannot be read.
    """
    if dry_run:
        return _Importer(home, index, search, dry_run=True).run(search, advance)
    with file_lock(home.own / "import.lock"):
        report = _Importer(home, index, search, dry_run=False).run(search, advance)
    counts = {"imported": report.imported, "grown": report.grown, "conflicts": len(report.conflicts)}
    logger.info("rollouts imported", extra={"action": "import", **counts})
    return report


class _Importer:
    """One import: no other one runs."""

    def __init__(self, home: Home, index: Index, search: Search, *, dry_run: bool) -> None:
        self._home, self._index, self._dry_run = home, index, dry_run
        self._report = ImportReport(not_rollouts=list(search.not_rollouts), failed=list(search.failed))
        self._planner = Planner(home)
        self._known = set(index.thread_ids())
        #: Rollouts to be indexed next, and the threads of it of which the index has less.
        self._batch: dict[str, Path] = {}
        self._changed: set[str] = set()

    def run(self, search: Search, advance: Callable[[int], None]) -> ImportReport:
        """Take every file; those whose threads are being written are tried again at the end."""
        busy = []
        for found in search.found.values():
            if not self._try(found, 0.0):
                busy.append(found)
            advance(1)
            if len(self._batch) >= BATCH_THREADS:
                self._index_batch()
        for found in busy:
            if not self._try(found, LOCK_WAIT):
                self._report.busy.append(Refused(shown(found.path), "its thread is being written; import it again"))
        self._index_batch()
        self._report.failed += self._planner.refused_names
        return self._report

    def _try(self, found: Found, wait_s: float) -> bool:
        """Take one file, whatever is wrong with it; return False where its thread is being written."""
        try:
            self._take(found, wait_s)
        except LockBusy:
            return False
        except NotRollout as error:
            self._report.not_rollouts.append(Refused(shown(found.path), str(error)))
        except (OSError, ThreadStoreError) as error:
            self._report.failed.append(Refused(shown(found.path), reason_of(error)))
        return True

    def _take(self, found: Found, wait_s: float) -> None:
        root = self._home.root.resolve()
        if found.path.is_relative_to(root):
            self._take_in_place(found, self._home.root / found.path.relative_to(root))
            return
        source = identify(found, self._home)
        plan = self._planner.plan(source)
        path = plan.ours or source.target
        if not (plan.changes_nothing or self._dry_run):
            with file_lock(self._home.thread_lock(source.thread_id), wait_s=wait_s):
                plan = self._planner.plan(source)  # somebody may have written since
                path = self._carry_out(source, plan)
        self._note(source, plan, path)

    def _take_in_place(self, found: Found, path: Path) -> None:
        thread_id = self._planner.lying.get(path)
        if thread_id is None:
            raise NotRollout("it lies in the home, but not where its rollouts do: move it out, then import it")
        if thread_id in self._known or thread_id in self._batch:
            self._report.unchanged += 1
            return
        if identify(found, self._home).first:
            raise NotRollout(f"its name says the thread {thread_id}, its session_meta spells it in another way")
        self._batch[thread_id] = path
        self._count(found.path, thread_id, Outcome.INDEXED)

    # -- doing it --------------------------------------------------------------------------------------------

    def _carry_out(self, source: Source, plan: Plan) -> Path:
        """Change the files as planned, and return the rollout's path.

        Names go first: a repeated one is harmless, a forgotten one would not be.
        """
        if plan.name is not None:
            set_name(self._home, source.thread_id, plan.name.name, plan.name.at)
        if plan.outcome is Outcome.IMPORTED:
            return self._copy(source)
        assert plan.ours is not None
        return self._append(source, plan, plan.ours) if plan.outcome is Outcome.GROWN else plan.ours

    def _copy(self, source: Source) -> Path:
        target = self._home.resolve(self._home.relative(source.target))
        is_new_folder = not target.parent.is_dir()
        make_directory(target.parent)
        copy_rollout(source.path, target, source.first)
        if is_new_folder:
            sync_directories(target.parent)
        return target

    def _append(self, source: Source, plan: Plan, ours: Path) -> Path:
        """Append what ours lacks; a torn last line of ours that the source does not go on with is set aside."""
        path = decompress(ours) if is_compressed(ours) else ours
        with Lines(source.path, source.first).open() as file, RolloutRecorder.open(path) as recorder:
            if recorder.size != plan.size:
                raise LockBusy(path.name)  # codex before 0.160 takes no lock
            if plan.begin < recorder.size:
                torn = os.pread(recorder.file.fileno(), recorder.size - plan.begin, plan.begin)
                keep(self._home, f"{source.thread_id}-{plan.begin}.torn", torn)
                recorder.size = plan.begin
                recorder.cut()
            file.seek(plan.begin)
            try:
                while chunk := file.read(min(READ_BYTES, plan.end - recorder.size)):
                    recorder.append(chunk)
            except OSError:
                recorder.size = plan.begin
                with suppress(OSError):
                    recorder.cut()
                raise
            stat = os.fstat(file.fileno())
            os.utime(recorder.file.fileno(), ns=(stat.st_atime_ns, stat.st_mtime_ns))
            sync_now(recorder)
        return path

    # -- saying it, and the index ------------------------------------------------------------------------------

    def _note(self, source: Source, plan: Plan, path: Path) -> None:
        if plan.outcome is Outcome.CONFLICT:
            self._report.conflicts.append(Conflict(shown(source.path), shown(path)))
            return
        if plan.name is not None:
            self._report.named += 1
            if self._dry_run:
                self._planner.given[source.thread_id] = plan.name
        self._count(source.path, source.thread_id, plan.outcome)
        if plan.outcome is Outcome.IMPORTED:
            self._planner.ours[source.thread_id] = Lines(source.path, source.first) if self._dry_run else Lines(path)
        if not plan.changes_nothing:
            self._changed.add(source.thread_id)
        if not plan.changes_nothing or source.thread_id not in self._known:
            self._batch[source.thread_id] = path

    def _count(self, path: Path, thread_id: str, outcome: Outcome) -> None:
        setattr(self._report, outcome, getattr(self._report, outcome) + 1)
        if outcome is not Outcome.UNCHANGED:
            self._report.threads.append(Taken(shown(path), thread_id, outcome))

    def _index_batch(self) -> None:
        """Read what has changed into the index; what cannot be read now is in its place, and is read another time."""
        batch, self._batch = self._batch, {}
        self._known |= batch.keys()
        if self._dry_run or not batch:
            return
        read = RebuildReport()
        try:
            busy = index_batch(self._home, self._index, list(batch.items()), read, is_needed=self._is_needed)
            for rollout in busy:
                if index_batch(self._home, self._index, [rollout], read, is_needed=self._is_needed, wait_s=LOCK_WAIT):
                    self._report.busy.append(
                        Refused(shown(rollout[1]), "it is there, but being written: not indexed")
                    )
        except (IndexUnavailable, OSError) as error:
            reason = f"{reason_of(error)}; the rollouts are there: run livethread rebuild"
            self._report.failed.append(Refused(shown(self._home.index), reason))
        self._report.failed += [Refused(name, "it is there, but cannot be indexed") for name in read.unreadable]

    def _is_needed(self, known: ThreadState | None, _path: Path) -> bool:
        """Leave what another process has indexed: it may know more than the file says."""
        return known is None or known.thread_id in self._changed
