"""Which part of an observed patch still counts, where several writers observe one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from livethread.metadata import FIRST_OBSERVED, ThreadMetadataPatch
from livethread.types import START, Position, position_key

if TYPE_CHECKING:
    from livethread.metadata import StoredThread
    from livethread_worker.store.state import ThreadState


def resolve(
    state: ThreadState, patch: ThreadMetadataPatch, observed_from: Position | None, position: Position
) -> None:
    """Apply *patch* to the state's thread, whatever order the observations of several writers arrive in.

    A patch that somebody asked for is literal. An observed one follows from the items, so the outcome must be
    that of reading the items in order: of two observations of a field the later item's counts, and of a field
    that the first item decides, the earlier one's.
    """
    assert state.thread is not None
    if observed_from is None:
        for name in patch.changes():
            state.observed[name] = START if name in FIRST_OBSERVED else position
        state.thread = state.thread.patched(patch)
        return
    changes = {
        name: value
        for name, value in patch.changes().items()
        if _counts(state.thread, name, observed_from, state.observed.get(name))
    }
    if "updated_at" in changes:
        changes["updated_at"] = max(changes["updated_at"], state.thread.updated_at)
    state.observed |= dict.fromkeys(changes, observed_from)
    state.thread = state.thread.patched(ThreadMetadataPatch(**changes))


def _counts(thread: StoredThread, name: str, observed_from: Position, known: Position | None) -> bool:
    if name in FIRST_OBSERVED:
        present: Any = getattr(thread, name)
        is_earlier = known is not None and position_key(observed_from) < position_key(known)
        return not present or is_earlier
    return known is None or position_key(observed_from) >= position_key(known)
