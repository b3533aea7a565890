"""Which sentences are true of which facts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.nodes.statuses import HOME, NO_LAG, NOW, REDIS, THREAD, WORKER, facts, shard, waits

from livethread.status.facts import Facts, Rates
from livethread.status.findings import Finding, Sentence, State
from livethread.status.judge import judge

OPERATIONS = Path(__file__).parents[4] / "docs" / "operations.md"

LOST = replace(WORKER, name="w2@host", seen_at=NOW - 40, is_live=False)
FAILED = waits(95, reason="OSError: database is locked", failures=7)
NO_SPACE = waits(95, reason="OSError: [Errno 28] No space left on device", failures=7)
PARKED = waits(900, reason="poisoned", is_parked=True)

CASES: dict[str, tuple[Facts, dict[Sentence, str]]] = {
    "at rest": (facts(), {Sentence.WELL: ""}),
    "busy": (facts(shard(4.9, claimed_threads=10)), {Sentence.WELL: ""}),
    "behind": (
        facts(shard(95), rates=Rates(1.0, 10.0, 13.0, NO_LAG), longest=(waits(95),)),
        {Sentence.BEHIND: "30 unapplied tasks, the oldest for 95 s, cleared in 10 s"},
    ),
    "further behind each second": (
        facts(shard(95), rates=Rates(1.0, 13.0, 10.0, NO_LAG)),
        {Sentence.BEHIND: "30 unapplied tasks, the oldest for 95 s"},
    ),
    "one of many threads fails": (
        facts(shard(95, retrying_threads=1), longest=(FAILED, waits(90))),
        {
            Sentence.RETRIED: f"thread {THREAD} for 95 s, 7 failed attempts: OSError: database is locked",
            Sentence.BEHIND: "30 unapplied tasks, the oldest for 95 s",
        },
    ),
    "only a failing thread waits": (
        facts(shard(95, retrying_threads=1), longest=(FAILED,)),
        {Sentence.RETRIED: f"thread {THREAD} for 95 s, 7 failed attempts: OSError: database is locked"},
    ),
    "another program held a thread for a moment": (
        facts(shard(2, retrying_threads=1), longest=(waits(2, reason="x.lock is held by another writer"),)),
        {Sentence.WELL: ""},
    ),
    "parked": (
        facts(shard(parked_threads=2, unapplied_tasks=6), longest=(PARKED,)),
        {Sentence.PARKED: f"2, such as thread {THREAD} for 15 min: poisoned"},
    ),
    "one is parked": (
        facts(shard(parked_threads=1, unapplied_tasks=3), longest=(PARKED,)),
        {Sentence.PARKED: f"thread {THREAD} for 15 min: poisoned"},
    ),
    "no worker ever": (facts(shard(home=None, looked_at=None, swept_at=None), workers=()), {
        Sentence.NO_WORKER: "nothing waits"
    }),
    "no worker any more": (
        facts(shard(95, looked_at=NOW - 90), workers=(replace(WORKER, seen_at=NOW - 90, is_live=False), LOST)),
        {
            Sentence.NO_WORKER: (
                "30 unapplied tasks, the oldest for 95 s; w1@host was seen 90 s ago; w2@host was seen 40 s ago"
            )
        },
    ),
    "one of two workers killed": (facts(workers=(WORKER, LOST)), {Sentence.LOST_WORKER: "w2@host was seen 40 s ago"}),
    "many workers killed": (
        facts(workers=(WORKER, *(replace(LOST, name=f"c{n}@host") for n in range(9)))),
        {Sentence.LOST_WORKER: "; ".join([*(f"c{n}@host was seen 40 s ago" for n in range(4)), "and 5 more"])},
    ),
    "a home that no worker serves": (
        facts(shard(), shard(95, shard=1, home="far:/home"), longest=(waits(95),)),
        {Sentence.UNSERVED_SHARD: "shard 1, far:/home: 30 unapplied tasks"},
    ),
    "a home that no worker serves, and no task waits": (
        facts(shard(), shard(shard=1, home="far:/home")),
        {Sentence.UNSERVED_SHARD: "shard 1, far:/home"},
    ),
    "a shard that was just added": (facts(shard(), shard(shard=1, home=None)), {Sentence.WELL: ""}),
    "a shard that no worker took": (
        facts(shard(), shard(3, shard=1, home=None)),
        {Sentence.UNSERVED_SHARD: "shard 1, which has no home yet: 30 unapplied tasks"},
    ),
    "hanging pools": (
        facts(shard(95, looked_at=NOW - 94, doorbells=1), longest=(waits(95),)),
        {
            Sentence.UNANSWERED_DOORBELLS: (
                "no worker has looked for tasks of shard 0 for 94 s, and its queue holds 1 message"
            )
        },
    ),
    "pools that hung from the start": (
        facts(shard(95, looked_at=None, doorbells=1), longest=(waits(95),)),
        {Sentence.UNANSWERED_DOORBELLS: "no worker has ever looked for tasks of shard 0, and its queue holds 1 message"},
    ),
    "a worker's first task is new": (facts(shard(2, looked_at=None)), {Sentence.WELL: ""}),
    "full disk of a home elsewhere": (
        facts(shard(95, retrying_threads=10), longest=(NO_SPACE, NO_SPACE), home=None),
        {
            Sentence.DISK_FULL: f"thread {THREAD} for 95 s, 7 failed attempts: OSError: [Errno 28] No space left on device"
        },
    ),
    "parked while a disk was full": (
        facts(shard(parked_threads=1), longest=(replace(NO_SPACE, failures=0, is_parked=True),)),
        {Sentence.PARKED: f"thread {THREAD} for 95 s: OSError: [Errno 28] No space left on device"},
    ),
    "full disk here": (
        facts(home=replace(HOME, free_bytes=4096)),
        {Sentence.DISK_FULL: "4.1 kB free at /home"},
    ),
    "nearly full disk": (
        facts(home=replace(HOME, free_bytes=900_000_000)),
        {Sentence.DISK_NEARLY_FULL: "900 MB free at /home"},
    ),
    "small disk with room": (facts(home=replace(HOME, free_bytes=100_000_000, size_bytes=1_000_000_000)), {
        Sentence.WELL: ""
    }),
    "full Redis": (
        facts(redis=replace(REDIS, used_bytes=1_000_000_000)),
        {Sentence.REDIS_FULL: "1.0 GB of 1.0 GB"},
    ),
    "nearly full Redis": (
        facts(redis=replace(REDIS, used_bytes=950_000_000)),
        {Sentence.REDIS_NEARLY_FULL: "950 MB of 1.0 GB"},
    ),
    "Redis without a limit": (facts(redis=replace(REDIS, max_bytes=None, may_evict=True)), {Sentence.WELL: ""}),
    "careless Redis": (
        facts(redis=replace(REDIS, may_evict=True, has_append_only_file=False)),
        {Sentence.NO_PERSISTENCE: "", Sentence.EVICTION: ""},
    ),
    "Redis refuses writes": (
        facts(redis=replace(REDIS, refusal="it is a replica of r2:6379")),
        {Sentence.REDIS_READ_ONLY: "it is a replica of r2:6379"},
    ),
    "Redis does not describe itself": (facts(redis=None, home=None), {Sentence.WELL: ""}),
    "no Redis": (
        Facts(NOW, "here", silence=Finding(Sentence.REDIS_AWAY, "it timed out"), home=HOME),
        {Sentence.REDIS_AWAY: "it timed out"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_true_is_said(name: str) -> None:
    facts, expected = CASES[name]

    assert {finding.sentence: finding.detail for finding in judge(facts)} == expected


def test_worse_findings_come_first() -> None:
    every = facts(
        shard(95, parked_threads=1),
        workers=(),
        longest=(PARKED, FAILED),
        redis=replace(REDIS, used_bytes=950_000_000, has_append_only_file=False),
    )

    states = [finding.sentence.state for finding in judge(every)]

    assert states == sorted(states, key=list(State).index)
    assert (states[0], len(states)) == (State.STUCK, 5)


def test_the_sentences_are_sorted_and_each_says_what_to_do() -> None:
    states = [sentence.state for sentence in Sentence]

    assert states == sorted(states, key=list(State).index)
    assert [sentence for sentence in Sentence if not sentence.advice] == [Sentence.WELL]


def test_the_operations_page_has_a_section_for_each_sentence() -> None:
    headings = re.findall(r"^### (.+)$", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    expected = {sentence.text.lower() for sentence in Sentence if sentence is not Sentence.WELL}

    assert expected - {heading.lower() for heading in headings} == set()
