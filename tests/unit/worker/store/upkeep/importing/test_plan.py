"""Whatever a writer had written when it was looked at: what an import lacks comes, in order, and is no conflict."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.worker.builders import message_line

from livethread_worker.store.upkeep.importing.plan import missing_lines

LINES = [b'{"not JSON', b"", b"7", *map(message_line, ("a", "Größe 🎉", "x" * 200))]

histories = st.lists(st.sampled_from(LINES), min_size=1, max_size=8).map(lambda lines: b"\n".join(lines) + b"\n")


def after_import(ours: bytes, theirs: bytes) -> bytes | None:
    """Return what *ours* is after an import of *theirs*; None for a conflict."""
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
        for file, data in ((one, ours), (other, theirs)):
            file.write(data)
            file.flush()
        begin, end = missing_lines(one, other)
    return None if begin is None else ours if begin == end else ours[:begin] + theirs[begin:end]


@given(histories, st.lists(st.integers(0, 2_000), min_size=1, max_size=5))
def test_a_source_that_is_caught_at_any_byte_is_had_whole_in_the_end(whole: bytes, lengths: Sequence[int]) -> None:
    first, *later = sorted(lengths)
    ours = whole[:first]

    for theirs in (*(whole[:length] for length in later), whole):
        taken = after_import(ours, theirs)
        assert taken is not None
        assert taken.startswith(ours)
        assert taken.count(b"\n") == theirs.count(b"\n")
        ours = taken

    assert ours == whole
    assert after_import(ours, whole) == ours


@given(histories, st.integers(0, 2_000), histories)
def test_what_we_wrote_behind_a_source_stays(whole: bytes, length: int, more: bytes) -> None:
    assert after_import(whole + more, whole[:length]) == whole + more


@given(histories, histories, histories)
def test_nothing_is_appended_where_both_went_on_in_other_ways(whole: bytes, one: bytes, other: bytes) -> None:
    ours, theirs = whole + one, whole + other

    assert after_import(ours, theirs) in (None, ours, theirs)
    assert (after_import(ours, theirs) is None) == (not ours.startswith(theirs) and not theirs.startswith(ours))
