"""Positions: the places of tasks in their thread's order."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from livethread.errors import Conflict

#: A task's place in its thread's order. Opaque: sort by `position_key`.
Position = Annotated[str, Field(pattern=r"^[0-9]+-[0-9]+$")]

#: The position before the first task.
START: Final[Position] = "0-0"


def position_key(position: Position) -> tuple[int, int]:
    """Return the sort key that orders positions of one thread."""
    high, _, low = position.partition("-")
    return int(high), int(low)


def require_position(thread_id: str, shown: Position, at_least: Position | None) -> None:
    """Check that a read that shows everything up to *shown* reaches *at_least*.

    Raises:
        Conflict: it does not.
    """
    if at_least is None or position_key(at_least) <= position_key(shown):
        return
    if shown == START:
        raise Conflict(
            f"it is not known which position of thread {thread_id} is applied, since its index was rebuilt or another "
            "program wrote the thread; read without at_least"
        )
    raise Conflict(
        f"thread {thread_id} has no position {at_least}; its last one is {shown}. Read with a position of this thread, or without at_least",
        shown,
    )
