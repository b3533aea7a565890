"""What a status shows, as texts and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.nodes.statuses import HOME, NO_LAG, NOW, REDIS, SHARD, THREAD, WORKER, facts, shard, waits

from livethread.cli.output import as_indented_json
from livethread.cli.status import lines
from livethread.queued.statistics import DeploymentStatistics, LagHistogram
from livethread.status.facts import Facts, Rates, RedisState
from livethread.status.findings import Finding, Sentence
from livethread.status.status import Status
from livethread.units import duration, size

LAG = LagHistogram((0, 0, 90, 0, 0, 0, 0, 0, 10, *(0 for _ in NO_LAG.counts[9:])), 20.0)
BUSY = facts(
    shard(95, claimed_threads=4, applied=1000, accepted={"append_items": 1030}, lag=LAG),
    shard(3, shard=1, swept_at=NOW - 3),
    workers=(WORKER, replace(WORKER, name="w2@host", is_live=False)),
    rates=Rates(10.0, 1240.0, 1300.0, NO_LAG),
    longest=(waits(95, reason="No room", failures=7), waits(7, is_parked=True, reason="bad")),
)
UNKNOWN = Facts(NOW, "here", silence=Finding(Sentence.REDIS_AWAY, "it timed out"))


def test_the_figures_are_of_all_shards() -> None:
    assert dict(Status.of(BUSY).figures) == {
        "oldest unapplied": "95 s",
        "tasks unapplied": "60",
        "threads waiting": "20",
        "threads claimed": "4",
        "threads retrying": "0",
        "threads parked": "0",
        "workers": "1 of 2",
        "shards served": "1 of 2",
        "last sweep": "1.0 s ago",
        "accepted /s": "1,240",
        "applied /s": "1,300",
        "lag p50 / p99, ever": "18 ms / 2.4 s",
        "clears in": "1.0 s",
        "Redis memory": "47 MB of 1.0 GB",
        "Redis persistence": "append-only file",
        "home": "12 GB free",
        "index": "271 MB",
    }


def test_what_only_parked_threads_hold_clears_never() -> None:
    parked = replace(BUSY, statistics=facts(shard(parked_threads=1, unapplied_tasks=3)).statistics)

    assert dict(Status.of(parked).figures)["tasks unapplied"] == "3"
    assert parked.clears_in_s is None


def test_without_redis_only_the_disk_is_known() -> None:
    assert Status.of(UNKNOWN).figures == [("home", "not on this host"), ("index", "-")]
    assert Status.of(replace(UNKNOWN, home=HOME)).figures == [("home", "12 GB free"), ("index", "271 MB")]


def test_the_json_has_numbers() -> None:
    found = json.loads(as_indented_json(Status.of(BUSY).as_dict()))

    assert (found["state"], found["is_well"], found["clears_in_s"]) == ("stuck", False, 1.0)
    assert found["sentence"].startswith("a shard has no worker: shard 1")
    assert [finding["name"] for finding in found["findings"]] == ["unserved_shard", "retried", "lost_worker"]
    assert found["at"] == "2027-01-15T08:00:00+00:00"
    assert (found["oldest_unapplied_s"], found["last_sweep_s"]) == (95.0, 1.0)
    assert (found["accepted_per_s"], found["applied_per_s"]) == (1240.0, 1300.0)
    assert found["lag"] == {"p50_s": pytest.approx(0.0183, abs=0.001), "p99_s": 2.35, "is_recent": False}
    assert [each["unapplied_tasks"] for each in found["shards"]] == [30, 30]
    assert [each["is_live"] for each in found["workers"]] == [True, False]
    assert found["redis"]["max_bytes"] == 1_000_000_000
    assert found["home"] == {
        "path": "/home", "free_bytes": 12_000_000_000, "size_bytes": 40_000_000_000, "index_bytes": 271_000_000, "exists": True
    }  # fmt: skip
    assert [each["age_s"] for each in found["longest_waiting"]] == [95.0, 7.0]


def test_json_without_redis_has_the_same_keys() -> None:
    found, unknown = Status.of(BUSY).as_dict(), Status.of(UNKNOWN).as_dict()

    assert unknown.keys() == found.keys()
    assert (unknown["shards"], unknown["workers"], unknown["redis"]) == (None, None, None)


def test_a_screen_says_first_how_it_is_and_last_what_to_do() -> None:
    shown = [text for text, _ in lines(Status.of(BUSY), 100)]

    assert "STUCK: a shard has no worker: shard 1" in shown[0]
    assert shown[1].startswith("  also: a task fails and is tried again")
    assert f"{THREAD}      95 s       3  retry 7: No room" in shown
    assert f"{THREAD}     7.0 s       3  parked: bad" in shown
    assert shown[-3:] == [f"do: {finding.sentence.advice}" for finding in Status.of(BUSY).findings]


def test_a_fault_that_does_no_harm_yet_leaves_all_well() -> None:
    status = Status.of(facts(redis=replace(REDIS, has_append_only_file=False)))

    assert (status.is_well, status.headline) == (True, "WELL, but Redis writes no append-only file")
    assert Status.of(facts()).headline == "WELL: all is well"


def test_a_terminal_cuts_reasons_and_a_pipe_does_not() -> None:
    long = Status.of(replace(BUSY, longest=(waits(95, reason="x" * 200, failures=7),)))

    for width, expected in ((100, 100), (None, 265)):
        assert [len(text) for text, _ in lines(long, width) if text.startswith(THREAD)] == [expected]


def test_a_low_screen_shows_fewer_threads() -> None:
    shown = [text for text, _ in lines(Status.of(BUSY), 100, 1)]

    assert sum(text.startswith(THREAD) for text in shown) == 1
    assert not [text for text, _ in lines(Status.of(BUSY), 100, 0) if "waits longest" in text]


def test_a_narrow_screen_has_a_line_for_each_figure() -> None:
    shown = [text for text, _ in lines(Status.of(BUSY), 80)]

    for name, value in Status.of(BUSY).figures:
        assert [line for line in shown if line.split() == [*name.split(), *value.split()]] != []


def test_rates_are_what_happened_between_two_looks() -> None:
    before = DeploymentStatistics(NOW - 2, (replace(SHARD, accepted={"a": 10, "b": 1}, applied=5),), ())
    after = DeploymentStatistics(NOW, (replace(SHARD, accepted={"a": 20, "b": 3}, applied=105, lag=LAG),), ())

    rates = Rates.between(before, after)

    assert rates == Rates(2.0, 6.0, 50.0, LAG)
    assert Status.of(replace(facts(), rates=rates)).figures[11] == ("lag p50 / p99", "18 ms / 2.4 s")


@pytest.mark.parametrize("before", [None, DeploymentStatistics(NOW, (SHARD,), ())])
def test_there_are_no_rates_without_an_earlier_look(before: DeploymentStatistics | None) -> None:
    assert Rates.between(before, DeploymentStatistics(NOW, (SHARD,), ())) is None


def test_there_are_no_rates_if_redis_lost_its_counters() -> None:
    before = DeploymentStatistics(NOW - 1, (replace(SHARD, applied=5),), ())

    assert Rates.between(before, DeploymentStatistics(NOW, (SHARD,), ())) is None


@pytest.mark.parametrize(
    ("info", "refusal"),
    [
        ({}, ""),
        ({"role": "slave", "master_host": "r2", "master_port": 6379}, "it is a replica of r2:6379"),
        ({"aof_last_write_status": "err"}, "its last write to the append-only file failed"),
        (
            {"rdb_last_bgsave_status": "err"},
            "its last snapshot failed, which stops writes unless stop-writes-on-bgsave-error is no",
        ),
    ],
)
def test_a_redis_that_refuses_writes_is_recognized(info: dict[str, object], refusal: str) -> None:
    assert RedisState.of(info).refusal == refusal


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0284, "28 ms"), (1.44, "1.4 s"), (95, "95 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"),
     (7200, "2 h"), (400_000, "5 d")],
)  # fmt: skip
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (47e6, "47 MB"), (12e9, "12 GB")]
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(int(count)) == text
