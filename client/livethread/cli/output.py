"""How commands print: tables and bars for people, JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from datetime import datetime

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def console(*, stderr: bool = False) -> Console:
    """Return the console to print on."""
    return Console(stderr=stderr, highlight=False)


def progress() -> Progress:
    """Return a progress bar on stderr, so that stdout stays what the command prints."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
    )


def print_json(value: Any) -> None:
    """Print *value* as indented JSON."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str))


def one_line(text: str, width: int) -> str:
    """Return *text* on one line of at most *width* characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def local_time(at: datetime) -> str:
    """Return *at* in the reader's time zone, to the second."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
