"""Judges a home from the journals of its writers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from livethread_worker.store.files import Home, compression, lineage, name_index, scan
from livethread_worker.store.files.identity import find_identity, recall_record
from livethread_worker.store.index import Index
from livethread_worker.store.upkeep.doctor import examine
from livethread_worker.store.upkeep.rebuild import read_state
from livethread_worker.verify.calls import History, read_journals
from livethread_worker.verify.judge_thread import ThreadVerdict, Violation, ViolationKind


@dataclass(slots=True)
class VerifyReport:
    """What was compared, and which promises were not kept."""

    threads: int = 0
    #: Threads of the journals that belong to other homes of the deployment, and were not compared.
    elsewhere: int = 0
    #: Calls by how they ended: ``ok``, ``fail``, ``info``.
    calls: dict[str, int] = field(default_factory=lambda: {"ok": 0, "fail": 0, "info": 0})
    #: Lines of the rollouts, and appends found in them.
    lines: int = 0
    applied: int = 0
    violations: list[Violation] = field(default_factory=list)


def verify(home: Home, journals: Iterable[Path], *, redis_lost_data: bool = False) -> VerifyReport:
    """Compare *home* with the *journals* of all its writers, which have ended and whose tasks are applied.

    Threads whose shards other homes served when a worker of *home* last ran are left out: verify those homes, too.

    If *redis_lost_data*, clients have sent accepted tasks again, after newer tasks of others. Then neither positions nor
    times tell the order of tasks of different writers, and the last patch is unknown.

    Raises:
        InvalidRequest: a file is not a journal, or the home's identity is damaged.
        IndexUnavailable: the index cannot be used.
    """
    report = VerifyReport()
    histories = read_journals(journals)
    for fault in examine(home, fix=False).faults:
        detail = f"{fault.kind}: {fault.path}: {fault.detail}"
        report.violations.append(Violation(ViolationKind.FAULT, fault.thread_id or "", detail))
    is_elsewhere = _threads_of_others(home)
    with closing(Index(home)) as index:
        for history in histories.values():
            if is_elsewhere(history.thread_id):
                report.elsewhere += 1
                continue
            report.threads += 1
            for call in history.calls:
                report.calls[call.outcome] += 1
            _judge(home, index, history, report, is_ordered=not redis_lost_data)
    return report


def _threads_of_others(home: Home) -> Callable[[str], bool]:
    """Return what tells whether another home serves a thread's shard."""
    mine, known = find_identity(home), recall_record(home)
    if mine is None or known is None:
        return lambda _: False
    others = {shard for shard, each in known.home_of.items() if each != mine}
    if len(others) == len(known.home_of):  # a copy that serves nothing stands for its original
        others = {shard for shard in others if known.home_of[shard].id != mine.id}
    return lambda thread_id: known.shard_of(thread_id) in others


def _judge(home: Home, index: Index, history: History, report: VerifyReport, *, is_ordered: bool) -> None:
    path = home.find_rollout(history.thread_id)
    deletions = [call for call in history.of("delete_thread") if call.outcome != "fail"]
    accepted = [call for call in (*history.of("append_items"), *deletions) if call.outcome == "ok"]
    if path is None:
        if accepted and not deletions:
            detail = f"{len(accepted)} appends were accepted, but the rollout is missing"
            report.violations.append(Violation(ViolationKind.DELETION, history.thread_id, detail))
        return
    if any(call.outcome == "ok" for call in deletions):
        report.violations.append(
            Violation(ViolationKind.DELETION, history.thread_id, "it was deleted, but still exists")
        )
        return
    records: list[scan.Record] = []
    for rollout in home.rollouts_of(history.thread_id):  # several if codex reverted the thread
        with compression.open_rollout(rollout) as file:
            records += scan.scan_records(file)
    with compression.open_rollout(path) as file:
        is_whole = not home.generation(path) and lineage.read_first(file).base is None
    verdict = ThreadVerdict(history, records, is_ordered, is_whole)
    report.lines += len(verdict.records)
    verdict.judge_rollout()
    row = index.read_thread(history.thread_id)
    replayed = read_state(home, history.thread_id, path, name_index.read_names(home)).thread
    if row is not None and replayed is not None:
        verdict.judge_metadata(row, replayed)
    report.applied += verdict.applied
    report.violations += verdict.violations
