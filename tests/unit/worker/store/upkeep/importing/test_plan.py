"""An import of a rollout that grows gets the missing lines in order, without a conflict, at any length."""

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
    """Return the content of *ours* after an import of *theirs*; None for a conflict."""
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
        for file, data in ((one, ours), (other, theirs)):
            file.write(data)
            file.flush()
        begin, end = missing_lines(one, other)
    return None if begin is None else ours if begin == end else ours[:begin] + theirs[begin:end]


@given(histories, st.lists(st.integers(0, 2_000), min_size=1, max_size=5))
def test_a_source_imported_at_any_lengths_is_complete_in_the_end(whole: bytes, lengths: Sequence[int]) -> None:
    first, *later = sorted(lengths)
    ours = whole[:first]

    for theirs in (*(whole[:length] for length in later), whole):
        result = after_import(ours, theirs)
        assert result is not None
        assert result.startswith(ours)
        assert result.count(b"\n") == theirs.count(b"\n")
        ours = result

    assert ours == whole
    assert after_import(ours, whole) == ours


@given(histories, st.integers(0, 2_000), histories)
def test_lines_that_only_the_home_has_stay(whole: bytes, length: int, more: bytes) -> None:
    assert after_import(whole + more, whole[:length]) == whole + more


@given(histories, histories, histories)
def test_nothing_is_appended_if_both_have_further_lines(whole: bytes, one: bytes, other: bytes) -> None:
    ours, theirs = whole + one, whole + other

    assert after_import(ours, theirs) in (None, ours, theirs)
    assert (after_import(ours, theirs) is None) == (not ours.startswith(theirs) and not theirs.startswith(ours))
