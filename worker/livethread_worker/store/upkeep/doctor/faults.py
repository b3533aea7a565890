"""What can be wrong with a home."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class FaultKind(StrEnum):
    """Kinds of faults; each says what it means, and what mends it."""

    #: The index is missing, or no whole database: it is set aside and made again.
    DAMAGED_INDEX = "damaged_index"
    #: The index does not know a rollout: it is read.
    UNINDEXED_FILE = "unindexed_file"
    #: The index knows a thread whose rollout is gone: its row is kept in the quarantine.
    ROW_WITHOUT_FILE = "row_without_file"
    #: The index looks for the rollout elsewhere: it is told.
    MOVED_FILE = "moved_file"
    #: The index takes the rollout to be longer or shorter: it is read again.
    LENGTH_MISMATCH = "length_mismatch"
    #: The index counts other records than there are: they are read again.
    ORDINAL_MISMATCH = "ordinal_mismatch"
    #: Messages or turns of the rollout are not those of the index: they are read again.
    STALE_SEARCH = "stale_search"
    #: The index' full text is damaged, or is not that of its rows: it is made again from these.
    STALE_FULL_TEXT = "stale_full_text"
    #: The index has another name than the files: it is told.
    STALE_NAME = "stale_name"
    #: A name of a thread without a rollout: its lines are kept in the quarantine.
    NAME_WITHOUT_THREAD = "name_without_thread"
    #: The last line was cut: it is kept in the quarantine.
    TORN_TAIL = "torn_tail"
    #: A line is no UTF-8, and codex cannot read the thread: what cannot be read becomes U+FFFD, the line is kept.
    INVALID_UTF8 = "invalid_utf8"
    #: No line says whose rollout it is: a ``session_meta`` is made from its name, or, without any item, it is kept.
    NO_SESSION_META = "no_session_meta"
    #: A compressed rollout cannot be decompressed: what can be read is made plain, and the file is kept.
    DAMAGED_FILE = "damaged_file"
    #: A rollout cannot be opened: it is no file, or not ours to read. Nothing mends it.
    UNREADABLE_FILE = "unreadable_file"
    #: Several rollouts of one thread: the one that holds all the others' lines stays, or the one the index knows.
    DUPLICATE_ID = "duplicate_id"
    #: A crash left a copy that was being made of a rollout: it was never whole, and is removed.
    UNFINISHED_COPY = "unfinished_copy"
    #: Others may read or write it: the owner's alone.
    BAD_PERMISSIONS = "bad_permissions"
    #: A link that leads out of the home, which nothing follows. Nothing mends it: remove it, or import what it leads to.
    LINK_OUT = "link_out"


#: What only its owner can decide on.
BEYOND_MENDING: Final = frozenset({FaultKind.LINK_OUT, FaultKind.UNREADABLE_FILE})


@dataclass(slots=True)
class Fault:
    """One thing that is wrong."""

    kind: FaultKind
    #: Relative to the home.
    path: str
    detail: str
    thread_id: str | None = None
    #: How it was mended, and where what was cut is kept; None where it was not.
    mended: str | None = None


@dataclass(slots=True)
class DoctorReport:
    """What an examination found."""

    threads: int = 0
    faults: list[Fault] = field(default_factory=list)
    #: Threads, or the file of the index, that a writer held all the time: they were not examined, or not whole.
    busy: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether nothing is left to mend, and everything was examined."""
        return not self.busy and all(fault.mended for fault in self.faults)
