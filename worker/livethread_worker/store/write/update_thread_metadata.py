"""Applies a literal patch. An explicit patch leaves lines in the rollout, a derived patch leaves none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from livethread.metadata import PAGINATED, StoredThread, ThreadMetadataPatch
from livethread.ordered_tasks import MailboxEntry, UpdateThreadMetadata
from livethread.rollout.item import THREAD_METADATA_TYPE
from livethread.rollout.session_meta import with_present_values
from livethread_worker.store.write.thread_work import Line, ThreadWork, encode_record

#: Fields of an explicit patch that go where codex looks for them; all others go into a line of our own. A name goes there
#: and into the name index, so that every explicit patch leaves a line with its counter.
_IN_SESSION_META: Final = frozenset({"git_info", "memory_mode"})


def update_thread_metadata(work: ThreadWork, entry: MailboxEntry, done: int) -> Sequence[Line]:
    """Plan a patch.

    A derived patch takes effect with the append directly before it, if this batch writes all of that append's lines. If
    they were read from the rollout, so was the metadata that follows from them; if the append repeated an idempotency
    key, or was dropped, there are no lines.

    Raises:
        InvalidRequest: the patch holds a value that is not JSON.
        ThreadNotFound: there is no thread.
    """
    header, metadata = entry.task.header, work.metadata()
    assert isinstance(header, UpdateThreadMetadata)
    if header.derived:
        if work.appended == (entry.writer, entry.n - 1):
            metadata.update(header, is_explicit=False)
        return ()
    patch = header.effect_on(metadata.thread, work.state.explicit_fields)
    if done and done >= _line_count(patch, metadata.thread):
        return ()
    lines = _lines(work, header, patch, metadata.thread.patched(patch))
    # Only now: a patch that cannot be encoded changes nothing.
    metadata.update(header, is_explicit=True)
    if lines and "name" in patch.model_fields_set:
        work.renamed = patch.name, header.at
    return lines


def _lines(
    work: ThreadWork, header: UpdateThreadMetadata, patch: ThreadMetadataPatch, patched: StoredThread
) -> list[Line]:
    """Return the lines of *patch*: in codex's form, and the rest in our own."""
    lines = []
    in_meta = _in_session_meta(patched)
    if patch.model_fields_set & in_meta:
        sets_git = "git_info" in patch.model_fields_set
        work.meta = with_present_values(work.current_meta(), patched, says_git=sets_git)
        lines.append(Line(encode_record("session_meta", work.meta, header.at), is_meta=True))
    if rest := _in_own_line(patch, in_meta):
        lines.append(Line(encode_record(THREAD_METADATA_TYPE, rest, header.at)))
    return lines


def _line_count(patch: ThreadMetadataPatch, thread: StoredThread) -> int:
    """Return how many lines `_lines` makes of *patch*."""
    in_meta = _in_session_meta(thread)
    return bool(patch.model_fields_set & in_meta) + bool(_in_own_line(patch, in_meta))


def _in_session_meta(thread: StoredThread) -> frozenset[str]:
    """Return the fields of a patch that go into a copy of the thread's ``session_meta``.

    A paginated thread gets no copies: codex reads its rollout from the end and stops at a ``session_meta``, so its model
    would forget everything before the copy.
    """
    return frozenset() if thread.history_mode == PAGINATED else _IN_SESSION_META


def _in_own_line(patch: ThreadMetadataPatch, in_meta: frozenset[str]) -> dict[str, Any]:
    """Return the part of *patch* that goes into a line of our own, as JSON values."""
    return {name: value for name, value in patch.to_wire().items() if name not in in_meta}
