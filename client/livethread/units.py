"""Numbers as a person reads them."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
#: From so many seconds on, minutes are shown.
_MANY_SECONDS: Final = 120
_FEW: Final = 10


def duration(seconds: float | None) -> str:
    """Return a duration: ``28 ms``, ``1.4 s``, ``95 s``, ``12 min``, ``3 h``; ``-`` for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MANY_SECONDS:
        return f"{seconds:.1f} s" if seconds < _FEW else f"{seconds:.0f} s"
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= 2 * size)
    return f"{seconds / size:.0f} {unit}"


def size(count: int) -> str:
    """Return a number of bytes: ``512 B``, ``1.2 GB``, ``47 MB``."""
    for unit_size, unit in _SIZES:
        if count >= unit_size:
            number = count / unit_size
            return f"{number:.1f} {unit}" if number < _FEW else f"{number:.0f} {unit}"
    return f"{count} B"


def counted(count: int, noun: str) -> str:
    """Return *count* and *noun*, in the plural unless it is one."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
