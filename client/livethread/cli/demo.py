"""``livethread demo``: agent sessions, Redis and workers on this machine, checked line by line."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from livethread import types
from livethread.cli.demo_session import agent_session
from livethread.cli.output import console, json_option, print_json, progress
from livethread.composition import open_store
from livethread.errors import Internal
from livethread.journal import journaled
from livethread.live_thread import LiveThread
from livethread.metadata import GitInfo, GitInfoPatch, ThreadMetadataPatch
from livethread.observers import ItemsAppended, MetadataUpdated, TasksApplied, ThreadEvent
from livethread.policy import persisted_items
from livethread.position import position_key
from livethread.rollout.item import RolloutItem
from livethread.store import ThreadStore
from livethread_config import Settings
from livethread_worker.embedded.supervisor import Supervisor

if TYPE_CHECKING:
    #: The items of a session, turn by turn.
    _Script = list[list[RolloutItem]]

#: Turns of a session; it flushes after each, as an agent does when it answers.
TURNS: Final = 6

WORKERS: Final = 2


#: A position in the order of its thread, and a time in seconds.
_At = tuple[tuple[int, int], float]


@dataclass
class Run:
    """What the demonstration did and measured."""

    home: Path
    #: The calls of all writers, with their answers.
    journal: Path
    threads: list[str] = field(default_factory=list)
    items: int = 0
    dropped: int = 0
    tasks: int = 0
    lines: int = 0
    seconds: float = 0.0
    killed: int = 0
    #: The beginning of each append, by thread.
    called: dict[str, list[_At]] = field(default_factory=lambda: defaultdict(list))
    #: The times at which tasks were durable, by thread.
    applied: dict[str, list[_At]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)

    def observe(self, event: ThreadEvent) -> None:
        """Count the tasks that Redis accepted, and note when tasks are durable."""
        if isinstance(event, TasksApplied):
            self.applied[event.thread_id].append((position_key(event.position), time.perf_counter()))
        else:
            self.tasks += isinstance(event, ItemsAppended | MetadataUpdated)

    def latencies(self) -> Iterator[float]:
        """Yield the seconds from each call of an append until it was durable."""
        for thread_id, calls in self.called.items():
            applied = sorted(self.applied[thread_id])
            for position, called_at in calls:
                first = bisect_left(applied, (position, 0.0))
                if first < len(applied):
                    yield applied[first][1] - called_at

    def as_dict(self) -> dict[str, Any]:
        """Return the figures."""
        hundredths = statistics.quantiles([*self.latencies()] or [0.0, 0.0], n=100, method="inclusive")
        return {
            "home": str(self.home),
            "journal": str(self.journal),
            "threads": len(self.threads),
            "items": self.items,
            "dropped_by_policy": self.dropped,
            "tasks": self.tasks,
            "lines": self.lines,
            "seconds": round(self.seconds, 3),
            "tasks_per_second": round(self.tasks / self.seconds) if self.seconds else 0,
            "p50_ms": round(hundredths[49] * 1000, 2),
            "p99_ms": round(hundredths[98] * 1000, 2),
            "workers_killed": self.killed,
            "problems": self.problems,
        }


@click.command("demo")
@click.option(
    "--threads", type=click.IntRange(2, 1000), default=48, show_default=True, help="Number of concurrent sessions."
)
@click.option("--kill", is_flag=True, help="Kill a worker half-way (kill -9).")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write to this directory, not to a temporary one.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the invented sessions.")
@json_option
def command(threads: int, kill: bool, home: Path | None, seed: int, as_json: bool) -> None:
    """See it work: agent sessions, workers, and every line checked.

    Starts an embedded Redis and two workers, plays concurrent agent sessions, and compares every rollout line by line
    with what was sent, as `livethread verify` does. It ends by itself, and the threads stay for you to look at.
    LIVETHREAD_REDIS_URL is ignored.
    """
    from livethread_worker.embedded.runtime import running

    settings = Settings(home=home or Path(tempfile.mkdtemp(prefix="livethread-demo-")), redis_url=None)
    click.echo(f"Starting Redis and {WORKERS} workers in {settings.home} …", err=True)
    with running(settings, workers=WORKERS) as processes:
        run = asyncio.run(_play(settings, processes, threads=threads, kill=kill, seed=seed, quiet=as_json))
    if as_json:
        print_json(run.as_dict())
    else:
        _print(run)
    if run.problems:
        raise Internal(f"{len(run.problems)} problems, the first: {run.problems[0]}")


async def _play(
    settings: Settings, processes: Supervisor, *, threads: int, kill: bool, seed: int, quiet: bool
) -> Run:
    run = Run(settings.home, settings.own_dir / "demo.jsonl")
    run.journal.unlink(missing_ok=True)  # of an earlier demonstration in this home
    chance = random.Random(seed)  # noqa: S311 - not a secret
    scripts = [[agent_session(chance, turn) for turn in range(TURNS)] for _ in range(threads)]
    # One thread has a second writer, with a store of its own like another process.
    second = [agent_session(chance, turn) for turn in range(TURNS)]
    turns = [turn for script in (*scripts, second) for turn in script]
    total = sum(map(len, turns))
    run.items = total
    run.dropped = total - sum(len(persisted_items(turn)) for turn in turns)
    with progress("appending", total, quiet=quiet) as advance_bar:
        steps = iter(range(total))

        def advance() -> None:
            advance_bar(1)
            if kill and next(steps) == total // 2:
                processes.kill("worker.2", signal.SIGKILL)
                run.killed += 1

        async with AsyncExitStack() as stack:
            stores = [await _open(stack, settings, run, name) for name in ("one process", "another process")]
            begun = time.perf_counter()
            await asyncio.gather(
                _two_writers(stores, (scripts[0], second), run, advance),
                *(_one_writer(stores[0], script, run, advance) for script in scripts[1:]),
            )
            run.seconds = time.perf_counter() - begun
    _check(settings, run)
    return run


async def _open(stack: AsyncExitStack, settings: Settings, run: Run, process: str) -> ThreadStore:
    store = await stack.enter_async_context(open_store(settings))
    store.observers.subscribe(run.observe)
    return stack.enter_context(journaled(store, run.journal, process))


async def _one_writer(store: ThreadStore, script: _Script, run: Run, advance: Callable[[], None]) -> None:
    thread = await LiveThread.create(store, _params())
    run.threads.append(thread.thread_id)
    await _perform(thread, script, run, advance)
    name = f"Session {thread.thread_id[-4:]}"
    await thread.update_metadata(ThreadMetadataPatch(name=name, git_info=GitInfoPatch(branch="fix/build")))
    await thread.shutdown()


async def _two_writers(
    stores: list[ThreadStore], scripts: tuple[_Script, _Script], run: Run, advance: Callable[[], None]
) -> None:
    first = await LiveThread.create(stores[0], _params())
    run.threads.append(first.thread_id)
    await first.persist()
    second = await LiveThread.resume(stores[1], types.ResumeThreadParams(thread_id=first.thread_id))
    await asyncio.gather(_perform(first, scripts[0], run, advance), _perform(second, scripts[1], run, advance))
    await first.update_metadata(ThreadMetadataPatch(name="Two writers"))
    await asyncio.gather(first.shutdown(), second.shutdown())


async def _perform(thread: LiveThread, script: _Script, run: Run, advance: Callable[[], None]) -> None:
    """Append the items of *script* one by one, and flush after each turn."""
    for turn in script:
        for item in turn:
            called_at = time.perf_counter()
            receipt = await thread.append_items([item])
            if persisted_items([item]):
                run.called[thread.thread_id].append((position_key(receipt.position), called_at))
            advance()
        await thread.flush()


def _check(settings: Settings, run: Run) -> None:
    """Compare every rollout, line by line, with the calls of its writers."""
    from livethread_worker.store.files.home import Home
    from livethread_worker.verify import verify

    report = verify(Home(settings.home), [run.journal])
    run.lines = report.lines
    run.problems = [
        f"{found.kind}: {found.thread_id}: {found.detail}"
        for found in report.violations
        if found.thread_id in run.threads  # an older home may have faults of its own
    ]
    kept = run.items - run.dropped
    if report.applied != kept:
        run.problems.append(f"the rollouts have {report.applied} items, and the policy keeps {kept}")


def _params() -> types.CreateThreadParams:
    return types.CreateThreadParams(cwd="/repo", model_provider="openai", source="cli", git=GitInfo(branch="main"))


def _print(run: Run) -> None:
    from rich.markup import escape
    from rich.table import Table

    figures = run.as_dict()
    out = console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for row in _rows(figures):
        table.add_row(*row)
    out.print(table)
    if run.problems:
        for problem in run.problems[:20]:
            out.print(f"[red]✗[/] {escape(problem)}")
        return
    out.print("[green]✓[/] every line is there once, in order: nothing lost, nothing twice")
    out.print("\nWhat to try next:")
    livethread = "livethread" if shutil.which("livethread") else sys.argv[0]
    for line in (
        f"LIVETHREAD_HOME={run.home} {livethread} ls",
        f"LIVETHREAD_HOME={run.home} {livethread} show {run.threads[0]}",
        f"LIVETHREAD_HOME={run.home} {livethread} verify {run.journal}    checks every line again",
        f"{livethread} demo --kill    plays it again and kills a worker half-way",
        f"{livethread} up    runs Redis, workers and Flower for your own sessions: see README.md",
        f"rm -r {run.home}    removes what the demonstration wrote",
    ):
        out.print(f"  {escape(line)}", soft_wrap=True)


def _rows(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "threads", f"{figures['threads']:,} (one with two writers)"
    yield "items sent", f"{figures['items']:,} (codex's policy drops {figures['dropped_by_policy']:,} of them)"
    yield "ordered tasks", f"{figures['tasks']:,}"
    yield "lines on disk", f"{figures['lines']:,}"
    yield "tasks per second", f"{figures['tasks_per_second']:,}"
    yield "enqueue to durable", f"p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms"
    if figures["workers_killed"]:
        yield "workers killed", f"{figures['workers_killed']}"
