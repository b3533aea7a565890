"""Finds the trigrams by which substrings are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Maximum number of a term's trigrams that are looked up; each text that they find is checked anyway.
_MAX_TRIGRAMS: Final = 12


def trigrams_of(term: str) -> list[str]:
    """Return trigrams of *term* that together cover it; an empty list if it is shorter than one."""
    starts = [*range(0, len(term) - 2, 3), len(term) - 3]
    return list(dict.fromkeys(term[start : start + 3] for start in starts if start >= 0))[-_MAX_TRIGRAMS:]


def expression(trigrams: Sequence[str]) -> str:
    """Return the FTS5 expression for texts that have all of *trigrams*."""
    return " AND ".join('"{}"'.format(trigram.replace('"', '""')) for trigram in trigrams)
