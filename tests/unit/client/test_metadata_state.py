from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.metadata import FIRST_WINS, MetadataUpdate, StoredThread, ThreadMetadataPatch
from livethread.metadata_state import MetadataState, is_activity
from livethread.metadata_sync import ThreadMetadataSync

THREAD = "019a93b9-f380-7600-98ff-000000000001"
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


def at(hours: int) -> datetime:
    return AT + timedelta(hours=hours)


def new_thread(**fields: Any) -> StoredThread:
    return StoredThread(thread_id=THREAD, created_at=AT, updated_at=AT, recency_at=AT, **fields)


def update(*only_if_unset: str, **fields: Any) -> MetadataUpdate:
    return MetadataUpdate.model_validate({"patch": fields, "only_if_unset": only_if_unset})


@pytest.fixture
def explicit_fields() -> set[str]:
    return set()


@pytest.fixture
def state(explicit_fields: set[str]) -> MetadataState:
    return MetadataState(new_thread(), explicit_fields)


def test_no_update_changes_nothing(state: MetadataState) -> None:
    assert state.thread == new_thread()


def test_updated_at_is_the_time_of_the_latest_line(state: MetadataState) -> None:
    for hours in (2, 3, 1):
        state.touch(at(hours))

    assert state.thread == new_thread().model_copy(update={"updated_at": at(3)})


def test_a_line_older_than_the_thread_does_not_set_updated_at_back(state: MetadataState) -> None:
    state.touch(at(-1))

    assert state.thread.updated_at == AT


@pytest.mark.parametrize(("line_type", "expected"), [("session_meta", False), ("event_msg", True), ("new", True)])
def test_a_session_meta_is_not_activity(line_type: str, expected: bool) -> None:
    assert is_activity(line_type) is expected


def test_an_explicit_patch_may_set_updated_at_back_until_the_next_line(state: MetadataState) -> None:
    state.touch(at(5))

    assert state.update(update(updated_at=at(1)), is_explicit=True).updated_at == at(1)
    state.touch(at(2))
    assert state.thread.updated_at == at(2)


@pytest.mark.parametrize("name", sorted(FIRST_WINS))
def test_a_fact_that_is_only_if_unset_is_set_once(name: str, state: MetadataState) -> None:
    for value in ("/first", "/second"):
        state.update(update(name, **{name: value, "model": value}), is_explicit=False)

    assert (getattr(state.thread, name), state.thread.model) == ("/first", "/second")


@pytest.mark.parametrize("name", sorted(FIRST_WINS))
def test_a_field_that_a_caller_set_to_nothing_counts_as_set(
    name: str, state: MetadataState, explicit_fields: set[str]
) -> None:
    thread = state.update(update(**{name: "", "model": "m"}), is_explicit=True)
    assert explicit_fields == {name}

    for again in (state, MetadataState(thread, explicit_fields)):
        again.update(update(name, **{name: "/derived"}), is_explicit=False)
        assert getattr(again.thread, name) == ""


def test_an_explicit_patch_may_be_only_if_unset_too(state: MetadataState) -> None:
    state.update(update(title="first"), is_explicit=True)

    assert state.update(update("title", title="second", model="m"), is_explicit=True).title == "first"
    assert state.thread.model == "m"


def test_a_derived_patch_makes_no_field_explicit(state: MetadataState, explicit_fields: set[str]) -> None:
    state.update(update("title", title="derived"), is_explicit=False)

    assert explicit_fields == set()


def test_recency_never_goes_back(state: MetadataState) -> None:
    for hours in (5, 1):
        state.update(update(advance_recency_at=at(hours)), is_explicit=False)

    assert state.thread.recency_at == at(5)


def test_an_archived_thread_keeps_the_time_of_its_last_line(state: MetadataState) -> None:
    state.touch(at(2))

    archived = state.archive(at(1))

    assert (archived.updated_at, archived.archived_at) == (at(2), at(1))
    assert state.archive(None).archived_at is None


# -- several writers ---------------------------------------------------------------------------------------


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
WRITERS = 3
APPENDS = st.tuples(
    st.integers(0, WRITERS - 1),
    st.lists(st.sampled_from(LINES), min_size=1, max_size=3),
    st.integers(-2, 5),
    st.booleans(),
)


@given(steps=st.lists(APPENDS | PATCHES, max_size=12), resumed=st.sets(st.integers(0, 12)))
def test_with_several_writers_metadata_equals_reading_the_lines(steps: list[Any], resumed: set[int]) -> None:
    """Writers append in any order, may not know whether an append took effect, and may be opened at any time."""
    live, syncs = MetadataState(new_thread(), set()), [ThreadMetadataSync(THREAD) for _ in range(WRITERS)]
    read, reader = MetadataState(new_thread(), set()), ThreadMetadataSync(THREAD)

    for number, step in enumerate(steps):
        if number in resumed:
            syncs[number % WRITERS] = ThreadMetadataSync.for_stored(live.thread)
        if isinstance(step, ThreadMetadataPatch):
            live.update(MetadataUpdate(patch=step), is_explicit=True)
            read.update(MetadataUpdate(patch=step), is_explicit=True)
            continue
        writer, lines, hours, is_certain = step
        for kind, payload in lines:
            for state, sync in ((live, syncs[writer]), (read, reader)):
                sync.add(kind, payload, at(hours))
                if is_activity(kind):
                    state.touch(at(hours))
        if (derived := syncs[writer].take()) is not None:
            live.update(derived, is_explicit=False)
            if is_certain:
                syncs[writer].confirm(derived)
        if (facts := reader.take()) is not None:
            read.update(facts, is_explicit=False)
            reader.confirm(facts)

    assert live.thread == read.thread
