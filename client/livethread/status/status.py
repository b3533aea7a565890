"""The status of a deployment, as a terminal, a page and a program read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from livethread.queued.statistics import ShardStatistics, WorkerSign
from livethread.status.facts import Facts, lag_of
from livethread.status.findings import Finding, Sentence, State
from livethread.status.judge import judge
from livethread.units import counted, duration, size


@dataclass(frozen=True, slots=True)
class ShownThread:
    """A thread among those that wait longest."""

    thread_id: str
    age: str
    tasks: int
    reason: str

    @property
    def text(self) -> str:
        """All but the id, on one line."""
        return " · ".join(filter(None, (self.age, counted(self.tasks, "task"), self.reason)))


@dataclass(frozen=True, slots=True)
class Status:
    """How a deployment is."""

    facts: Facts
    #: What is true, worst first.
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, facts: Facts) -> Status:
        """Judge *facts*."""
        return cls(facts, judge(facts))

    @property
    def state(self) -> State:
        """The state of the worst finding."""
        return self.findings[0].sentence.state

    @property
    def is_well(self) -> bool:
        """Whether nothing is stuck, parked or behind."""
        return self.state is State.WELL

    @property
    def headline(self) -> str:
        """The state and the worst finding."""
        is_fault = self.is_well and self.findings[0].sentence is not Sentence.WELL
        return f"{self.state.upper()}{', but ' if is_fault else ': '}{self.findings[0]}"

    @property
    def at(self) -> datetime:
        """When it was so."""
        return datetime.fromtimestamp(self.facts.now, UTC)

    @property
    def place(self) -> str:
        """The deployment, for a person."""
        return self.facts.place

    @property
    def figures(self) -> list[tuple[str, str]]:
        """Names and values of the numbers, as texts; ``-`` for what is not known. Without Redis, only of the disk."""
        return (self._queue_figures() if self.facts.statistics else []) + self._disk_figures()

    def _queue_figures(self) -> list[tuple[str, str]]:
        facts, rates = self.facts, self.facts.rates
        per_s = ("-", "-") if rates is None else (f"{rates.accepted_per_s:,.0f}", f"{rates.applied_per_s:,.0f}")
        p50, p99, is_recent = self._lag()
        redis = facts.redis
        live = [worker for worker in self._workers if worker.is_live]
        limit = f" of {size(redis.max_bytes)}" if redis and redis.max_bytes else ""
        return [
            ("oldest unapplied", duration(facts.oldest_s)),
            ("tasks unapplied", self._sum(lambda shard: shard.unapplied_tasks)),
            ("threads waiting", self._sum(lambda shard: shard.waiting_threads)),
            ("threads claimed", self._sum(lambda shard: shard.claimed_threads)),
            ("threads retrying", self._sum(lambda shard: shard.retrying_threads)),
            ("threads parked", self._sum(lambda shard: shard.parked_threads)),
            ("workers", f"{len(live)} of {len(self._workers)}"),
            ("shards served", f"{len({shard for worker in live for shard in worker.shards})} of {len(self._shards)}"),
            ("last sweep", _ago(self._swept_age())),
            ("accepted /s", per_s[0]),
            ("applied /s", per_s[1]),
            (f"lag p50 / p99{'' if is_recent else ', ever'}", f"{duration(p50)} / {duration(p99)}"),
            ("clears in", duration(facts.clears_in_s)),
            ("Redis memory", f"{size(redis.used_bytes)}{limit}" if redis else "-"),
            ("Redis persistence", redis.persistence if redis else "-"),
        ]

    def _disk_figures(self) -> list[tuple[str, str]]:
        home = self.facts.home
        free = "does not exist yet" if home and not home.exists else f"{size(home.free_bytes)} free" if home else None
        return [
            ("home", free or "not on this host"),
            ("index", "-" if home is None or home.index_bytes is None else size(home.index_bytes)),
        ]

    @property
    def waiting(self) -> list[ShownThread]:
        """The threads that wait longest."""
        return [
            ShownThread(
                thread.thread_id,
                duration(self.facts.age(thread.since)),
                thread.tasks,
                " ".join(filter(None, (_circumstance(thread.failures, is_parked=thread.is_parked), thread.reason))),
            )
            for thread in self.facts.longest
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the status as JSON: durations in seconds, sizes in bytes, None for what is not known."""
        facts, statistics = self.facts, self.facts.statistics
        p50, p99, is_recent = self._lag()
        return {
            "state": self.state,
            "is_well": self.is_well,
            "sentence": str(self.findings[0]),
            "findings": [finding.as_dict() for finding in self.findings],
            "at": self.at,
            "deployment": facts.place,
            "oldest_unapplied_s": facts.oldest_s,
            "clears_in_s": facts.clears_in_s,
            "accepted_per_s": facts.rates and facts.rates.accepted_per_s,
            "applied_per_s": facts.rates and facts.rates.applied_per_s,
            "lag": {"p50_s": p50, "p99_s": p99, "is_recent": is_recent},
            "last_sweep_s": self._swept_age(),
            "shards": [asdict(shard) for shard in statistics.shards] if statistics else None,
            "workers": [asdict(worker) for worker in statistics.workers] if statistics else None,
            "redis": facts.redis and asdict(facts.redis),
            "home": facts.home and asdict(facts.home),
            "longest_waiting": [{**asdict(thread), "age_s": facts.age(thread.since)} for thread in facts.longest],
        }

    @property
    def _shards(self) -> tuple[ShardStatistics, ...]:
        return self.facts.statistics.shards if self.facts.statistics else ()

    @property
    def _workers(self) -> tuple[WorkerSign, ...]:
        return self.facts.statistics.workers if self.facts.statistics else ()

    def _sum(self, number: Callable[[ShardStatistics], int]) -> str:
        return f"{sum(map(number, self._shards)):,}"

    def _swept_age(self) -> float | None:
        swept = [shard.swept_at for shard in self._shards if shard.swept_at is not None]
        return self.facts.age(max(swept)) if swept else None

    def _lag(self) -> tuple[float | None, float | None, bool]:
        """Return two percentiles of the tasks that were just applied or, if there are none, of all; and which it was."""
        rates, statistics = self.facts.rates, self.facts.statistics
        is_recent = rates is not None and any(rates.lag.counts)
        lag = rates.lag if is_recent and rates else lag_of(statistics) if statistics else None
        return (None, None, False) if lag is None else (lag.percentile(50), lag.percentile(99), is_recent)


def _ago(seconds: float | None) -> str:
    return "-" if seconds is None else f"{duration(seconds)} ago"


def _circumstance(failures: int, *, is_parked: bool) -> str:
    if is_parked:
        return "parked:"
    return f"retry {failures}:" if failures else ""
