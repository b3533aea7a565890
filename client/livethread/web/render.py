"""Turns data into HTML: the templates, and what they call."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from livethread.metadata import StoredThread
from livethread.units import duration
from livethread.web.transcript import ShownTurn, title

#: Characters of one text that a page shows; the raw JSONL has all of them.
SHOWN: Final = 20_000
#: Signs at the beginning of a diff's lines -> the class of the line.
_DIFF: Final = {"+": "add", "-": "del", "@": "hunk", "*": "hunk"}

#: HTML in a text stays text. Links to scripts are no links, and images are not loaded.
_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
_MARKDOWN.disable("image")


def markdown(text: str) -> Markup:
    """Return *text* as HTML."""
    return Markup(_MARKDOWN.render(shortened(text)))  # noqa: S704 - markdown-it escapes what is not its own


def shortened(text: str) -> str:
    """Return as much of *text* as a page shows."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}\n… {len(text) - SHOWN:,} more characters: see the JSONL"


def diff(text: str) -> Markup:
    """Return a patch with a class for each line."""
    lines = (
        Markup('<span class="{}">{}</span>').format(_DIFF.get(line[:1], "same"), line)
        for line in shortened(text).split("\n")
    )
    return Markup("\n").join(lines)


def marked(text: str, term: str) -> Markup:
    """Return *text* with each *term* in it marked."""
    parts = re.split(f"({re.escape(term)})", text, flags=re.IGNORECASE) if term else [text]
    return Markup().join(
        Markup("<mark>{}</mark>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts)
    )


def count(number: int) -> str:
    """Return a number of tokens, rounded."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def time(at: datetime) -> Markup:
    """Return a time in UTC; the page's script changes it to the reader's."""
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(f"{utc:%Y-%m-%dT%H:%M:%SZ}", f"{utc:%Y-%m-%d %H:%M}")


def source(thread: StoredThread) -> str:
    """Return where a thread's session runs, in a word or two."""
    value = thread.source
    if isinstance(value, str):
        return value
    kind, detail = next(iter(value.items()), ("unknown", ""))
    return f"{kind} {detail}" if isinstance(detail, str) else kind


@cache
def environment() -> Environment:
    """Return the templates."""
    env = Environment(
        loader=PackageLoader("livethread.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        **{
            function.__name__: function for function in (markdown, diff, marked, duration, count, time, title, source)
        },
        "shortened": shortened,
        "quote": lambda text: quote(text, safe=""),
    }
    return env


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template."""
    return environment().get_template(template).render(values)


def render_turn(thread_id: str, turn: ShownTurn, part: str = "turn", *args: Any) -> str:
    """Return the HTML of a turn, or of a *part* of it: its ``head``, or one of its blocks."""
    module: Any = environment().get_template("turns.html").module  # its macros are attributes
    return str(getattr(module, part)(thread_id, turn, *args))


def asset(name: str) -> str:
    """Return the text of a style or a script."""
    return files("livethread.web").joinpath("static", name).read_text(encoding="utf-8")
