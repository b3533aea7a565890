"""Literal search: finds a term anywhere in a text, ignoring case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from livethread.errors import InvalidRequest
from livethread.rollout.search_text import searchable

#: Number of characters that an excerpt shows before and after the match, as in codex.
_BEFORE: Final = 48
_AFTER: Final = 96
_ELLIPSIS: Final = "…"


class Excerpt(NamedTuple):
    """A part of a text, and where in it the match is."""

    text: str
    start: int
    end: int


def literal_term(term: str) -> str:
    """Return *term* in the form that `occurrences` expects: like a `folded` text.

    Raises:
        InvalidRequest: *term* is blank.
    """
    term = searchable(term)
    if not term.strip():
        raise InvalidRequest("a literal search needs a character that is not a space")
    return folded(term)


def folded(text: str) -> str:
    """Return *text* in lower case, character by character: an index into one is valid in the other."""
    lowered = text.lower()
    if len(lowered) != len(text):  # İ becomes two characters
        lowered = "".join(lower if len(lower := char.lower()) == 1 else char for char in text)
    return lowered.replace("\u03c2", "\u03c3")  # final sigma: its form depends on its neighbours


def occurrences(text: str, term: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each occurrence of a `literal_term`; they do not overlap."""
    within = folded(text)
    start = within.find(term)
    while start >= 0:
        yield start, start + len(term)
        start = within.find(term, start + len(term))


def excerpt(text: str, start: int, end: int) -> Excerpt:
    """Return the part of *text* around a match."""
    first, last = max(0, start - _BEFORE), min(len(text), end + _AFTER)
    before, after = _ELLIPSIS if first else "", _ELLIPSIS if last < len(text) else ""
    shift = len(before) - first
    return Excerpt(f"{before}{text[first:last]}{after}", start + shift, end + shift)
