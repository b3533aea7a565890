"""Examines one thread: first its rollout, then its row in the index. The caller holds the thread's lock."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from livethread import errors
from livethread.metadata import PAGINATED
from livethread.model import format_time
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread.rollout.lines import encode_json
from livethread.rollout.session_meta import minimal_meta
from livethread.types import CreateThreadParams
from livethread_worker.store.files import (
    compression,
    lineage,
    name_index,
    originals,
    rewritten,
    rollout_reader,
    scan,
    sync,
)
from livethread_worker.store.files.home import Home, other_form
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.heirs import continued_rollouts
from livethread_worker.store.index import Index
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.thread_state import BROKEN, ThreadState, WriterMark
from livethread_worker.store.upkeep.doctor import bad_lines, repairs
from livethread_worker.store.upkeep.doctor.faults import Fault, FaultKind
from livethread_worker.store.write.thread_work import number_line


@dataclass(slots=True)
class ThreadExamination:
    """Finds the faults of one thread, and repairs them if *fix* is set."""

    home: Home
    #: None if there is no usable index: then only the rollout is examined.
    index: Index | None
    names: name_index.NameCache
    thread_id: str
    faults: list[Fault]
    fix: bool

    def examine(self, paths: list[Path]) -> None:
        """Examine the thread with the rollouts *paths*; several with the same rollout id are a fault."""
        by_age: dict[str, list[Path]] = defaultdict(list)
        for each in paths:
            by_age[self.home.generation(each)].append(each)
        *earlier, path = (self._select_rollout(by_age[generation]) for generation in sorted(by_age))
        count = len(self.faults)
        for each in earlier:  # codex's thread/revert left it
            if _length(each) < 0:
                self._add_fault(FaultKind.UNREADABLE_FILE, each, "it has no readable bytes; it is kept")
            else:
                self._examine_content(each)
        self._examine_originals()
        try:
            path = self._examine_name(path)
            read = self._read(path)
        except errors.InvalidRequest as error:  # only the user can decide what to do
            if path.is_symlink():
                self._add_fault(FaultKind.LINK_OUT, path, f"{error}; it is kept: remove it, or import its target")
            else:
                self._add_fault(FaultKind.UNREADABLE_FILE, path, f"{error}; it is kept: move it away")
            return
        if read is None:
            return
        path, state, torn = read
        before_lines = len(self.faults)
        self._examine_lines(path, state, torn)
        is_repaired = any(fault.repair for fault in self.faults[count:])
        if not any(fault.repair for fault in self.faults[before_lines:]):
            is_repaired = self._examine_rewritten(path, state) or is_repaired
        if not is_repaired and state.thread is not None and self.index is not None:
            self._examine_row(self.index, path, state)
        elif is_repaired and self.index is not None and (repaired := self.home.find_rollout(self.thread_id)):
            self._write_row(self.index, self._read_state(repaired)[0])

    # -- the rollout ---------------------------------------------------------------------------------------

    def _select_rollout(self, paths: list[Path]) -> Path:
        """Return the copy of one rollout to keep; report the others, and with *fix* move them to the quarantine."""
        kept = paths[0] if len(paths) == 1 else self._best(paths)
        for path in paths:
            if path != kept:
                detail = f"it has {_size(path)}; {self.home.relative(kept)} of the same thread has {_size(kept)}"
                self._add_fault(FaultKind.DUPLICATE_ID, path, detail, partial(self._quarantine, path))
        return kept

    def _examine_name(self, path: Path) -> Path:
        """Return the path of the rollout, renamed if its suffix does not fit its content."""
        try:
            right = compression.right_name(path)
        except OSError:  # `_read` reports it
            return path
        if right == path:
            return path
        detail = f"its content needs the name {right.name}; codex cannot read it"
        self._add_fault(FaultKind.MISNAMED_FILE, path, detail, lambda: self._rename(path, right))
        return right if right.exists() else path

    def _rename(self, path: Path, right: Path) -> str:
        path.rename(right)
        sync.sync_directory(right.parent)
        return f"renamed to {self.home.relative(right)}"

    def _best(self, paths: list[Path]) -> Path:
        """Return the rollout that continues all the others; if none does, the one in the index.

        Prefer readable rollouts: one may have been restored from a backup.
        """
        lengths = {path: _length(path) for path in paths}
        readable = [path for path in paths if lengths[path] >= 0] or paths
        known = self.index.rollout(self.thread_id) if self.index is not None else None
        first = next((path for path in readable if known and self.home.relative(path) == known[0]), readable[0])
        longest = max((first, *readable), key=lengths.__getitem__)
        return longest if all(_begins_with(longest, other) for other in readable) else first

    def _originals(self) -> list[Path]:
        paths = self.home.rollouts_of(self.thread_id)
        return [original for path in paths if (original := originals.find(self.home, path)) is not None]

    def _examine_originals(self) -> None:
        """Move a damaged original to the quarantine: without it, the rollout is readable."""
        for original in self._originals():
            if _length(original) < 0:
                self._add_fault(
                    FaultKind.DAMAGED_FILE, original, "it cannot be read", partial(self._quarantine, original)
                )

    def _examine_rewritten(self, path: Path, state: ThreadState) -> bool:
        """Report a rollout of ours that codex rewrote and that has no original; return whether it was repaired."""
        thread = state.thread
        if thread is None or thread.history_mode != PAGINATED or state.is_carried_over:
            return False
        if self._originals():
            return False
        with compression.open_rollout(path) as file:
            first = next(scan.scan_records(file), None)
        if first is not None and first.value is not None and scan.writer_mark(first.value) is not None:
            return False  # we began it as a paginated one
        marks, keys = self.index.counters_and_keys(self.thread_id) if self.index is not None else ({}, set())
        is_ours = thread.originator == CreateThreadParams.model_fields["originator"].default
        if marks.keys() <= state.writers.keys() and keys <= state.idempotency_keys and not is_ours:
            return False
        detail = "codex rewrote it, and its original is gone; "
        if not marks and not keys:
            detail += "counters, idempotency keys and patches that it held are lost"
            self._add_fault(FaultKind.REWRITTEN_FILE, path, detail)
            return False
        detail += "only the index knows its counters and idempotency keys, and patches that it held may be lost"
        self._add_fault(FaultKind.REWRITTEN_FILE, path, detail, lambda: self._carry_over(path, state, marks, keys))
        return self.fix

    def _carry_over(self, path: Path, state: ThreadState, marks: dict[str, WriterMark], keys: set[str]) -> str:
        """Write into the rollout what the index knows, including metadata from before codex rewrote the rollout."""
        assert self.index is not None
        assert state.thread is not None
        known = self.index.read_thread(self.thread_id)
        if known is not None and known.history_mode != PAGINATED:
            state.thread = known
        state.writers |= {writer: mark for writer, mark in marks.items() if mark.n > state.mark(writer).n}
        state.idempotency_keys |= keys
        line = encode_json({
            "timestamp": format_time(state.thread.updated_at),
            "type": THREAD_METADATA_TYPE,
            "payload": rewritten.to_carry_over(state),
        })
        with RolloutRecorder.open(self._plain(path)) as recorder:
            is_ended = os.pread(recorder.file.fileno(), 1, recorder.size - 1) == b"\n"
            recorder.append(b"" if is_ended else b"\n")
            recorder.append(number_line(line, state.next_ordinal, None))
            os.fsync(recorder.file.fileno())
        return "written into the rollout"

    def _read(self, path: Path) -> tuple[Path, ThreadState, scan.Record | None] | None:
        """Read the rollout, or with *fix* the readable part of a damaged one; return None if neither can be read."""
        try:
            return path, *self._read_state(path)
        except OSError as error:  # continue with the other threads
            self._add_fault(FaultKind.UNREADABLE_FILE, path, error.strerror or str(error))
            return None
        except errors.Internal as error:
            fault = self._add_fault(FaultKind.DAMAGED_FILE, path, str(error))
            if not self.fix:
                return None
        plain = compression.salvage(path)
        fault.repair = self._quarantine(path)
        if plain is None:
            return None
        fault.repair += f"; its readable part is {self.home.relative(plain)}"
        return plain, *self._read_state(plain)

    def _read_state(self, path: Path) -> tuple[ThreadState, scan.Record | None]:
        state = ThreadState(self.thread_id, path=self.home.relative(path))
        with compression.open_rollout(path) as file:
            torn = rollout_reader.read_what_is_left(self.home, state, file)
        rollout_reader.complete_from_home(self.home, state, self.names.names())
        return state, torn

    def _examine_lines(self, path: Path, state: ThreadState, torn: scan.Record | None) -> None:
        if torn is not None and self._is_torn(path, torn):
            detail = f"the last {torn.size} bytes are not a complete line"
            self._add_fault(FaultKind.TORN_TAIL, path, detail, lambda: self._cut(path, torn))
        if not self._examine_content(path):
            return
        if state.inherited_bytes == BROKEN:
            self._add_fault(FaultKind.BROKEN_LINEAGE, path, self._lineage_problem(path))
        self._examine_meta(path)

    def _examine_content(self, path: Path) -> bool:
        """Examine each line of a rollout, except a torn last one; return False if it is UTF-16."""
        with compression.open_rollout(path) as file:
            lines = bad_lines.LinesExamination.of(file)
        if lines.is_utf16:
            detail = "it is UTF-16; it is kept: convert it to UTF-8"
            self._add_fault(FaultKind.UNREADABLE_FILE, path, detail)
            return False
        if lines.invalid:
            invalid = bad_lines.listed(dict.fromkeys(lines.invalid, "not UTF-8"))
            repair = self._unless_continued(path, partial(self._rewrite, change=_replaced))
            self._add_fault(FaultKind.INVALID_UTF8, path, f"{invalid}; codex cannot read the thread", repair)
        if lines.bad and lines.has_records:
            repair = self._unless_continued(path, partial(self._rewrite, change=_records))
            self._add_fault(FaultKind.BAD_LINE, path, bad_lines.listed(lines.bad), repair)
        if lines.unreadable:
            self._add_fault(FaultKind.UNREADABLE_LINE, path, bad_lines.listed(lines.unreadable))
        return True

    def _examine_meta(self, path: Path) -> None:
        """Report a rollout that, after other repairs, does not begin with its ``session_meta``."""
        state, _ = self._read_state(path)
        with compression.open_rollout(path) as file:
            found = rollout_reader.find_meta(self.thread_id, file)
        if found is None:
            detail = f"its name says thread {self.thread_id}, but each session_meta names another: rename it or move it away"
            self._add_fault(FaultKind.WRONG_NAME, path, detail)
        elif state.thread is None:
            detail = "it has no record"
            self._add_fault(FaultKind.NO_SESSION_META, path, detail, lambda: self._quarantine(self._plain(path)))
        elif found.offset or not found.size:
            detail = "its first line is not a session_meta of its thread; codex cannot read the thread"
            prepend = self._unless_continued(path, partial(self._prepend_session_meta, state=state))
            self._add_fault(FaultKind.NO_SESSION_META, path, detail, prepend)

    def _unless_continued(self, path: Path, repair: Callable[[Path], str]) -> Callable[[], str] | None:
        """Return the *repair* of *path*, which moves its lines; None if other rollouts refer to their places."""
        if self.fix and self.home.rollout_id_of(path) in continued_rollouts(self.home):
            return None
        return partial(repair, path)

    def _lineage_problem(self, path: Path) -> str:
        try:
            with compression.open_rollout(path) as file:
                lineage.resolve(self.home, path, file)
        except errors.InvalidRequest as error:
            return str(error)
        return "the rollout that it continues was restored just now"

    @staticmethod
    def _is_torn(path: Path, torn: scan.Record) -> bool:
        """Return whether to cut off the last line: it holds no records that another repair would find."""
        with compression.open_rollout(path) as file:
            if bad_lines.is_utf16(file.read(2)):
                return False
            file.seek(torn.offset)
            bad = bad_lines.examine_line(file.read())
        return not (bad and bad.records)

    def _cut(self, path: Path, torn: scan.Record) -> str:
        kept = repairs.cut(self.home, self._plain(path), self.thread_id, torn.offset)
        return f"cut off, and kept in {self.home.relative(kept)}"

    def _rewrite(self, path: Path, change: Callable[[bytes], Sequence[bytes]]) -> str:
        """Replace each line with those that *change* returns for it; all of them without line ends."""
        path = self._plain(path)
        self._distrust_row()
        with repairs.replacing(self.home, path, self.thread_id) as (old, new):
            for line in old:
                bare = line.removesuffix(b"\n")
                changed = change(bare)
                new.write(line if changed == [bare] else b"".join(each + b"\n" for each in changed))
        return "repaired; the original rollout is kept in the quarantine"

    def _prepend_session_meta(self, path: Path, state: ThreadState) -> str:
        """Prepend a copy of the thread's ``session_meta`` from further down, or a minimal one."""
        path = self._plain(path)
        self._distrust_row()
        with repairs.replacing(self.home, path, self.thread_id) as (old, new):
            found = rollout_reader.find_meta(self.thread_id, old)
            if found is not None and found.size:
                old.seek(found.offset)
                first = old.read(found.size).rstrip(b"\n")
            else:
                first = self._made_meta(state)
            new.write(first + b"\n")
            old.seek(0)
            shutil.copyfileobj(old, new)
        return "session_meta added; the original rollout is kept in the quarantine"

    @staticmethod
    def _made_meta(state: ThreadState) -> bytes:
        assert state.thread is not None
        created_at = format_time(state.thread.created_at)
        meta = minimal_meta(state.thread_id) | {"timestamp": created_at, "cwd": state.thread.cwd}
        return encode_json({"timestamp": created_at, "type": "session_meta", "payload": meta})

    def _distrust_row(self) -> None:
        """Make the index read the whole rollout again, even after a crash: its lines are about to move."""
        if self.index is not None:
            self.index.distrust(self.thread_id)

    def _plain(self, path: Path) -> Path:
        """Return the path of the plain rollout; decompress it unless a previous repair did."""
        return compression.plain_form(path if path.exists() else other_form(path))

    def _quarantine(self, path: Path) -> str:
        if path.parent != self.home.originals and originals.is_linked(self.home, path):
            originals.forget(self.home, path)
        return f"kept in {self.home.relative(repairs.move_away(self.home, path, self.thread_id))}"

    # -- the index -----------------------------------------------------------------------------------------

    def _examine_row(self, index: Index, path: Path, state: ThreadState) -> None:
        count = len(self.faults)
        self._compare(index, path, state)
        if self.fix and len(self.faults) > count:
            self._write_row(index, state)
            for fault in self.faults[count:]:
                fault.repair = "read into the index"

    @staticmethod
    def _write_row(index: Index, state: ThreadState) -> None:
        if state.thread is not None:
            index.replace([thread_rows(state, None)])

    def _compare(self, index: Index, path: Path, state: ThreadState) -> None:
        """Compare the thread's row with *state*, which was read from the files."""
        assert state.thread is not None
        known = index.load_states({self.thread_id: set()}).get(self.thread_id)
        if known is None or known.thread is None:
            self._add_fault(FaultKind.UNINDEXED_FILE, path, "it is not in the index")
            return
        if known.path != state.path:
            self._add_fault(FaultKind.MOVED_FILE, path, f"the index has it at {known.path}")
        if known.rollout_bytes != state.rollout_bytes:
            detail = f"it has {state.rollout_bytes} bytes; the index says {known.rollout_bytes}"
            self._add_fault(FaultKind.LENGTH_MISMATCH, path, detail)
        elif known.next_ordinal != state.next_ordinal:
            detail = f"it has {state.next_ordinal} records; the index says {known.next_ordinal}"
            self._add_fault(FaultKind.ORDINAL_MISMATCH, path, detail)
        elif (indexed := index.messages_and_turns(self.thread_id)) != (found := state.messages_and_turns()):
            counts = *map(len, found), *map(len, indexed)
            detail = "it has {} messages and {} turns; those in the index differ: {} and {}".format(*counts)
            self._add_fault(FaultKind.STALE_SEARCH, path, detail)
        if known.thread.name != state.thread.name:
            detail = f"its name is {state.thread.name!r}; the index says {known.thread.name!r}"
            self._add_fault(FaultKind.STALE_NAME, path, detail)

    def _add_fault(self, kind: FaultKind, path: Path, detail: str, repair: Callable[[], str] | None = None) -> Fault:
        """Report a fault, and repair it if *fix* is set."""
        fault = Fault(kind, self.home.relative(path), detail, self.thread_id)
        self.faults.append(fault)
        if self.fix and repair is not None:
            fault.repair = repair()
        return fault


def _size(path: Path) -> str:
    length = _length(path)
    return f"{length} bytes" if length >= 0 else "no readable bytes"


def _length(path: Path) -> int:
    """Return the decompressed length of *path*; -1 if it cannot be read."""
    try:
        with compression.open_rollout(path) as file:
            return file.seek(0, os.SEEK_END)
    except (errors.Internal, errors.InvalidRequest, OSError):
        return -1


def _begins_with(path: Path, other: Path) -> bool:
    """Return whether *path* begins with all of *other*; False if either cannot be read."""
    try:
        with compression.open_rollout(path) as long, compression.open_rollout(other) as short:
            return scan.common_length(long, short) == short.seek(0, os.SEEK_END)
    except (errors.Internal, errors.InvalidRequest, OSError):
        return False


def _replaced(line: bytes) -> list[bytes]:
    """Return *line* with U+FFFD for invalid bytes."""
    return [line.decode(errors="replace").encode()]


def _records(line: bytes) -> list[bytes]:
    """Return the records in *line*, or the line if it is to stay."""
    bad = bad_lines.examine_line(line)
    return [line] if bad is None or bad.records is None else bad.records
