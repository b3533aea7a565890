"""What Redis holds about a thread that a worker has put back."""

from __future__ import annotations

from typing import NamedTuple, Self


class PutBack(NamedTuple):
    """Why a worker has put a thread back, unless a task was applied since."""

    #: Attempts in a row that have failed.
    failures: int = 0
    #: Why the last attempt failed, or could not begin; empty if no worker has put the thread back.
    reason: str = ""

    @classmethod
    def parse(cls, detail: bytes | None) -> Self:
        """Return what *detail* says; other programs may have damaged it."""
        failures, _, reason = (detail or b"").decode(errors="replace").partition(" ")
        return cls(int(failures) if failures.isdecimal() else 0, reason)
