"""How commands print: tables and progress bars for people, JSON for programs.

Tables and bars need rich, which the worker extra installs; ``--json`` and ``--help`` do not.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
import orjson

if TYPE_CHECKING:
    from rich.console import Console

#: Maximum number of lines for findings of one kind; a copied home may have thousands.
SHOWN_OF_A_KIND: Final = 20

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
fresh_option = click.option(
    "--fresh", is_flag=True, help="First wait until workers have applied what Redis accepted."
)


def console(*, stderr: bool = False) -> Console:
    """Return the console to print on."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


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
            click.echo(f"{kind}: {line}")
    for kind, count in shown.items():
        if count > SHOWN_OF_A_KIND:
            click.echo(f"{kind}: … and {count - SHOWN_OF_A_KIND} more; --json shows all")
    return ", ".join(f"{count} {kind}" for kind, count in sorted(shown.items()))


def one_line(text: str, width: int) -> str:
    """Return *text* on one line of at most *width* characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def compact(value: Any) -> str:
    """Return *value* as JSON on one line, or unchanged if it is a string."""
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    )


def local_time(at: datetime) -> str:
    """Return *at* in the reader's time zone, to the second."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
