"""How commands print: tables and progress bars on a terminal, whole values into a pipe, JSON for programs.

Tables and bars need rich, which the worker extra installs; pipes, ``--json`` and ``--help`` do not.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import orjson

if TYPE_CHECKING:
    from rich.console import Console

#: Maximum number of lines for findings of one kind; a copied home may have thousands.
SHOWN_OF_A_KIND: Final = 20

#: Control characters, except the ends of lines and tabs.
_CONTROLS: Final = dict.fromkeys(
    {*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}"
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
fresh_option = click.option(
    "--fresh", is_flag=True, help="First wait until workers have applied what Redis accepted."
)
utc_option = click.option("--utc", "in_utc", is_flag=True, help="Show times in UTC, not in the local time zone.")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `print_table`."""

    title: str
    #: Whether a narrow terminal cuts its texts.
    is_cut: bool = False
    #: Shown only on a terminal that has so many characters.
    from_width: int = 0


def console(*, stderr: bool = False) -> Console:
    """Return the console to print on."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print *rows* as a table on a terminal; elsewhere a line each, with a tab between values, and nothing cut."""
    flat = [[one_line(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in flat:
            click.echo("\t".join(row))
        return
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    out = console()
    shown = [n for n, column in enumerate(columns) if column.from_width <= out.width]
    widths = {n: max(cell_len(text) for text in (columns[n].title, *(row[n] for row in flat))) for n in shown}
    cut = [n for n in shown if columns[n].is_cut]
    room = out.width - sum(widths[n] for n in shown if n not in cut) - len(shown)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for n in shown:
        limit = max(1, room // len(cut)) if n in cut else None
        table.add_column(columns[n].title, no_wrap=n in cut, overflow="ellipsis", max_width=limit)
    for row in flat:
        table.add_row(*(Text(row[n]) for n in shown))
    out.print(table)


@contextlib.contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, unless *quiet*; yield the function that advances it."""
    if quiet:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True)) as bar:
        shown = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(shown, steps)


def print_json(value: Any) -> None:
    """Print *value* as indented JSON."""
    click.echo(as_indented_json(value))


def as_indented_json(value: Any) -> bytes:
    """Return *value* as indented JSON."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(value, ensure_ascii=False, indent=2, default=str).encode()


def print_findings(findings: Iterable[tuple[str, str]]) -> str:
    """Print *findings*, pairs of a kind and a line, up to `SHOWN_OF_A_KIND` of each kind.

    Returns the number of findings of each kind, as text; empty if there are no findings.
    """
    shown: Counter[str] = Counter()
    for kind, line in findings:
        shown[kind] += 1
        if shown[kind] <= SHOWN_OF_A_KIND:
            click.echo(printable(f"{kind}: {line}"))
    for kind, count in shown.items():
        if count > SHOWN_OF_A_KIND:
            click.echo(f"{kind}: … and {count - SHOWN_OF_A_KIND} more; --json shows all")
    return ", ".join(f"{count} {kind}" for kind, count in sorted(shown.items()))


def printable(text: str) -> str:
    """Return *text* without characters that a terminal would obey: texts of threads could move, rename or fake anything."""
    return text.translate(_CONTROLS)


def one_line(text: str, width: int | None = None) -> str:
    """Return *text*, made printable, on one line of at most *width* characters."""
    flat = printable(" ".join(text.split()))
    return flat if width is None or len(flat) <= width else flat[: width - 1] + "…"


def compact(value: Any) -> str:
    """Return *value* as JSON on one line, or unchanged if it is a string."""
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    )


def shown_time(at: datetime, *, in_utc: bool) -> str:
    """Return *at* to the second, in the reader's time zone or in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if in_utc else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
