"""Which part of an observed patch still counts, where several writers observe one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from livethread.metadata import ThreadMetadataPatch
from livethread.types import START, Position, position_key

if TYPE_CHECKING:
    from livethread.metadata import StoredThread

#: Fields that the first item to set them decides; every other is decided by the last.
FIRST_OBSERVED: Final = frozenset({"preview", "title", "first_user_message", "cwd"})

#: Mark of every field: whatever was observed before it is known, since the whole file was read.
ALL_FIELDS: Final = "*"

#: Times that observations only ever advance, in whatever order they arrive.
_ADVANCING: Final = frozenset({"updated_at", "advance_recency_at"})


def apply_patch(
    thread: StoredThread,
    marks: dict[str, Position],
    patch: ThreadMetadataPatch,
    *,
    observed_from: Position | None,
    position: Position,
) -> StoredThread:
    """Return *thread* with *patch* applied, whatever order the observations of several writers arrive in.

    A patch that somebody asked for is literal. An observed one follows from the items, so the outcome must be
    that of reading the items in order: of two observations of a field the later item's counts, and of a field
    that the first item decides, the earlier one's. A field of the latter kind that was asked for stays as it
    was set, empty too. *marks* says from which position each field was last observed or set, and is updated.
    """
    if observed_from is None:
        marks |= {name: START if name in FIRST_OBSERVED else position for name in patch.changes()}
        return thread.patched(patch)
    changes = {name: value for name, value in patch.changes().items() if _counts(thread, name, observed_from, marks)}
    if "updated_at" in changes:
        changes["updated_at"] = max(changes["updated_at"], thread.updated_at)
    marks |= dict.fromkeys(changes.keys() - _ADVANCING, observed_from)
    return thread.patched(ThreadMetadataPatch(**changes))


def _counts(thread: StoredThread, name: str, observed_from: Position, marks: dict[str, Position]) -> bool:
    if name == "advance_recency_at":
        return True  # whoever says it, and when, it only ever advances
    if name in FIRST_OBSERVED:
        known = marks.get(name)
        present: Any = getattr(thread, name)
        is_earlier = known is not None and position_key(observed_from) < position_key(known)
        return known != START and (not present or is_earlier)
    known = marks.get(name) or marks.get(ALL_FIELDS)
    return known is None or position_key(observed_from) >= position_key(known)
