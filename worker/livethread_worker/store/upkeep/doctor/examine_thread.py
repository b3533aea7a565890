"""Examines one thread, whose lock the caller holds: first its rollout, then what the index has of it."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from livethread.errors import Internal, InvalidRequest
from livethread.model import format_time
from livethread.rollout.item import decode_line, encode_json
from livethread.rollout.session_meta import session_meta
from livethread.types import CreateThreadParams
from livethread_worker.store.files.compression import decompress, open_rollout, salvage
from livethread_worker.store.files.home import Home, is_compressed, other_form
from livethread_worker.store.files.name_index import NameCache
from livethread_worker.store.files.quarantine import keep, move_away
from livethread_worker.store.files.replacement import replacing
from livethread_worker.store.files.rollout_reader import complete_from_home, read_on
from livethread_worker.store.files.scan import Record, scan_records
from livethread_worker.store.index import Index
from livethread_worker.store.index.thread_writes import thread_rows
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.upkeep.doctor.faults import Fault, FaultKind

_READ_BYTES: Final = 256 * 1024
#: Lines of one fault that are named.
_LISTED: Final = 5


@dataclass(slots=True)
class ThreadExamination:
    """Looks for the faults of one thread, and mends them where that is asked for."""

    home: Home
    #: None where there is none that can be used: then the rollout alone is examined.
    index: Index | None
    names: NameCache
    thread_id: str
    faults: list[Fault]
    fix: bool

    def examine(self, paths: list[Path]) -> None:
        """Examine the thread, whose rollouts are *paths*: one, if all is well."""
        path = self._only_one(paths)
        try:
            read = self._read(path)
        except InvalidRequest as error:  # nothing reads it, and nothing mends it
            if path.is_symlink():
                self._found(FaultKind.LINK_OUT, path, f"{error}: remove it, or import what it leads to")
            else:
                self._found(FaultKind.UNREADABLE_FILE, path, f"{error}: move it away")
            return
        if read is None:
            return
        path, state, torn = read
        is_mended = self._examine_lines(path, state, torn)
        if not is_mended and state.thread is not None and self.index is not None:
            self._examine_row(self.index, path, state)
        elif is_mended and self.index is not None and (mended := self.home.find_rollout(self.thread_id)):
            self._read_in(self.index, self._state_of(mended)[0])

    # -- the rollout ---------------------------------------------------------------------------------------

    def _only_one(self, paths: list[Path]) -> Path:
        """Return the rollout that is the thread's; move the others away."""
        kept = paths[0] if len(paths) == 1 else self._best(paths)
        for path in paths:
            if path != kept:
                detail = f"{_described(path)}; {self.home.relative(kept)} of the same thread has {_described(kept)}"
                self._found(FaultKind.DUPLICATE_ID, path, detail, partial(self._moved_away, path))
        return kept

    def _best(self, paths: list[Path]) -> Path:
        """Return the rollout that begins with what all others hold; where they differ, the one the index knows.

        One that cannot be read does not count beside one that can: it may have been restored from a backup.
        """
        lengths = {path: _length(path) for path in paths}
        readable = [path for path in paths if lengths[path] >= 0] or paths
        known = self.index.rollout(self.thread_id) if self.index is not None else None
        first = next((path for path in readable if known and self.home.relative(path) == known[0]), readable[0])
        longest = max((first, *readable), key=lengths.__getitem__)
        return longest if all(_begins_with(longest, other) for other in readable) else first

    def _read(self, path: Path) -> tuple[Path, ThreadState, Record | None] | None:
        """Read the rollout; where it is compressed and damaged, what can be read of it, or None."""
        try:
            return path, *self._state_of(path)
        except OSError as error:  # the other threads are examined all the same
            self._found(FaultKind.UNREADABLE_FILE, path, error.strerror or str(error))
            return None
        except Internal as error:
            fault = self._found(FaultKind.DAMAGED_FILE, path, str(error))
            if not self.fix:
                return None
        plain = salvage(path)
        fault.mended = self._moved_away(path)
        if plain is None:
            return None
        fault.mended += f"; what can be read is {self.home.relative(plain)}"
        return plain, *self._state_of(plain)

    def _state_of(self, path: Path) -> tuple[ThreadState, Record | None]:
        state = ThreadState(self.thread_id, path=self.home.relative(path))
        with open_rollout(path) as file:
            torn = read_on(state, file)
        complete_from_home(self.home, state, self.names.names())
        return state, torn

    def _examine_lines(self, path: Path, state: ThreadState, torn: Record | None) -> bool:
        """Look at the lines of the rollout; return whether they were mended."""
        found = len(self.faults)
        if torn is not None:
            detail = f"the last {torn.size} bytes are no whole line"
            self._found(FaultKind.TORN_TAIL, path, detail, lambda: self._cut(path, torn))
        with open_rollout(path) as file:
            bad = _invalid_lines(file, state.rollout_bytes)
        if bad:
            detail = f"no UTF-8 in line{'s' if len(bad) > 1 else ''} {_listed(bad)}; codex cannot read the thread"
            self._found(FaultKind.INVALID_UTF8, path, detail, lambda: self._make_readable(path))
        if state.thread is None:
            self._found(FaultKind.NO_SESSION_META, path, "no line says whose it is", lambda: self._begin(path, state))
        return self.fix and len(self.faults) > found

    def _cut(self, path: Path, torn: Record) -> str:
        path = self._plain(path)
        with path.open("r+b") as file:
            file.seek(torn.offset)
            kept = keep(self.home, f"{self.thread_id}-{torn.offset}.torn", file.read())
            file.truncate(torn.offset)
        return f"cut, and kept in {self.home.relative(kept)}"

    def _make_readable(self, path: Path) -> str:
        """Write U+FFFD for what is no UTF-8; keep the lines as they were."""
        path = self._plain(path)
        self._distrust_row()
        with path.open("rb") as old, replacing(path, old.fileno()) as new:
            lines = []
            for line in old:
                readable = line.decode(errors="replace").encode()
                new.write(readable)
                if readable != line:
                    lines.append(line)
            kept = keep(self.home, f"{self.thread_id}.lines", b"".join(lines))
        return f"made readable; the lines are kept in {self.home.relative(kept)}"

    def _begin(self, path: Path, state: ThreadState) -> str:
        """Put a ``session_meta`` before the lines, made from the rollout's name; a rollout without items is moved."""
        path = self._plain(path)
        created_at = self.home.time_of(path)
        with open_rollout(path) as file:
            has_items = any(record.value for record in scan_records(file))
        if not has_items or created_at is None:
            return self._moved_away(path)
        meta = session_meta(CreateThreadParams(thread_id=state.thread_id, created_at=created_at))
        line = encode_json({"timestamp": format_time(created_at), "type": "session_meta", "payload": meta})
        self._distrust_row()
        with path.open("rb") as old:
            kept = keep(self.home, path.name, old.read())
            old.seek(0)
            with replacing(path, old.fileno()) as new:
                new.write(line + b"\n")
                for old_line in old:
                    if decode_line(old_line) is not None:
                        new.write(old_line)
        return f"begun by one; the rollout as it was is kept in {self.home.relative(kept)}"

    def _distrust_row(self) -> None:
        """Have whoever comes after a crash read the whole rollout: its lines will stand elsewhere."""
        if self.index is not None:
            self.index.distrust(self.thread_id)

    def _plain(self, path: Path) -> Path:
        """Return the path of the rollout where it can be changed; to mend another fault may have made it plain."""
        if not is_compressed(path):
            return path
        return decompress(path) if path.exists() else other_form(path)

    def _moved_away(self, path: Path) -> str:
        return f"kept in {self.home.relative(move_away(self.home, path))}"

    # -- the index -----------------------------------------------------------------------------------------

    def _examine_row(self, index: Index, path: Path, state: ThreadState) -> None:
        found = len(self.faults)
        self._compare(index, path, state)
        if self.fix and len(self.faults) > found:
            self._read_in(index, state)
            for fault in self.faults[found:]:
                fault.mended = "read into the index"

    @staticmethod
    def _read_in(index: Index, state: ThreadState) -> None:
        if state.thread is not None:
            index.replace([thread_rows(state, None)])

    def _compare(self, index: Index, path: Path, state: ThreadState) -> None:
        """Compare what the index has of the thread with *state*, as the files say it."""
        assert state.thread is not None
        known = index.load_states({self.thread_id: set()}).get(self.thread_id)
        if known is None or known.thread is None:
            self._found(FaultKind.UNINDEXED_FILE, path, "the index does not know it")
            return
        if known.path != state.path:
            self._found(FaultKind.MOVED_FILE, path, f"the index looks for it at {known.path}")
        if known.rollout_bytes != state.rollout_bytes:
            detail = f"{state.rollout_bytes} bytes; the index knows {known.rollout_bytes}"
            self._found(FaultKind.LENGTH_MISMATCH, path, detail)
        elif known.next_ordinal != state.next_ordinal:
            detail = f"{state.next_ordinal} records; the index counts {known.next_ordinal}"
            self._found(FaultKind.ORDINAL_MISMATCH, path, detail)
        elif (indexed := index.messages_and_turns(self.thread_id)) != (found := state.messages_and_turns()):
            counts = *map(len, found), *map(len, indexed)
            detail = "{} messages and {} turns; the index has others: {} and {}".format(*counts)
            self._found(FaultKind.STALE_SEARCH, path, detail)
        if known.thread.name != state.thread.name:
            detail = f"named {state.thread.name!r}; the index says {known.thread.name!r}"
            self._found(FaultKind.STALE_NAME, path, detail)

    def _found(self, kind: FaultKind, path: Path, detail: str, mend: Callable[[], str] | None = None) -> Fault:
        """Note a fault, and mend it where that is asked for."""
        fault = Fault(kind, self.home.relative(path), detail, self.thread_id)
        self.faults.append(fault)
        if self.fix and mend is not None:
            fault.mended = mend()
        return fault


def _described(path: Path) -> str:
    length = _length(path)
    return f"{length} bytes" if length >= 0 else "nothing that can be read"


def _length(path: Path) -> int:
    try:
        with open_rollout(path) as file:
            return file.seek(0, 2)
    except (Internal, InvalidRequest, OSError):
        return -1


def _begins_with(path: Path, other: Path) -> bool:
    """Whether the lines of *path* begin with those of *other*; what cannot be read begins nothing."""
    try:
        with open_rollout(path) as long, open_rollout(other) as short:
            while content := short.read(_READ_BYTES):
                if long.read(len(content)) != content:
                    return False
            return True
    except (Internal, InvalidRequest, OSError):
        return False


def _invalid_lines(file: BinaryIO, end: int) -> list[int]:
    """Return the numbers of the lines before *end* that are no UTF-8."""
    if _is_utf8(file, end):
        return []
    file.seek(0)
    bad = []
    for number, line in enumerate(file):
        if file.tell() > end:
            break
        try:
            line.decode()
        except UnicodeDecodeError:
            bad.append(number)
    return bad


def _listed(numbers: list[int]) -> str:
    more = len(numbers) - _LISTED
    return ", ".join(map(str, numbers[:_LISTED])) + (f" and {more} more" if more > 0 else "")


def _is_utf8(file: BinaryIO, end: int) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    file.seek(0)
    remaining = end
    try:
        while remaining and (content := file.read(min(_READ_BYTES, remaining))):
            remaining -= len(content)
            decoder.decode(content)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
