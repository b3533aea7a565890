"""Judges one thread: its rollout and its row, by what its writers and readers were told."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from livethread.journal import history_digest, item_digest
from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread_worker.store.files.scan import Record, ordinal_of, writer_mark
from livethread_worker.verify.calls import NEVER, Call, History, by_process

#: Lines that the store writes by itself; as items, an agent hardly appends them.
_STORES_OWN: Final = frozenset({"session_meta", THREAD_METADATA_TYPE})

#: Fields that only an explicit patch changes, so that the last one decides them.
_LITERAL: Final = ("name", "memory_mode", "git_info")

#: Fields of which the rollout's place says more than its lines.
_OF_PLACE: Final = frozenset({"archived_at", "rollout_path"})


class ViolationKind(StrEnum):
    """What can be wrong; the first word of a line of `livethread verify`."""

    #: Accepted, and not in the rollout.
    LOST = "lost"
    #: Refused, or asked for by nobody, and in the rollout.
    NOT_ACCEPTED = "not_accepted"
    #: In the rollout more than once.
    APPLIED_TWICE = "applied_twice"
    #: In the rollout in part.
    PARTLY_APPLIED = "partly_applied"
    #: A line of ours does not carry the number that it has among its file's records.
    NUMBERING = "numbering"
    #: Two tasks of one writer stand in another order than that in which it asked for them.
    WRITER_ORDER = "writer_order"
    #: Two tasks stand in another order than that of the positions that their writers were told.
    THREAD_ORDER = "thread_order"
    #: A task that was accepted before another was asked for stands behind it.
    REAL_TIME_ORDER = "real_time_order"
    #: What a reader was shown is no beginning of the rollout.
    READ_CONTRADICTED = "read_contradicted"
    #: A reader was not shown what it had been told is accepted.
    STALE_READ = "stale_read"
    #: A field is not what the last accepted patch made it, or not what the rollout says.
    METADATA = "metadata"
    #: The thread is there though its deletion was accepted, or the other way round.
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
    """What one task left in the rollout."""

    #: Writer and counter; None for the lines of somebody else.
    seq: str | None
    digests: list[str] = field(default_factory=list)
    #: Whether none of its lines is an item that somebody appended.
    is_stores_own: bool = True


@dataclass(slots=True)
class ThreadVerdict:
    """Compares a thread's history with what became of it."""

    history: History
    records: list[Record]
    #: Whether positions and times tell the order: not where Redis lost data, and tasks were sent again.
    is_ordered: bool = True
    violations: list[Violation] = field(default_factory=list)
    #: Appends that stand in the rollout.
    applied: int = 0

    def judge_rollout(self) -> None:
        """Compare appends and reads with the lines."""
        self._judge_numbers()
        tasks = _tasks(self.records)
        places = self._places(tasks)
        self.applied = len(places)
        self._judge_orders(places)
        self._judge_reads(tasks, places)

    def judge_metadata(self, row: StoredThread, replayed: StoredThread) -> None:
        """Compare the index' *row*, and what the files say when they are read anew, with the patches and each other."""
        patches = [call for call in self.history.of("update_thread_metadata") if call.outcome != "fail"]
        for name in _LITERAL:
            changing = [call for call in patches if name in call.value]
            if changing and self.is_ordered:
                self._judge_field(name, changing, {"index": row, "rollout": replayed})
        for name in _compared(row) if self._is_derived() else _LITERAL:
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
        """Find the first line that carries another number than its own: those behind it mostly follow."""
        due = 0
        for record in self.records:
            if record.value is None:  # it is counted by nobody
                continue
            number = ordinal_of(record.value)
            if number != due and writer_mark(record.value) is not None:
                self._violated(
                    ViolationKind.NUMBERING, f"the line at {record.offset} has the number {number}, not {due}"
                )
                return
            due = max(due, number or 0) + 1  # as whoever writes the next line counts

    # -- appends -------------------------------------------------------------------------------------------

    def _places(self, tasks: list[_Task]) -> dict[int, Call]:
        """Match appends with what stands in the rollout; return where each stands, and say what matches nothing."""
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
        """Return the appends that stand for themselves, and those that share an idempotency key and an unknown order.

        Of appends with one key the first counts.
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
        """Judge appends with one key, of which nobody knows which was the first: one of them stands, once."""
        found = [place for digests in {tuple(call.value) for call in calls} for place in standing.get(digests, [])]
        if len(found) > 1:
            self._violated(ViolationKind.APPLIED_TWICE, f"{calls[0]} stands {len(found)} times, or one with its key")
        elif not found and any(call.outcome == "ok" for call in calls):
            self._violated(ViolationKind.LOST, f"{calls[0]} is not in the rollout, nor is one with its key")

    def _matched(self, calls: list[Call], found: list[int]) -> dict[int, Call]:
        """Match appends of the same items with the *found* places: those that were accepted first."""
        accepted = sorted((call for call in calls if call.outcome == "ok"), key=lambda call: call.order)
        unknown = [call for call in calls if call.outcome == "info"]
        for call in accepted[len(found) :]:
            self._violated(ViolationKind.LOST, f"{call} was accepted at {call.position}, and is not in the rollout")
        for place in found[len(accepted) + len(unknown) :]:
            is_known = bool(accepted or unknown)
            kind = ViolationKind.APPLIED_TWICE if is_known else ViolationKind.NOT_ACCEPTED
            self._violated(kind, f"{calls[0]} stands {len(found)} times, once as task {place}")
        if len(unknown) == 0 or len(calls) == 1:
            return dict(zip(found, accepted or unknown, strict=False))
        # Which of several equal ones stands where cannot be told; those that were accepted must all be there.
        return dict(zip(found, accepted, strict=False)) if len(found) == len(accepted) else {}

    def _judge_unmatched(self, tasks: list[_Task], known: set[str]) -> set[str]:
        """Judge what no append matches; return the digests of items that were appended otherwise."""
        damaged: set[str] = set()
        for task in tasks:
            if task.seq is None or task.is_stores_own:
                continue  # somebody else's line, or the store's
            if known.isdisjoint(task.digests):
                self._violated(ViolationKind.NOT_ACCEPTED, f"task {task.seq} was appended by nobody")
                continue
            is_double = len(set(task.digests)) < len(task.digests)
            kind = ViolationKind.APPLIED_TWICE if is_double else ViolationKind.PARTLY_APPLIED
            self._violated(kind, f"task {task.seq} stands with other items than were appended")
            damaged.update(task.digests)
        return damaged

    def _judge_orders(self, places: dict[int, Call]) -> None:
        ordered = [places[place] for place in sorted(places)]
        for calls in by_process(ordered).values():
            self._judge_pairs(ViolationKind.WRITER_ORDER, calls, [call.number for call in calls])
        if not self.is_ordered:
            return
        accepted = [call for call in ordered if call.outcome == "ok"]
        self._judge_pairs(ViolationKind.THREAD_ORDER, accepted, [call.order for call in accepted])
        earliest = NEVER
        for call in reversed(accepted):
            if earliest < call.invoked_at:
                self._violated(ViolationKind.REAL_TIME_ORDER, f"{call} stands before a task that was accepted first")
            earliest = min(earliest, call.answered_at)

    def _judge_pairs(self, kind: ViolationKind, calls: list[Call], keys: list[int] | list[tuple[int, int]]) -> None:
        for (one, other), (first, second) in zip(itertools.pairwise(calls), itertools.pairwise(keys), strict=True):
            if not first < second:  # type: ignore[operator]  # both are of one type
                self._violated(kind, f"{other} stands right behind {one}")

    # -- reads ---------------------------------------------------------------------------------------------

    def _judge_reads(self, tasks: list[_Task], places: dict[int, Call]) -> None:
        reads = [call for call in self.history.of("load_history") if call.outcome == "ok"]
        digests = [digest for task in tasks for digest in task.digests]
        # The digest of each beginning that a reader was shown.
        beginnings = {count: history_digest(digests[:count]) for count in {call.count for call in reads}}
        ends = list(itertools.accumulate(len(task.digests) for task in tasks))
        for call in reads:
            shown = f"{call} was shown {call.count} items"
            own = [place for place, append in places.items() if _is_before(append, call)]
            if call.count > len(digests) or call.digest != beginnings[call.count]:
                self._violated(ViolationKind.READ_CONTRADICTED, f"{shown} that do not stand so")
            elif own and ends[max(own)] > call.count:
                self._violated(ViolationKind.STALE_READ, f"{shown}, and not all that it had appended")

    # -- metadata ------------------------------------------------------------------------------------------

    def _judge_field(self, name: str, calls: list[Call], stored: dict[str, StoredThread]) -> None:
        """Judge a field by the last patch that was accepted; where one's fate is unknown, it may be any of these."""
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
    """Whether a process knew that *append* was accepted when it asked to *read*."""
    return append.process == read.process and append.answered_at < read.invoked_at


def _tasks(records: Iterable[Record]) -> list[_Task]:
    """Return what each task left, in the order of the rollout."""
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


def _compared(thread: StoredThread) -> list[str]:
    return [name for name in type(thread).model_fields if name not in _OF_PLACE | {"history"}]
