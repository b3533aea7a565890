"""``make bench``: run the benchmarks and print what the store costs beside what it stands on."""

from __future__ import annotations

import contextlib
import platform
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks import history, listing, rebuilding, writing
from livethread.cli.output import json_option, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Heading of the column that says what a figure is compared with.
_WHAT: Final = "bare is"
PARTS: Final = ("listing", "rebuild", "history", "writing")


def _sizes(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    return tuple(sorted(int(size) for size in value.split(",")))


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--sizes", default="1000,10000,100000", callback=_sizes, help="Threads of the homes to list.")
@click.option("--threads", default=2000, help="Threads to rebuild from.")
@click.option("--items", default=5000, help="Items of the history.")
@click.option("--lines", default=1_000_000, help="Lines of the thread to append to.")
@click.option("--repeats", default=5, type=click.IntRange(5), help="Measurements of which the median is taken.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the homes in this folder, and use those found.")
@json_option
def main(
    parts: tuple[str, ...],
    *,
    sizes: tuple[int, ...],
    threads: int,
    items: int,
    lines: int,
    repeats: int,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Measure PARTS of the store; all of them by default."""
    with _folder(keep) as folder:
        runs: dict[str, Callable[[], Any]] = {
            "listing": lambda: listing.run(folder, sizes, repeats),
            "rebuild": lambda: rebuilding.run(folder, threads, repeats),
            "history": lambda: history.run(folder, items, repeats),
            "writing": lambda: {
                "batch": writing.batches(listing.made_home(folder, sizes[-1]), sizes[-1], repeats),
                "append": writing.appends(folder, lines, repeats),
            },
        }
        results = {part: runs[part]() for part in parts or PARTS}
    if as_json:
        versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
        print_json({"versions": versions, "machine": platform.machine()} | results)
    else:
        _print(results, sizes)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="livethread-bench-") as folder:
        yield Path(folder)


def _print(results: dict[str, Any], sizes: Sequence[int]) -> None:
    if records := results.get("listing"):
        _print_listing(records, sizes)
    rows = []
    if rebuilt := results.get("rebuild"):
        what = f"rebuild, threads of {rebuilt['bytes'] / 1000:.1f} KB"
        rows.append((what, 1 / rebuilt["rebuild_per_s"], 1 / rebuilt["bare_per_s"], "reading and parsing the files"))
    if read := results.get("history"):
        what = f"load_history, {read['items']} items, {read['bytes'] / 1e6:.1f} MB"
        rows.append((what, read["product"], read["bare"], "reading and parsing the file"))
    if written := results.get("writing"):
        batch, append = written["batch"], written["append"]
        what = f"a batch of {batch['batch']} threads x {batch['appends']} appends"
        rows.append((what, batch["product"], batch["bare"], f"without {batch['dropped']} indexes that serve filters"))
        for how, who in (("batch", "a worker"), ("store", "the local store")):
            what = f"an append by {who}, to a thread of {append['lines']} lines"
            rows.append((what, append[how]["product"], append[how]["bare"], "to one of 10 lines"))
    if rows:
        _print_table(
            ("", "ms", "bare, ms", "ratio", _WHAT),
            [(what, f"{a * 1000:.2f}", f"{b * 1000:.2f}", f"{a / b:.2f}", bare) for what, a, b, bare in rows],
        )
    if rebuilt:
        rates = rebuilt["rebuild_per_s"], rebuilt["rebuild_per_cpu_s"]
        click.echo("rebuild: {:.0f} threads/s; {:.0f} in a second of one core".format(*rates))


def _print_listing(records: list[dict[str, Any]], sizes: Sequence[int]) -> None:
    """Print one line a filter: the worst of all keys and directions."""
    rows = []
    for name in dict.fromkeys(record["filter"] for record in records):
        worst = {
            size: max(
                (record for record in records if record["filter"] == name and record["threads"] == size),
                key=lambda record: float(record["product"]),
            )
            for size in sizes
        }
        largest, smallest = worst[sizes[-1]], worst[sizes[0]]
        rows.append((
            name,
            *(f"{worst[size]['product'] * 1000:.2f}" for size in sizes),
            f"{largest['product'] / smallest['product']:.1f}",
            f"{largest['bare'] * 1000:.2f}",
            f"{largest['product'] / largest['bare']:.2f}",
        ))
    times = (f"{size} threads, ms" for size in sizes)
    _print_table((f"a page of {listing.PAGE}, worst key and order", *times, "growth", "bare, ms", "ratio"), rows)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print *rows*: text to the left in the first column and behind the numbers, numbers to the right."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (
            cell.ljust(width) if heading in {headings[0], _WHAT} else cell.rjust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
    click.echo()


if __name__ == "__main__":
    main()
