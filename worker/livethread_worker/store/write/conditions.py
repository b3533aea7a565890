"""On what conditions a `LocalThreadStore` applies a change: what Redis asks of a task, asked under the thread's lock."""

from __future__ import annotations

from livethread.errors import Conflict
from livethread.open_threads import taken_over
from livethread.ordered_tasks import AppendItems, OrderedTask
from livethread.types import START, Position
from livethread_worker.store.thread_state import ThreadState


def require_position(last: Position, expected: Position | None) -> None:
    """Return where *last* is the *expected* position of a stored thread, or none is expected.

    Raises:
        Conflict: it is another one, or it is not known.
    """
    if expected is not None and last == START:
        raise Conflict(
            "the thread's last position is not known since its index was made again; "
            "read it, and append once without expected_position"
        )
    if expected is not None and expected != last:
        raise Conflict.of_position(last, expected)


def epoch_of_change(state: ThreadState, epoch: int | None) -> int:
    """Return the epoch of a writer that changes the thread, and bring the thread to it: it may be lost with the index.

    A writer that knows none (None) has the thread's.

    Raises:
        Conflict: the thread's is newer.
    """
    if epoch is None:
        return state.epoch
    if epoch < state.epoch:
        raise taken_over(state.thread_id)
    state.epoch = max(state.epoch, epoch)
    return epoch


def key_of(task: OrderedTask | None) -> str | None:
    """Return the idempotency key that *task* names."""
    header = task.header if task is not None else None
    return header.idempotency_key if isinstance(header, AppendItems) else None
