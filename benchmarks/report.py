"""Prints results as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from benchmarks import listing

#: Headings of the column with the counterpart.
_WHAT: Final = "bare is"
_BESIDE: Final = "compared with"


def print_results(results: dict[str, Any], sizes: Sequence[int]) -> None:
    """Print *results*, by part."""
    if queue := results.get("queue"):
        _print_table(("the queue", "measured", "ratio", _BESIDE), list(_queue_rows(queue)))
    if sessions := results.get("sessions"):
        _print_sessions(sessions)
    if sizes_over_time := results.get("memory"):
        rows = [
            (str(each["appends"]), *(f"{each[name] / 1e6:.1f}" for name in ("client", "worker", "redis")))
            for each in sizes_over_time
        ]
        _print_table(("appends", "client, MB", "worker, MB", "Redis, MB"), rows)
    if records := results.get("listing"):
        _print_listing(records, sizes)
    if records := results.get("scale"):
        _print_scale(records)
    if deleted := results.get("deleting"):
        rates = (f"{deleted[name]:.0f}/s" for name in ("accepted_per_s", "applied_per_s"))
        row = (f"{deleted['deletions']} in a row", *rates, str(deleted["expired"]))
        _print_table(("deletions", "accepted", "applied", "expired claims"), [row])
    if played := results.get("day"):
        _print_stages(f"a day of {played['threads']} threads", played["stages"])
    if played := results.get("year"):
        _print_year(played)
    _print_bare(results)


def _queue_rows(queue: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for shape in queue["shapes"].values():
        threads = "threads" if shape["threads"] > 1 else "thread"
        what = f"{shape['threads']} {threads} x {shape['appends']} appends, all durable"
        beside = f"one Celery task each: {shape['naive_per_s']:.0f}/s"
        yield what, f"{shape['per_s']:.0f}/s", f"{shape['ratio']:.1f}", beside
    limits = queue["limits"]
    details = {
        "redis": "pipelined XADDs alone",
        "files": f"files alone, synced every {limits['lines_at_a_time']} lines",
        "sqlite": f"SQLite alone, {limits['operations_at_a_time']} operations per transaction",
    }
    for name, what in details.items():
        limit = limits[name]
        yield "the first, compared with its limits", "", f"{limit['part']:.2f}", f"{what}: {limit['per_s']:.0f}/s"
    for name, by_workers in queue["workers"].items():
        shape = queue["shapes"][name]
        for workers, measured in by_workers.items():
            if workers != "1":
                yield (
                    f"{shape['threads']} x {shape['appends']}, {workers} workers",
                    f"{measured['per_s']:.0f}/s",
                    f"{measured['naive_ratio']:.1f}",
                    f"one Celery task each; {measured['ratio']:.2f} of one worker",
                )
    yield "CPU of the client, an append of 50 threads", f"{queue['client_cpu_us']:.0f} us", "", ""
    steady = queue["steady"]
    for percentile in ("p50", "p99"):
        yield f"until durable, {percentile}", f"{steady[percentile] * 1000:.1f} ms", "", f"at {steady['per_s']}/s"
    what = f"Celery messages, {steady['seconds']:.0f} s at {steady['per_s']}/s"
    yield what, str(steady["celery_messages"]), "", f"{steady['per_s'] * steady['seconds']:.0f} operations"


def _print_sessions(sessions: dict[str, Any]) -> None:
    names = dict.fromkeys((*sessions["append"], *sessions["read"]))

    def cell(what: str, name: str) -> str:
        return f"{sessions[what][name] * 1000:.2f}" if name in sessions[what] else ""

    _print_table(
        ("a session", "an append, ms", f"reading {sessions['items']} items, ms"),
        [(name, cell("append", name), cell("read", name)) for name in names],
    )
    if not sessions["has_agents"]:
        click.echo("openai-agents is not installed, so its sessions are left out; `make bench` installs it\n")


def _print_bare(results: dict[str, Any]) -> None:
    """Print each result next to its bare counterpart."""
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
    """Print one line for each filter: the worst of all keys and directions."""
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


def _print_scale(records: list[dict[str, Any]]) -> None:
    """Print one line for each operation."""
    first, last = records[0], records[-1]
    rows = [
        (name, *(f"{each[name] * 1000:.2f}" for each in records), f"{last[name] / first[name]:.1f}")
        for name in first
        if name != "threads"
    ]
    times = (f"{each['threads']} threads, ms" for each in records)
    _print_table(("in a folder of all threads", *times, "growth"), rows)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print *rows*: text left-aligned in the first column and after the numbers, numbers right-aligned."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (
            cell.ljust(width) if heading in {headings[0], _WHAT, _BESIDE} else cell.rjust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
    click.echo()


def _print_stages(what: str, stages: dict[str, dict[str, int]], **further: list[str]) -> None:
    """Print one line for each thing that is occupied, with a column for each stage."""
    first = next(iter(stages.values()))
    rows = [
        (name, *(_amount(name, each[name]) for each in stages.values()), *(column[at] for column in further.values()))
        for at, name in enumerate(first)
    ]
    _print_table((what, *stages, *(name.replace("_", " ") for name in further)), rows)


def _print_year(played: dict[str, Any]) -> None:
    stages = played["stages"]
    _, fewer, _, more, _ = stages.values()
    per_thread = [f"{(more[name] - fewer[name]) / played['threads']:.2f}" for name in fewer]
    _print_stages("short threads", stages, days_later_a_thread=per_thread)
    _print_stages("processes", played["processes"])
    busy = {f"day {each['day']}": each for each in played["busy"]}
    _print_stages("a busy thread", {day: {k: v for k, v in each.items() if k != "day"} for day, each in busy.items()})


def _amount(name: str, value: int) -> str:
    return f"{value / 1e6:.1f} MB" if name.endswith("bytes") else str(value)
