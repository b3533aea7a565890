"""Judges one thread: compares its rollout and its row with the answers that its writers and readers got."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from livethread.journal import history_digest, item_digest
from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread_worker.store.files.lineage import base_of
from livethread_worker.store.files.scan import Record, ordinal_of, writer_mark
from livethread_worker.verify.calls import NEVER, Call, History

#: Lines that the store writes itself; agents rarely append such items.
_STORES_OWN: Final = frozenset({"session_meta", THREAD_METADATA_TYPE})

#: Fields that only explicit patches change, so that the last patch decides.
_LITERAL: Final = ("name", "memory_mode", "git_info")

#: Fields that follow from the rollout's lines, not from its path.
_DERIVED: Final = [
    name for name in StoredThread.model_fields if name not in {"archived_at", "rollout_path", "position", "history"}
]


class ViolationKind(StrEnum):
    """The kinds of violation; each line of `livethread verify` begins with one."""

    #: Accepted, but not in the rollout.
    LOST = "lost"
    #: In the rollout, but refused or never sent.
    NOT_ACCEPTED = "not_accepted"
    #: In the rollout more than once.
    APPLIED_TWICE = "applied_twice"
    #: Only partly in the rollout.
    PARTLY_APPLIED = "partly_applied"
    #: The ordinal of one of our lines is not its place in the file.
    NUMBERING = "numbering"
    #: Two tasks of one writer are not in the order in which it made them.
    WRITER_ORDER = "writer_order"
    #: Two tasks are not in the order of their positions.
    THREAD_ORDER = "thread_order"
    #: A task comes after another that was made after its acceptance.
    REAL_TIME_ORDER = "real_time_order"
    #: A reader got items that are not a prefix of the rollout.
    READ_CONTRADICTED = "read_contradicted"
    #: A reader did not get items whose acceptance it knew of.
    STALE_READ = "stale_read"
    #: A field differs from the last accepted patch, or from the rollout.
    METADATA = "metadata"
    #: The thread exists though its deletion was accepted, or is missing without a deletion.
    DELETION = "deletion"
    #: Files and index contradict each other; `livethread doctor` says more.
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was not kept."""

    kind: ViolationKind
    thread_id: str
    detail: str


@dataclass(slots=True)
class _Task:
    """The lines of one task in the rollout."""

    #: Writer and counter; None for foreign lines.
    seq: str | None
    digests: list[str] = field(default_factory=list)
    #: Whether the store wrote all of its lines itself.
    is_stores_own: bool = True


@dataclass(slots=True)
class ThreadVerdict:
    """Compares a thread's calls with its rollout and its row."""

    history: History
    records: list[Record]
    #: Whether positions and times tell the order. They do not if Redis lost data and tasks were sent again.
    is_ordered: bool = True
    #: Whether reads show all lines of the rollout and no others; false if codex reverted the thread, or it is a fork.
    is_whole: bool = True
    violations: list[Violation] = field(default_factory=list)
    #: Appends found in the rollout.
    applied: int = 0

    def judge_rollout(self) -> None:
        """Compare appends and reads with the lines."""
        self._judge_numbers()
        tasks = _tasks(self.records)
        places = self._places(tasks)
        self.applied = len(places)
        self._judge_orders(places)
        if self.is_whole:
            self._judge_reads(tasks, places)

    def judge_metadata(self, row: StoredThread, replayed: StoredThread) -> None:
        """Compare the index' *row* and the thread *replayed* from the files with the patches and with each other."""
        patches = [call for call in self.history.of("update_thread_metadata") if call.outcome != "fail"]
        for name in _LITERAL:
            changing = [call for call in patches if name in call.value]
            if changing and self.is_ordered:
                self._judge_field(name, changing, {"index": row, "rollout": replayed})
        for name in _DERIVED if self._is_derived() else _LITERAL:
            if getattr(row, name) != getattr(replayed, name):
                detail = f"{name} is {getattr(row, name)!r}; the rollout says {getattr(replayed, name)!r}"
                self._violated(ViolationKind.METADATA, detail)
        moves = [call for call in self.history.of("archive_thread", "unarchive_thread") if call.outcome != "fail"]
        if moves and self.is_ordered and all(call.outcome == "ok" for call in moves):
            last = max(moves, key=lambda call: call.order)
            if (last.f == "archive_thread") != (row.archived_at is not None):
                self._violated(
                    ViolationKind.METADATA, f"archived_at is {row.archived_at}, though {last} was the last"
                )

    def _judge_numbers(self) -> None:
        """Find the first line with a wrong ordinal; most later ones only follow from it."""
        due = 0
        for record in self.records:
            if record.offset == 0:  # the next rollout of the thread begins
                due = _first_number(record)
            if record.value is None:  # not counted
                continue
            number = ordinal_of(record.value)
            if number != due and writer_mark(record.value) is not None:
                self._violated(
                    ViolationKind.NUMBERING, f"the line at {record.offset} has the number {number}, not {due}"
                )
                return
            due = max(due, number or 0) + 1  # as the writer of the next line counts

    # -- appends -------------------------------------------------------------------------------------------

    def _places(self, tasks: list[_Task]) -> dict[int, Call]:
        """Match appends with tasks in the rollout, report what has no match, and return the place of each append."""
        standing: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, task in enumerate(tasks):
            standing[tuple(task.digests)].append(place)
        calls: dict[tuple[str, ...], list[Call]] = defaultdict(list)
        single, repeated = self._by_key()
        for call in single:
            calls[tuple(call.value)].append(call)
        for same in repeated:
            self._judge_repeated(same, standing)
        known = calls.keys() | {tuple(call.value) for same in repeated for call in same}
        damaged = self._judge_unmatched(
            [task for task in tasks if tuple(task.digests) not in known], set().union(*known)
        )
        places: dict[int, Call] = {}
        for digests, same in calls.items():
            if not damaged.intersection(digests):
                places |= self._matched(same, standing[digests])
        return places

    def _by_key(self) -> tuple[list[Call], list[list[Call]]]:
        """Return the single appends, and groups of appends with one idempotency key in an unknown order.

        Of appends with one idempotency key, the first counts.
        """
        single: list[Call] = []
        by_key: dict[str, list[Call]] = defaultdict(list)
        for call in self.history.of("append_items"):
            if call.key is None or call.outcome == "fail":
                single.append(call)
            else:
                by_key[call.key].append(call)
        repeated = []
        for same in by_key.values():
            if len(same) == 1 or (self.is_ordered and all(call.outcome == "ok" for call in same)):
                single.append(min(same, key=lambda call: call.order))
            else:
                repeated.append(same)
        return single, repeated

    def _judge_repeated(self, calls: list[Call], standing: dict[tuple[str, ...], list[int]]) -> None:
        """Judge appends with one idempotency key in an unknown order: exactly one must be there, once."""
        found = [place for digests in {tuple(call.value) for call in calls} for place in standing.get(digests, [])]
        if len(found) > 1:
            self._violated(
                ViolationKind.APPLIED_TWICE,
                f"{calls[0]}, or one with its idempotency key, is there {len(found)} times",
            )
        elif not found and any(call.outcome == "ok" for call in calls):
            self._violated(
                ViolationKind.LOST, f"{calls[0]} is not in the rollout, nor is one with its idempotency key"
            )

    def _matched(self, calls: list[Call], found: list[int]) -> dict[int, Call]:
        """Match appends of the same items with the *found* places, in the order of acceptance."""
        accepted = sorted((call for call in calls if call.outcome == "ok"), key=lambda call: call.order)
        unknown = [call for call in calls if call.outcome == "info"]
        for call in accepted[len(found) :]:
            self._violated(ViolationKind.LOST, f"{call} was accepted at {call.position}, but is not in the rollout")
        for place in found[len(accepted) + len(unknown) :]:
            is_known = bool(accepted or unknown)
            kind = ViolationKind.APPLIED_TWICE if is_known else ViolationKind.NOT_ACCEPTED
            self._violated(kind, f"{calls[0]} is there {len(found)} times, once as task {place}")
        if len(unknown) == 0 or len(calls) == 1:
            return dict(zip(found, accepted or unknown, strict=False))
        # Equal appends cannot be told apart; all accepted ones must be there.
        return dict(zip(found, accepted, strict=False)) if len(found) == len(accepted) else {}

    def _judge_unmatched(self, tasks: list[_Task], known: set[str]) -> set[str]:
        """Judge tasks that match no append; return the digests of items in tasks that mix appended items."""
        damaged: set[str] = set()
        for task in tasks:
            if task.seq is None or task.is_stores_own:
                continue  # a foreign line, or the store's own
            if known.isdisjoint(task.digests):
                self._violated(ViolationKind.NOT_ACCEPTED, f"task {task.seq} matches no append")
                continue
            is_double = len(set(task.digests)) < len(task.digests)
            kind = ViolationKind.APPLIED_TWICE if is_double else ViolationKind.PARTLY_APPLIED
            self._violated(kind, f"task {task.seq} has items that differ from those appended")
            damaged.update(task.digests)
        return damaged

    def _judge_orders(self, places: dict[int, Call]) -> None:
        ordered = [places[place] for place in sorted(places)]
        by_process: dict[str, list[Call]] = defaultdict(list)
        for call in ordered:
            by_process[call.process].append(call)
        for calls in by_process.values():
            self._judge_pairs(ViolationKind.WRITER_ORDER, calls, lambda call: (call.number,))
        if not self.is_ordered:
            return
        accepted = [call for call in ordered if call.outcome == "ok"]
        self._judge_pairs(ViolationKind.THREAD_ORDER, accepted, lambda call: call.order)
        earliest = NEVER
        for call in reversed(accepted):
            if earliest < call.invoked_at:
                self._violated(ViolationKind.REAL_TIME_ORDER, f"{call} comes before a task that was accepted first")
            earliest = min(earliest, call.answered_at)

    def _judge_pairs(self, kind: ViolationKind, calls: list[Call], key: Callable[[Call], tuple[int, ...]]) -> None:
        for one, other in itertools.pairwise(calls):
            if key(one) >= key(other):
                self._violated(kind, f"{other} comes right after {one}")

    # -- reads ---------------------------------------------------------------------------------------------

    def _judge_reads(self, tasks: list[_Task], places: dict[int, Call]) -> None:
        reads = [call for call in self.history.of("load_history") if call.outcome == "ok"]
        digests = [digest for task in tasks for digest in task.digests]
        # The digest of each prefix that a reader got.
        beginnings = {count: history_digest(digests[:count]) for count in {call.count for call in reads}}
        ends = list(itertools.accumulate(len(task.digests) for task in tasks))
        for call in reads:
            shown = f"{call} got {call.count} items"
            own = [place for place, append in places.items() if _is_before(append, call)]
            if call.count > len(digests) or call.digest != beginnings[call.count]:
                self._violated(ViolationKind.READ_CONTRADICTED, f"{shown} that are not the rollout's first")
            elif own and ends[max(own)] > call.count:
                self._violated(ViolationKind.STALE_READ, f"{shown}, but not all that it had appended")

    # -- metadata ------------------------------------------------------------------------------------------

    def _judge_field(self, name: str, calls: list[Call], stored: dict[str, StoredThread]) -> None:
        """Judge a field by the last accepted patch; a patch with an unknown outcome may count instead."""
        last = max((call for call in calls if call.outcome == "ok"), key=lambda call: call.order, default=None)
        possible = [call for call in calls if call.outcome == "info"] + ([last] if last else [])
        patches = [ThreadMetadataPatch.model_validate({name: call.value[name]}) for call in possible]
        for where, thread in stored.items():
            if last and not any(getattr(thread.patched(patch), name) == getattr(thread, name) for patch in patches):
                detail = f"{name} is {getattr(thread, name)!r} in the {where}, though {last} was the last to set it"
                self._violated(ViolationKind.METADATA, detail)

    def _is_derived(self) -> bool:
        """Whether the metadata follows from all items: after a raw append the row may say less than the rollout."""
        return not any(call.raw and call.outcome != "fail" for call in self.history.of("append_items"))

    def _violated(self, kind: ViolationKind, detail: str) -> None:
        self.violations.append(Violation(kind, self.history.thread_id, detail))


def _is_before(append: Call, read: Call) -> bool:
    """Whether a process knew that *append* was accepted when it called *read*."""
    return append.process == read.process and append.answered_at < read.invoked_at


def _tasks(records: Iterable[Record]) -> list[_Task]:
    """Return the lines of each task, in the order of the rollout."""
    tasks: list[_Task] = []
    for record in records:
        if record.value is None:
            continue
        seq, kind = record.value.get("seq"), record.value.get("type")
        if not tasks or seq is None or tasks[-1].seq != seq:
            tasks.append(_Task(seq))
        if kind == THREAD_METADATA_TYPE or not isinstance(kind, str):
            continue
        tasks[-1].digests.append(item_digest(kind, record.value.get("payload")))
        tasks[-1].is_stores_own &= kind in _STORES_OWN
    return tasks


def _first_number(record: Record) -> int:
    """Return the number that the first line of a rollout must have."""
    meta = (record.value or {}).get("payload")
    base = base_of(meta) if isinstance(meta, dict) else None
    return base.end_ordinal if base else 0
