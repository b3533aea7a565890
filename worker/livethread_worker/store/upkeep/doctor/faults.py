"""The faults that a home can have."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class FaultKind(StrEnum):
    """Kinds of faults, each with its meaning and its repair."""

    #: The index is missing or damaged: it is moved to the quarantine and rebuilt.
    DAMAGED_INDEX = "damaged_index"
    #: A rollout is not in the index: it is read.
    UNINDEXED_FILE = "unindexed_file"
    #: A thread in the index has no rollout: its row is moved to the quarantine.
    ROW_WITHOUT_FILE = "row_without_file"
    #: The index has a wrong path for the rollout: it is corrected.
    MOVED_FILE = "moved_file"
    #: The index has a wrong length for the rollout: the rollout is read again.
    LENGTH_MISMATCH = "length_mismatch"
    #: The index has a wrong number of records: the rollout is read again.
    ORDINAL_MISMATCH = "ordinal_mismatch"
    #: The index has different messages or turns: the rollout is read again.
    STALE_SEARCH = "stale_search"
    #: The index's full text is damaged or differs from its rows: it is rebuilt from these.
    STALE_FULL_TEXT = "stale_full_text"
    #: The name in the index differs from the files: it is corrected.
    STALE_NAME = "stale_name"
    #: A thread without a rollout has a name: its lines are moved to the quarantine.
    NAME_WITHOUT_THREAD = "name_without_thread"
    #: The last line is incomplete: it is moved to the quarantine.
    TORN_TAIL = "torn_tail"
    #: A line is not UTF-8, and codex cannot read the thread: invalid bytes become U+FFFD, the quarantine keeps the line.
    INVALID_UTF8 = "invalid_utf8"
    #: A line is not one record: records in it become lines of their own, and anything else is removed.
    BAD_LINE = "bad_line"
    #: A line says something that no reader accepts, such as a number beyond the range of a float. It is not repaired.
    UNREADABLE_LINE = "unreadable_line"
    #: The rollout does not begin with its ``session_meta``, and codex cannot read the thread: the one from further down is
    #: copied, or a minimal one is added; a file without any record is moved to the quarantine.
    NO_SESSION_META = "no_session_meta"
    #: A compressed rollout is damaged: its readable part is decompressed, and the quarantine keeps the file.
    DAMAGED_FILE = "damaged_file"
    #: The rollout's suffix does not fit its content, and codex cannot read it: it is renamed.
    MISNAMED_FILE = "misnamed_file"
    #: Every ``session_meta`` of a rollout names another thread than the file name. It is not repaired.
    WRONG_NAME = "wrong_name"
    #: The name of a file among the rollouts is not a rollout's. It is not repaired.
    UNRECOGNIZED_FILE = "unrecognized_file"
    #: A rollout cannot be opened: it is not a file, or we lack the permission. It is not repaired.
    UNREADABLE_FILE = "unreadable_file"
    #: A thread has several rollouts: the one that begins with all others stays, or else the one in the index.
    DUPLICATE_ID = "duplicate_id"
    #: A rollout that a thread continues is missing or too short, so its history cannot be read. It is not repaired.
    BROKEN_LINEAGE = "broken_lineage"
    #: codex rewrote the rollout, and its original is missing or damaged. What the index knows is written into the rollout;
    #: without the index, counters, idempotency keys and patches from before are lost.
    REWRITTEN_FILE = "rewritten_file"
    #: Another program deleted a rollout, and its original is there: it is deleted, too.
    ORIGINAL_WITHOUT_FILE = "original_without_file"
    #: A crash left an incomplete copy of a rollout: it is deleted.
    UNFINISHED_COPY = "unfinished_copy"
    #: Other users may read or write a file: only its owner gets access.
    BAD_PERMISSIONS = "bad_permissions"
    #: A symlink leads out of the home, and is not followed. It is not repaired: remove it, or import its target.
    LINK_OUT = "link_out"


#: Faults on which the user has to decide.
UNREPAIRABLE: Final = frozenset({
    FaultKind.BROKEN_LINEAGE,
    FaultKind.LINK_OUT,
    FaultKind.UNREADABLE_FILE,
    FaultKind.UNREADABLE_LINE,
    FaultKind.UNRECOGNIZED_FILE,
    FaultKind.WRONG_NAME,
})


@dataclass(slots=True)
class Fault:
    """One fault of a home."""

    kind: FaultKind
    #: Relative to the home.
    path: str
    detail: str
    thread_id: str | None = None
    #: How it was repaired, and where the quarantine keeps what was removed; None if it was not repaired.
    repair: str | None = None


@dataclass(slots=True)
class DoctorReport:
    """The result of an examination."""

    threads: int = 0
    faults: list[Fault] = field(default_factory=list)
    #: Threads, or the file of the index, that stayed locked and were not, or only partly, examined.
    busy: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Return whether everything was examined and every fault was repaired."""
        return not self.busy and all(fault.repair for fault in self.faults)
