"""Opens a thread's rollout for writing at its end, after reading the lines that are not committed yet."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from livethread.errors import InvalidRequest
from livethread.metadata import PAGINATED
from livethread.ordered_tasks import CreateThread, DeleteThread, MailboxEntry
from livethread.position import START
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread.rollout.lines import decode_line, item_of
from livethread.rollout.session_meta import minimal_meta
from livethread_config import names
from livethread_worker.store.files import compression, locks, name_index, originals, quarantine, rewritten
from livethread_worker.store.files.home import Home, is_compressed, other_form
from livethread_worker.store.files.lineage import HistoryBase, base_of, inherited_by
from livethread_worker.store.files.recorder import RolloutRecorder
from livethread_worker.store.files.rollout_reader import archived_by_folder, read_all, read_on, read_what_is_left
from livethread_worker.store.heirs import require_unneeded
from livethread_worker.store.index import Index
from livethread_worker.store.rollout_paths import find_rollout, live_rollout, require_rollout
from livethread_worker.store.thread_state import BROKEN, ThreadState
from livethread_worker.store.write.thread_work import Line, ThreadWork, encode_record, number_line

logger = logging.getLogger(__name__)

#: How long a new fork waits for deletions, and a deletion for other deletions and new forks.
FORKS_LOCK_WAIT: Final = 5.0  # seconds


@dataclass(slots=True)
class OpenRollout:
    """A thread whose lock the batch holds, read up to the end of its rollout."""

    work: ThreadWork
    #: None if the thread is only to be deleted.
    recorder: RolloutRecorder | None
    #: Whether the rollout has an original that is not needed once this batch is committed.
    forgets_original: bool = False
    #: Whether lines beyond the committed length were read, which may not be on disk.
    took_in: bool = False


def open_rollout(
    stack: ExitStack,
    home: Home,
    thread_id: str,
    entries: Sequence[MailboxEntry],
    state: ThreadState | None,
    *,
    index: Index,
) -> OpenRollout:
    """Open the live rollout of *thread_id*, whose lock the caller holds; *stack* closes it.

    Raises:
        ThreadNotFound: there is no rollout, and the first of *entries* does not create it.
        InvalidRequest: a rollout that it continues is missing, or its folder is a symlink that leads out of the home.
    """
    path = _find(home, index, thread_id, entries, state)
    is_known, state = state is not None, state or ThreadState(thread_id)
    loaded, committed_up_to, committed = state.thread, state.applied, _committed_counters(state)
    require_deletable = partial(require_unneeded, home, index, thread_id)
    if path is None:
        return OpenRollout(ThreadWork(state, loaded, 0, dict, require_deletable), None)
    path = _note_path(home, state, path, is_known=is_known)
    fork = _fork(entries) if loaded is None else None
    recorder = _recorder(stack, path, state, create=loaded is None and _creates(entries))
    if state.thread is not None:
        state.thread = archived_by_folder(home, state.thread, path)
    is_rewritten = _keep_original(home, state, recorder)
    _begin_again_if_changed(state, recorder, is_rewritten=is_rewritten)
    took_in = _read_uncommitted(home, state, recorder, entries, fork)
    work = ThreadWork(
        state,
        loaded,
        recorder.size,
        lambda: _read_meta(recorder.file, state),
        require_deletable,
        committed_up_to=committed_up_to,
        committed=committed,
    )
    forgets_original = is_rewritten and originals.find(home, path) is not None
    if forgets_original:
        _carry_over(work, state)
    return OpenRollout(work, recorder, forgets_original, took_in)


def _committed_counters(state: ThreadState) -> dict[str, int]:
    """Return each writer's last counter in the index."""
    # A row that was made from the file has the counters of its lines, and says nothing of whole tasks.
    return {} if state.applied == START else {writer: mark.n for writer, mark in state.writers.items()}


def _note_path(home: Home, state: ThreadState, path: Path, *, is_known: bool) -> Path:
    """Note that the thread's rollout is *path*, decompressed if necessary; return the plain path."""
    if is_compressed(path):
        path = _plain(home, path)
    if is_known and _is_outdated(home, state, path):
        state.begin_again()
    state.path = home.relative(path)
    return path


def _keep_original(home: Home, state: ThreadState, recorder: RolloutRecorder) -> bool:
    """Keep the original of this rollout, if codex may rewrite it; return whether codex has rewritten it as paginated."""
    path = recorder.path
    if recorder.is_new:
        originals.link(home, path)
    if recorder.is_new or originals.is_linked(home, path):
        return False
    is_known_paginated = state.thread is not None and state.thread.history_mode == PAGINATED
    if is_known_paginated and originals.find(home, path) is None:
        return False
    if rewritten.is_paginated(recorder.file):
        return True
    originals.link(home, path)
    return False


def _recorder(stack: ExitStack, path: Path, state: ThreadState, *, create: bool) -> RolloutRecorder:
    """Open *path* for appending; decompress it first if it is compressed although its name is plain."""
    recorder = stack.enter_context(RolloutRecorder.open(path, create=create))
    if recorder.size == state.rollout_bytes or not compression.holds_zstd(path, recorder.file.fileno()):
        return recorder
    return stack.enter_context(RolloutRecorder.open(compression.decompress(path)))


def _find(
    home: Home, index: Index, thread_id: str, entries: Sequence[MailboxEntry], state: ThreadState | None
) -> Path | None:
    """Return the path of the thread's rollout, or the one that a new thread's will have.

    None if the thread is to be deleted, and the rollout need not be read or is gone: a crash came between its file and
    its row.
    """
    if entries and isinstance(entries[0].task.header, DeleteThread):
        return None
    if state is not None:
        path = home.resolve(state.path)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            # codex reverts only paginated threads; it may have made this one paginated, and so rewritten its rollout.
            may_be_left = size != state.rollout_bytes or (state.thread and state.thread.history_mode == PAGINATED)
            return live_rollout(home, path) if may_be_left else path
    if state is None and _creates(entries):
        path = home.new_rollout(thread_id, entries[0].task.header.at)
        # It may exist: a crash came before the commit, or the index was lost.
        return home.where_it_lies(path) or home.resolve(home.relative(path))
    if any(isinstance(entry.task.header, DeleteThread) for entry in entries):
        return find_rollout(home, index, thread_id)
    return require_rollout(home, index, thread_id)


def _is_outdated(home: Home, state: ThreadState, path: Path) -> bool:
    """Whether the index knows an older rollout than *path*, which a revert began, or could not read inherited lines."""
    if state.inherited_bytes == BROKEN:
        return True
    is_same = state.path.endswith(f"/{path.name}")
    return not is_same and home.generation(Path(state.path)) != home.generation(path)


def _creates(entries: Sequence[MailboxEntry]) -> bool:
    return bool(entries) and isinstance(entries[0].task.header, CreateThread)


def _plain(home: Home, path: Path) -> Path:
    """Return the plain rollout of the compressed one *path*; an existing one wins, as in codex."""
    plain = other_form(path)
    if not plain.exists():
        return compression.decompress(path)
    quarantine.move_other_form_away(home, plain)
    return plain


def _begin_again_if_changed(state: ThreadState, recorder: RolloutRecorder, *, is_rewritten: bool) -> None:
    """Have the whole rollout read again if codex has rewritten it, or another program has cut it."""
    if is_rewritten and state.thread is not None:
        state.begin_again()
    elif recorder.size < state.rollout_bytes:
        logger.error(
            "the rollout of thread %s is shorter than its committed length; another program cut it",
            state.thread_id,
            extra={
                "action": "apply",
                "thread_id": state.thread_id,
                "missing_bytes": state.rollout_bytes - recorder.size,
            },
        )
        state.begin_again()


def _read_uncommitted(
    home: Home, state: ThreadState, recorder: RolloutRecorder, entries: Sequence[MailboxEntry], fork: _Fork | None
) -> bool:
    """Read what the index does not know: lines beyond the committed length, and counters of *entries*' writers.

    If a *fork* has no lines, begin it. Return whether there were any beyond the committed length.
    """
    forgotten = _forgotten(state, entries)
    took_in = _take_in(home, state, recorder, fork)
    _end_last_line(state, recorder)
    if forgotten:
        _recover_counters(home, state, recorder, forgotten)
    return took_in


def _forgotten(state: ThreadState, entries: Sequence[MailboxEntry]) -> set[str]:
    """Return the writers of *entries* that the index may have forgotten."""
    if not state.rollout_bytes:
        return set()  # the whole rollout is to be read anyway
    unknown = {entry.writer for entry in entries} - state.writers.keys()
    return {writer for writer in unknown if names.opened_at(writer) <= state.forgotten_to}


def _recover_counters(home: Home, state: ThreadState, recorder: RolloutRecorder, writers: set[str]) -> None:
    """Read the last counters of *writers* from all of the thread's lines."""
    whole = ThreadState(state.thread_id, path=state.path)
    read_what_is_left(home, whole, recorder.file)
    state.writers |= {writer: mark for writer, mark in whole.writers.items() if writer in writers}


def _take_in(home: Home, state: ThreadState, recorder: RolloutRecorder, fork: _Fork | None) -> bool:
    """Read the lines beyond the committed length; if a *fork* has none, begin it. Return whether there were any."""
    if took_in := recorder.size > state.rollout_bytes:
        recorder.is_all_ours = False
        _take_in_tail(home, state, recorder)
    if fork is None or state.thread is not None:
        return took_in
    _begin_fork(home, state, recorder, fork)
    return True


def _take_in_tail(home: Home, state: ThreadState, recorder: RolloutRecorder) -> None:
    """Read the lines beyond the committed length: a crash left them, or another program wrote them."""
    begin = state.rollout_bytes
    state.is_reread = begin == 0
    torn = read_all(home, state, recorder.file) if begin == 0 else read_on(state, recorder.file)
    state.keep_counters()
    if state.thread is not None:
        name = name_index.read_names(home).get(state.thread_id, state.thread.name)
        state.thread = state.thread.model_copy(update={"name": name})
        if begin == 0:
            state.thread = archived_by_folder(home, state.thread, recorder.path)
    if torn is not None:
        content = os.pread(recorder.file.fileno(), torn.size, torn.offset)
        quarantine.keep(home, f"{state.thread_id}-{torn.offset}.torn", content)
        recorder.size = torn.offset
        recorder.cut()
    state.rollout_bytes = recorder.size
    logger.info(
        "read lines of thread %s beyond its committed length",
        state.thread_id,
        extra={"action": "apply", "thread_id": state.thread_id, "bytes": recorder.size - begin, "torn": bool(torn)},
    )


class _Fork(NamedTuple):
    """The first line of a fork that shares its source's history."""

    base: HistoryBase
    line: bytes


def _fork(entries: Sequence[MailboxEntry]) -> _Fork | None:
    """Return the first line of the fork that the first of *entries* creates, if it creates one."""
    entry = entries[0] if entries else None
    if entry is None or not isinstance(entry.task.header, CreateThread):
        return None
    meta, at = entry.task.header.session_meta, entry.task.header.at
    base = base_of(meta)
    if base is None:
        return None
    line = encode_record("session_meta", meta, at)
    return _Fork(base, number_line(line, base.end_ordinal, entry))


def _begin_fork(home: Home, state: ThreadState, recorder: RolloutRecorder, fork: _Fork) -> None:
    """Write the fork's first line at once, so that its source cannot be deleted, and read what it inherits.

    The creation is then applied already, as after a crash.

    Raises:
        InvalidRequest: the source was deleted.
        LockBusy: a deletion is under way.
    """
    with locks.file_lock(home.forks_lock, wait_s=FORKS_LOCK_WAIT):
        try:
            inherited_by(home, recorder.path, fork.base)
        except InvalidRequest:
            if not recorder.size:
                originals.forget(home, recorder.path)
                recorder.path.unlink()
            raise
        recorder.append(fork.line)
    _take_in_tail(home, state, recorder)


def _end_last_line(state: ThreadState, recorder: RolloutRecorder) -> None:
    """End a whole last line without a line feed, or ours would be glued to it. The index may already know the line."""
    if recorder.size and os.pread(recorder.file.fileno(), 1, recorder.size - 1) != b"\n":
        recorder.append(b"\n")
        state.rollout_bytes = recorder.size


def _carry_over(work: ThreadWork, state: ThreadState) -> None:
    """Write what a rollout that codex has rewritten no longer says, unless it is written already."""
    if not state.is_carried_over and state.thread is not None:
        record = encode_record(THREAD_METADATA_TYPE, rewritten.to_carry_over(state), state.thread.updated_at)
        work.write(Line(record), entry=None)


def _read_meta(file: BinaryIO, state: ThreadState) -> dict[str, Any]:
    """Return the payload of the last own ``session_meta`` line; if that is lost, a minimal one."""
    line = os.pread(file.fileno(), state.meta_bytes, state.meta_offset)
    item = item_of(decode_line(line))
    return item.payload if item is not None and isinstance(item.payload, dict) else minimal_meta(state.thread_id)
