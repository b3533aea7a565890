"""``make bench``: measures livethread and the parts it is built on, and prints both."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import (
    chart,
    day,
    deleting,
    history,
    listing,
    memory,
    queueing,
    rebuilding,
    report,
    scale,
    sessions,
    writing,
    year,
)
from livethread.cli.output import json_option, print_json

#: The parts measured by default; the others take minutes.
DEFAULT_PARTS: Final = ("queue", "sessions", "listing", "rebuild", "history", "writing")
PARTS: Final = (*DEFAULT_PARTS, "scale", "deleting", "memory", "day", "year")

#: Distributions whose versions matter to a result; some may not be installed.
_DISTRIBUTIONS: Final = ("livethread", "celery", "redis", "openai-agents")


def _sizes(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    return tuple(sorted(int(size) for size in value.split(",")))


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option(
    "--sizes",
    default="1000,10000,100000",
    callback=_sizes,
    help="Numbers of threads in the homes of listing and scale.",
)
@click.option("--threads", default=2000, help="Number of threads to rebuild.")
@click.option("--items", default=5000, help="Number of items in the history.")
@click.option("--lines", default=1_000_000, help="Number of lines in the thread to append to.")
@click.option("--deletions", default=50_000, help="Number of threads in the deleting part.")
@click.option("--appends", default=1_000_000, help="Number of appends in the memory part.")
@click.option("--day-threads", default=50_000, help="Number of threads in the day part.")
@click.option(
    "--year-threads", default=5_000, help="Number of short threads in the year part, and half of the larger one."
)
@click.option("--repeats", default=5, type=click.IntRange(5), help="Number of measurements; the median is reported.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the homes in this folder, and reuse those in it.")
@click.option("--chart", "drawing", type=click.Path(path_type=Path), help="Draw queue and sessions as an SVG.")
@json_option
def main(
    parts: tuple[str, ...],
    *,
    sizes: tuple[int, ...],
    threads: int,
    items: int,
    lines: int,
    deletions: int,
    appends: int,
    day_threads: int,
    year_threads: int,
    repeats: int,
    keep: Path | None,
    drawing: Path | None,
    as_json: bool,
) -> None:
    """Measure PARTS of livethread; all but scale, deleting, memory, day and year by default."""
    with _folder(keep) as folder:
        runs: dict[str, Callable[[], Any]] = {
            "queue": lambda: queueing.run(repeats),
            "sessions": lambda: sessions.run(items, repeats),
            "listing": lambda: listing.run(folder, sizes, repeats),
            "rebuild": lambda: rebuilding.run(folder, threads, repeats),
            "history": lambda: history.run(folder, items, repeats),
            "writing": lambda: {
                "batch": writing.batches(listing.made_home(folder, sizes[-1]), sizes[-1], repeats),
                "append": writing.appends(folder, lines, repeats),
            },
            "scale": lambda: scale.run(folder, sizes, repeats),
            "deleting": lambda: deleting.run(folder, deletions),
            "memory": lambda: memory.run(appends, max(appends // 10, 1)),
            "day": lambda: day.run(day_threads),
            "year": lambda: year.run(year_threads),
        }
        results = {part: runs[part]() for part in parts or DEFAULT_PARTS}
    versions = _versions(results)
    if drawing is not None:
        _draw(drawing, results, versions)
    if as_json:
        print_json({"versions": versions, "machine": platform.machine(), "cores": os.cpu_count()} | results)
    else:
        report.print_results(results, sizes)
        click.echo(f"{_said(versions)}; {os.cpu_count()} cores, {platform.machine()}")


def _draw(path: Path, results: dict[str, Any], versions: dict[str, str]) -> None:
    panels = chart.panels(results)
    if not panels:
        raise click.UsageError("--chart draws the parts queue and sessions, and neither was measured")
    notes = [
        f"make bench, medians of one run on {os.cpu_count()} cores, {platform.machine()}.",
        f"{_said(versions)}.",
    ]
    path.write_text(chart.draw(panels, notes), encoding="utf-8")


def _versions(results: dict[str, Any]) -> dict[str, str]:
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    if queue := results.get("queue"):
        name, _, version = queue["server"].partition(" ")
        versions[name] = version
    return versions


def _said(versions: dict[str, str]) -> str:
    # The Python client and the server may both be called redis.
    return ", ".join(f"{'redis-py' if name == 'redis' else name} {version}" for name, version in versions.items())


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="livethread-bench-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
