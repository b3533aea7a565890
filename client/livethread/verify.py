"""Checks a rollout against what its writers sent: every item once, in each writer's order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from livethread.rollout_item import THREAD_METADATA_TYPE, RolloutItem, decode_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(slots=True)
class RolloutReport:
    """What a check found."""

    lines: int = 0
    problems: list[str] = field(default_factory=list)


def check_rollout(path: Path, sent: Sequence[Sequence[RolloutItem]]) -> RolloutReport:
    """Compare the rollout at *path* with the items that each of its writers sent, in order.

    The lines must be numbered without a gap, each writer's counters must never fall, and the items of each
    writer must be, one by one, those of one entry of *sent*.
    """
    report = RolloutReport()
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        report.problems.append("the last line has no end")
    counters: dict[str, int] = {}
    items: dict[str, list[tuple[str, Any]]] = {}
    for number, line in enumerate(content.split(b"\n")[:-1]):
        report.lines += 1
        record = decode_line(line)
        if record is None:
            report.problems.append(f"line {number} is no JSON object")
            continue
        writer, _, n = str(record.get("seq", "")).rpartition(":")
        if record.get("ordinal") != number:
            report.problems.append(f"line {number} has the ordinal {record.get('ordinal')}")
        if not writer or not n.isdecimal():
            report.problems.append(f"line {number} names no writer of ours")
            continue
        if int(n) < counters.get(writer, 0):
            report.problems.append(f"line {number}: task {n} of writer {writer} stands behind a later one")
        counters[writer] = int(n)
        if not _is_stores_own(record, number):
            items.setdefault(writer, []).append((record.get("type", ""), record.get("payload")))
    report.problems += _compare(items, [[(item.type, item.payload) for item in writer] for writer in sent])
    return report


def _is_stores_own(record: dict[str, Any], number: int) -> bool:
    """Whether the store wrote a line by itself: the first one, and those that carry metadata."""
    return number == 0 or record.get("type") in {"session_meta", THREAD_METADATA_TYPE}


def _compare(found: dict[str, list[tuple[str, Any]]], sent: list[list[tuple[str, Any]]]) -> list[str]:
    """Match each writer's lines with one entry of *sent*, and say what does not match."""
    problems = []
    unmatched = list(sent)
    for writer, items in found.items():
        if items in unmatched:
            unmatched.remove(items)
        else:
            problems.append(f"the {len(items)} items of writer {writer} are not what any writer sent")
    return problems + [
        f"{len(items)} items that were sent do not stand in this order" for items in unmatched if items
    ]
