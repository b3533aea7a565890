from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.observed import FIRST_OBSERVED, ObservedThread

THREAD = "019a93b9-f380-7600-98ff-000000000001"
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


def at(hours: int) -> datetime:
    return AT + timedelta(hours=hours)


@pytest.fixture
def settled() -> set[str]:
    return set()


@pytest.fixture
def observed(settled: set[str]) -> ObservedThread:
    return ObservedThread(new_thread(), settled)


def new_thread(**fields: Any) -> StoredThread:
    return StoredThread(thread_id=THREAD, created_at=AT, updated_at=AT, recency_at=AT, **fields)


def say(observed: ObservedThread, text: str, hours: int = 0) -> None:
    observed.observe("event_msg", {"type": "user_message", "message": text}, at(hours))


def turn(observed: ObservedThread, **context: Any) -> None:
    observed.observe("turn_context", context, AT)


# -- what lines say ----------------------------------------------------------------------------------------


def test_nothing_that_is_told_changes_nothing(observed: ObservedThread) -> None:
    assert observed.finish() == new_thread()


def test_a_line_from_which_nothing_follows_is_when_something_happened(observed: ObservedThread) -> None:
    observed.observe("response_item", {"type": "reasoning"}, at(1))

    assert observed.finish() == new_thread().model_copy(update={"updated_at": at(1)})


def test_of_lines_whose_times_go_back_the_latest_counts(observed: ObservedThread) -> None:
    for hours in (2, 3, 1):
        observed.observe("response_item", {"type": "reasoning"}, at(hours))

    assert observed.finish().updated_at == at(3)


def test_a_line_of_before_the_thread_was_updated_does_not_set_it_back(observed: ObservedThread) -> None:
    say(observed, "late", hours=-1)

    assert observed.finish().updated_at == AT


def test_to_say_anew_what_a_thread_is_is_no_happening_in_it(observed: ObservedThread) -> None:
    """A copy of its ``session_meta``: the store writes such copies, too."""
    observed.observe("session_meta", {"id": THREAD, "source": "exec"}, at(1))

    thread = observed.finish()
    assert (thread.source, thread.updated_at) == ("exec", AT)


def test_another_threads_session_meta_is_a_line_like_any_other(observed: ObservedThread) -> None:
    observed.observe("session_meta", {"id": "another", "source": "exec"}, at(1))

    assert observed.finish() == new_thread().model_copy(update={"updated_at": at(1)})


def test_the_first_line_that_says_them_decides_some_fields_and_the_last_one_the_others(
    observed: ObservedThread,
) -> None:
    say(observed, "first")
    turn(observed, model="m", cwd="/first")
    observed.finish()  # the end of a batch decides nothing
    say(observed, "second")
    turn(observed, model="n", cwd="/second")

    thread = observed.finish()
    assert (thread.title, thread.preview, thread.first_user_message, thread.cwd) == ("first",) * 3 + ("/first",)
    assert thread.model == "n"


@pytest.mark.parametrize(
    "lines",
    [
        [("session_meta", {"id": THREAD, "source": source}) for source in ("exec", {"a": 1, "b": 2})],
        [("session_meta", {"id": THREAD, "source": "vscode", "thread_source": text}) for text in ("auto", "x" * 201)],
        [("turn_context", {"approval_policy": policy}) for policy in ("never", {"a": float("inf")})],
    ],
    ids=["source", "thread source", "approval policy"],
)
def test_what_does_not_fit_takes_no_place_wherever_a_batch_ends(lines: list[tuple[str, Any]]) -> None:
    settled: set[str] = set()
    together, apart = ObservedThread(new_thread(), settled), ObservedThread(new_thread(), settled)

    for line in lines:
        together.observe(*line, AT)
        apart.observe(*line, AT)
        apart.finish()

    assert together.finish() == apart.finish()
    assert [
        value
        for value in (apart.finish().source, apart.finish().thread_source, apart.finish().approval_mode)
        if value in {"exec", "auto", "never"}
    ] != []


def test_who_continues_knows_what_is_decided() -> None:
    observed = ObservedThread(new_thread(title="t", preview="p", first_user_message="f", cwd="/w"), set())

    say(observed, "later")
    turn(observed, cwd="/elsewhere")

    thread = observed.finish()
    assert (thread.title, thread.preview, thread.first_user_message, thread.cwd) == ("t", "p", "f", "/w")


# -- what somebody asks for --------------------------------------------------------------------------------


def test_a_patch_is_literal_and_counts_over_what_was_said_before_it(observed: ObservedThread) -> None:
    say(observed, "said", hours=5)
    turn(observed, model="said")

    thread = observed.patch(ThreadMetadataPatch(title="asked", model="asked", updated_at=at(1)))

    assert (thread.title, thread.model, thread.updated_at) == ("asked", "asked", at(1))
    assert thread.preview == "said"
    assert observed.finish() == thread


def test_what_is_said_behind_a_patch_counts_but_for_what_the_first_decides(observed: ObservedThread) -> None:
    observed.patch(ThreadMetadataPatch(title="asked", model="asked"))

    say(observed, "said")
    turn(observed, model="said")

    thread = observed.finish()
    assert (thread.title, thread.model, thread.preview) == ("asked", "said", "said")


@pytest.mark.parametrize("name", sorted(FIRST_OBSERVED))
def test_a_field_that_was_asked_for_empty_stays_empty_also_for_who_continues(
    name: str, observed: ObservedThread, settled: set[str]
) -> None:
    thread = observed.patch(ThreadMetadataPatch.model_validate({name: "", "model": "m"}))
    assert settled == {name}

    again = ObservedThread(thread, settled)
    for each in (observed, again):
        say(each, "said")
        turn(each, cwd="/said")

    assert getattr(observed.finish(), name) == ""
    assert again.finish() == observed.finish()


def test_a_turn_advances_what_somebody_set_and_never_sets_it_back(observed: ObservedThread) -> None:
    observed.patch(ThreadMetadataPatch(advance_recency_at=at(3)))
    for hours in (5, 1):
        observed.observe("event_msg", {"type": "task_started"}, at(hours))

    assert observed.finish().recency_at == at(5)


def test_a_thread_is_archived_as_of_all_that_was_said(observed: ObservedThread) -> None:
    say(observed, "said")

    archived = observed.archive(at(1))

    assert (archived.title, archived.archived_at) == ("said", at(1))
    assert observed.archive(None).archived_at is None


LINES: list[tuple[str, dict[str, Any]]] = [
    ("event_msg", {"type": "user_message", "message": "a"}),
    ("event_msg", {"type": "user_message", "message": "", "images": ["i"]}),
    ("event_msg", {"type": "thread_goal_updated", "goal": {"objective": "g"}}),
    ("event_msg", {"type": "token_count", "info": {"total_token_usage": {"n": 1}}}),
    ("event_msg", {"type": "task_started"}),
    ("turn_context", {"model": "m", "effort": "low", "cwd": "/a"}),
    ("turn_context", {"model": "n", "cwd": "/b"}),
    ("session_meta", {"id": THREAD, "cwd": "/meta", "git": {"branch": "b"}}),
    ("session_meta", {"id": THREAD, "git": {"commit_hash": "s"}, "agent_role": "r"}),
    ("response_item", {"type": "reasoning"}),
]
PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from(["asked", ""]),
        "preview": st.sampled_from(["asked", ""]),
        "cwd": st.sampled_from(["/asked", ""]),
        "model": st.sampled_from(["asked", ""]),
        "updated_at": st.sampled_from([at(-1), at(3)]),
        "git_info": st.fixed_dictionaries({}, optional={"branch": st.sampled_from(["asked", None])}),
    },
).map(ThreadMetadataPatch.model_validate)
STEPS = st.lists(st.tuples(st.sampled_from(LINES), st.integers(-2, 5)) | PATCHES, max_size=12)


@given(steps=STEPS, breaks=st.sets(st.integers(0, 12)))
def test_wherever_it_is_broken_off_and_continued_it_comes_to_the_same(steps: list[Any], breaks: set[int]) -> None:
    """A batch may end after any line, and its worker with it: what goes on is another."""
    whole = ObservedThread(new_thread(), set())
    settled: set[str] = set()
    parts = ObservedThread(new_thread(), settled)

    for number, step in enumerate(steps):
        if number in breaks:
            parts = ObservedThread(parts.finish(), settled)
        for each in (whole, parts):
            if isinstance(step, ThreadMetadataPatch):
                each.patch(step)
            else:
                (kind, payload), hours = step
                each.observe(kind, payload, at(hours))

    assert parts.finish() == whole.finish()
