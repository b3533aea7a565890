"""Copies the rollouts of other homes and folders into a home, and indexes them. Sources are never changed.

If the home has the thread, its lines are compared with the source: additional lines of the source are appended,
additional lines of the home stay, and if they differ, neither changes. Each change is made under the thread's lock,
completely or not at all, so the next import completes one that was interrupted.
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
from livethread_worker.store.files import compression, locks, name_index, originals, quarantine, rewritten, scan, sync
from livethread_worker.store.files.home import Home, is_compressed, make_directory, other_form, shown
from livethread_worker.store.files.identity import find_identity, recall_deployment
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.index import Index, IndexUnavailable
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.upkeep.importing.plan import Outcome, Plan, Planner
from livethread_worker.store.upkeep.importing.sources import (
    Candidate,
    LeftOut,
    Lines,
    NotRollout,
    Refusal,
    Search,
    Source,
    identify,
    reason_of,
)
from livethread_worker.store.upkeep.rebuild import BATCH_THREADS, RebuildReport, index_batch

logger = logging.getLogger(__name__)

#: How long to wait for a thread's lock, on the second try, before the thread is left to the next import.
LOCK_WAIT: Final = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Conflict:
    """A rollout whose lines differ from those in the home."""

    source: str
    rollout: str


@dataclass(frozen=True, slots=True)
class ImportedThread:
    """A rollout that was copied, appended or indexed."""

    source: str
    thread_id: str
    outcome: Outcome


@dataclass(slots=True)
class ImportReport:
    """What an import did, or a dry run would do."""

    imported: int = 0
    grown: int = 0
    unchanged: int = 0
    indexed: int = 0
    #: Threads that got a name from the source.
    named: int = 0
    threads: list[ImportedThread] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    #: Files that hold no conversation.
    not_rollouts: list[Refusal] = field(default_factory=list)
    #: Files that hold a conversation, or may hold one, and what to do about them.
    left_out: list[Refusal] = field(default_factory=list)
    #: Rollouts of threads whose locks stayed held.
    busy: list[Refusal] = field(default_factory=list)
    failed: list[Refusal] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Return whether every conversation is in the home."""
        return not (self.conflicts or self.left_out or self.busy or self.failed)


def import_rollouts(
    home: Home,
    index: Index,
    search: Search,
    advance: Callable[[int], None] = lambda _: None,
    *,
    dry_run: bool = False,
) -> ImportReport:
    """Import the files of *search* into *home*; call *advance* after each file. A *dry_run* changes nothing.

    On return everything imported is durable and, unless reported otherwise, in the index.

    Raises:
        LockBusy: another import is running.
        IndexUnavailable: the index cannot be read.
        InvalidRequest: the file with the home's identity is damaged.
    """
    if dry_run:
        return _Importer(home, index, search, dry_run=True).run(search, advance)
    with locks.file_lock(home.own / "import.lock"):
        report = _Importer(home, index, search, dry_run=False).run(search, advance)
    counts = {"imported": report.imported, "grown": report.grown, "conflicts": len(report.conflicts)}
    logger.info("rollouts imported", extra={"action": "import", **counts})
    return report


class _Importer:
    """The state of one import."""

    def __init__(self, home: Home, index: Index, search: Search, *, dry_run: bool) -> None:
        self._home, self._index, self._dry_run = home, index, dry_run
        self._report = ImportReport(
            not_rollouts=list(search.not_rollouts), left_out=list(search.left_out), failed=list(search.failed)
        )
        self._planner = Planner(home)
        self._identity = find_identity(home)
        self._deployment = recall_deployment(home, self._identity)
        self._known = set(index.thread_ids())
        #: Rollouts to index in the next transaction.
        self._batch: dict[str, Path] = {}
        #: Threads that this import has changed.
        self._changed: set[str] = set()

    def run(self, search: Search, advance: Callable[[int], None]) -> ImportReport:
        """Import every file; retry those with busy threads at the end."""
        busy = []
        for found in search.found.values():
            if not self._try(found, 0.0):
                busy.append(found)
            advance(1)
            if len(self._batch) >= BATCH_THREADS:
                self._index_batch()
        for found in busy:
            if not self._try(found, LOCK_WAIT):
                self._report.busy.append(Refusal.of(found.path, "its thread is busy; import it again"))
        self._index_batch()
        self._index_heirs()
        self._report.failed += self._planner.refused_names
        return self._report

    def _try(self, found: Candidate, wait_s: float) -> bool:
        """Import one file or report its error; return False if its thread is busy."""
        try:
            self._import(found, wait_s)
        except locks.LockBusy:
            return False
        except NotRollout as error:
            refused = self._report.left_out if error.holds_conversation else self._report.not_rollouts
            refused.append(Refusal.of(found.path, str(error)))
        except (OSError, ThreadStoreError) as error:
            self._report.failed.append(Refusal.of(found.path, error))
        return True

    def _import(self, found: Candidate, wait_s: float) -> None:
        if (path := self._home.spelled(found.path)) is not None:
            self._index_in_place(found, path)
            return
        source = identify(found, self._home)
        self._require_own(source.thread_id)
        plan = self._planner.plan(source)
        path = plan.ours or source.target
        if not (plan.changes_nothing or self._dry_run):
            with locks.file_lock(self._home.thread_lock(source.thread_id), wait_s=wait_s):
                plan = self._planner.plan(source)  # again: the thread may have changed before it was locked
                path = self._carry_out(source, plan)
        self._record(source, plan, path)

    def _require_own(self, thread_id: str) -> None:
        """Check that no other home of the deployment serves the thread's shard: no client would look for the thread here.

        Raises:
            LeftOut: another home serves it.
        """
        if self._deployment is None or self._identity is None:
            return
        shard = self._deployment.shard_of(thread_id)
        home = self._deployment.home_of.get(shard)
        if home is not None and home.id != self._identity.id:
            raise LeftOut(f"its shard {shard} is served by the home {home}: import it there")

    def _index_in_place(self, found: Candidate, path: Path) -> None:
        thread_id = self._planner.thread_ids.get(path)
        if thread_id is None:
            identify(found, self._home)
            raise LeftOut("it is in the home, but its name is not a rollout's: move it out, then import it")
        if thread_id in self._known or thread_id in self._batch:
            self._report.unchanged += 1
            return
        if identify(found, self._home).first:
            reason = f"its name has the thread id {thread_id}, but its session_meta spells the id differently"
            raise LeftOut(f"{reason}: move it out, then import it")
        self._batch[thread_id] = path
        self._count(found.path, thread_id, Outcome.INDEXED)

    # -- changing files --------------------------------------------------------------------------------------

    def _carry_out(self, source: Source, plan: Plan) -> Path:
        """Change the files as planned, and return the rollout's path.

        The name is set first: setting it twice is harmless, losing it is not.
        """
        if plan.name is not None:
            name_index.set_name(self._home, source.thread_id, plan.name.name, plan.name.at)
        if plan.outcome is Outcome.IMPORTED:
            return self._copy(source)
        assert plan.ours is not None
        return self._append(source, plan, plan.ours) if plan.outcome is Outcome.GROWN else plan.ours

    def _copy(self, source: Source) -> Path:
        target = self._home.resolve(self._home.relative(source.target))
        is_new_folder = not target.parent.is_dir()
        make_directory(target.parent)
        self._copy_original(source, target)
        compression.copy_rollout(source.path, target, source.first)
        if is_new_folder:
            sync.sync_directories(target.parent)
        return target

    def _copy_original(self, source: Source, target: Path) -> None:
        """Copy the original of a rollout that codex rewrote, if its home has not carried it over yet.

        It is copied before its rollout, so that after a crash, the next import finds neither, or copies both again.
        """
        original = originals.find(Home(source.names.parent), source.path)
        if original is None or source.first:  # a home of ours spells ids as we do
            return
        with compression.open_rollout(source.path) as file:
            if not rewritten.is_paginated(file):
                return
        originals.forget(self._home, target)
        kept = self._home.originals / target.name
        compression.copy_rollout(
            original, kept if is_compressed(original) == is_compressed(kept) else other_form(kept)
        )

    def _append(self, source: Source, plan: Plan, ours: Path) -> Path:
        """Append the lines that ours lacks; quarantine a torn last line of ours that the source does not continue."""
        path = compression.plain_form(ours)
        with Lines(source.path, source.first).open() as file, RolloutRecorder.open(path) as recorder:
            if recorder.size != plan.size:
                raise locks.LockBusy(path.name)  # codex before 0.160 writes without the lock
            if plan.begin < recorder.size:
                torn = os.pread(recorder.file.fileno(), recorder.size - plan.begin, plan.begin)
                quarantine.keep(self._home, f"{source.thread_id}-{plan.begin}.torn", torn)
                recorder.size = plan.begin
                recorder.cut()
            file.seek(plan.begin)
            try:
                while chunk := file.read(min(scan.READ_BYTES, plan.end - recorder.size)):
                    recorder.append(chunk)
            except OSError:
                recorder.size = plan.begin
                with suppress(OSError):
                    recorder.cut()
                raise
            stat = os.fstat(file.fileno())
            os.utime(recorder.file.fileno(), ns=(stat.st_atime_ns, stat.st_mtime_ns))
            sync.sync_now(recorder)
        return path

    # -- the report and the index ------------------------------------------------------------------------------

    def _record(self, source: Source, plan: Plan, path: Path) -> None:
        if plan.outcome is Outcome.CONFLICT:
            self._report.conflicts.append(Conflict(shown(source.path), shown(path)))
            return
        if plan.name is not None:
            self._report.named += plan.name.name is not None
            if self._dry_run:
                self._planner.dry_run_names[source.thread_id] = plan.name
        self._count(source.path, source.thread_id, plan.outcome)
        if plan.outcome is Outcome.IMPORTED:
            self._planner.ours[source.rollout_id] = Lines(source.path, source.first) if self._dry_run else Lines(path)
        if not plan.changes_nothing:
            self._changed.add(source.thread_id)
        if not plan.changes_nothing or source.thread_id not in self._known:
            self._batch[source.thread_id] = path

    def _count(self, path: Path, thread_id: str, outcome: Outcome) -> None:
        setattr(self._report, outcome, getattr(self._report, outcome) + 1)
        if outcome is not Outcome.UNCHANGED:
            self._report.threads.append(ImportedThread(shown(path), thread_id, outcome))

    def _index_batch(self) -> None:
        """Index the changed rollouts; after an error they are in the home, and can be indexed later."""
        # Several rollouts may have been imported of a thread that codex reverted.
        batch = {thread_id: self._home.live_rollout(path) for thread_id, path in self._batch.items()}
        self._batch = {}
        self._known |= batch.keys()
        if self._dry_run or not batch:
            return
        read = RebuildReport()
        try:
            busy = index_batch(self._home, self._index, list(batch.items()), read, is_needed=self._is_needed)
            for rollout in busy:
                if index_batch(self._home, self._index, [rollout], read, is_needed=self._is_needed, wait_s=LOCK_WAIT):
                    self._report.busy.append(
                        Refusal.of(rollout[1], "it is in the home, but busy and not indexed; import it again")
                    )
        except (IndexUnavailable, OSError) as error:
            reason = f"{reason_of(error)}; the rollouts are in the home: run livethread rebuild"
            self._report.failed.append(Refusal.of(self._home.index, reason))
        self._report.failed += [Refusal(name, "it is in the home, but cannot be indexed") for name in read.unreadable]

    def _index_heirs(self) -> None:
        """Index again the forks that were imported before the rollouts that they continue."""
        for thread_id in () if self._dry_run else self._index.broken():
            if (path := self._home.find_rollout(thread_id)) is not None:
                self._batch[thread_id] = path
                self._changed.add(thread_id)
        self._index_batch()

    def _is_needed(self, known: ThreadState | None, _path: Path) -> bool:
        """Return False for rows of other processes, which may know more than the file holds."""
        return known is None or known.thread_id in self._changed
