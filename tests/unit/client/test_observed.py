from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.item_observer import ItemObserver
from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.observed import ALL_FIELDS, FIRST_OBSERVED, apply_patch
from livethread.rollout_item import RolloutItem
from livethread.types import START, position_key

if TYPE_CHECKING:
    from collections.abc import Sequence

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
ONE = "019a93b9-f380-7600-98ff-000000000001"


def new_thread() -> StoredThread:
    return StoredThread(thread_id=ONE, created_at=AT, updated_at=AT, recency_at=AT)


@dataclass
class Observed:
    """A thread, and what is known of its fields."""

    thread: StoredThread = field(default_factory=new_thread)
    marks: dict[str, str] = field(default_factory=dict)

    def take(self, patch: ThreadMetadataPatch, observed_from: str | None, position: str) -> None:
        self.thread = apply_patch(self.thread, self.marks, patch, observed_from=observed_from, position=position)


#: Items that differ in what they say, by the field that they say it of.
ITEMS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "message": [
        ("event_msg", {"type": "user_message", "message": "a"}),
        ("event_msg", {"type": "user_message", "message": "b"}),
        ("event_msg", {"type": "user_message", "message": "", "images": ["i"]}),
        ("event_msg", {"type": "thread_goal_updated", "goal": {"objective": "g"}}),
    ],
    "model": [("turn_context", {"model": "m", "effort": "low"}), ("turn_context", {"model": "n"})],
    "cwd": [("turn_context", {"cwd": "/a"}), ("turn_context", {"cwd": "/b"})],
    "tokens": [("event_msg", {"type": "token_count", "info": {"total_token_usage": {"n": n}}}) for n in (1, 2)],
    "turn": [("event_msg", {"type": "task_started"})],
    "touch": [("response_item", {"type": "reasoning"})],
}


def at(hours: int) -> datetime:
    return AT + timedelta(hours=hours)


def read_in_order(items: Sequence[tuple[RolloutItem, datetime]]) -> StoredThread:
    """The thread that reading the rollout gives: what every order of arrival must come to."""
    thread = new_thread()
    said = ItemObserver(ONE).observe(items)
    updated = ThreadMetadataPatch(updated_at=max([AT, *(time for _, time in items)]))
    return thread.patched(said.merge(updated) if said else updated)


@pytest.mark.parametrize("kind", list(ITEMS))
@given(data=st.data())
def test_two_writers_observations_come_to_the_same_in_any_order_of_arrival(kind: str, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.sampled_from(ITEMS[kind]), min_size=1, max_size=5), label="items")
    hours = data.draw(st.lists(st.integers(0, 5), min_size=len(drawn), max_size=len(drawn)), label="hours")
    if kind not in {"touch", "turn"}:
        hours.sort()  # times that go back are tried there
    writer_of = data.draw(st.lists(st.integers(0, 1), min_size=len(drawn), max_size=len(drawn)), label="writers")
    items = [(RolloutItem(type=t, payload=p), at(h)) for (t, p), h in zip(drawn, hours, strict=True)]
    observers = [ItemObserver(ONE), ItemObserver(ONE)]
    latest = [AT, AT]
    sent: list[list[tuple[ThreadMetadataPatch, str]]] = [[], []]
    for place, (item, writer) in enumerate(zip(items, writer_of, strict=True), start=1):
        latest[writer] = max(latest[writer], item[1])
        touch = ThreadMetadataPatch(updated_at=latest[writer])
        said = observers[writer].observe([item])
        sent[writer].append((said.merge(touch) if said else touch, f"{place}-0"))
    observed = Observed()

    for position in range(len(items)):
        choices = [queue for queue in sent if queue]
        queue = data.draw(st.sampled_from(choices), label="next") if len(choices) > 1 else choices[0]
        patch, observed_from = queue.pop(0)
        observed.take(patch, observed_from, f"{100 + position}-0")

    assert observed.thread == read_in_order(items)


def test_a_patch_that_somebody_asked_for_is_literal() -> None:
    observed = Observed()

    observed.take(ThreadMetadataPatch(title="t", model="m", name=None), None, "5-0")

    assert observed.thread == read_in_order([]).model_copy(update={"title": "t", "model": "m"})
    assert observed.marks == {"title": START, "model": "5-0", "name": "5-0"}


def test_an_older_observation_does_not_undo_what_was_asked_for_since() -> None:
    observed = Observed()
    observed.take(ThreadMetadataPatch(model="asked", title="asked"), None, "5-0")

    observed.take(ThreadMetadataPatch(model="observed", title="observed"), "3-0", "6-0")

    assert (observed.thread.model, observed.thread.title) == ("asked", "asked")


def test_a_newer_observation_replaces_what_was_asked_for_but_never_a_first_come_field() -> None:
    observed = Observed()
    observed.take(ThreadMetadataPatch(model="asked", title="asked"), None, "5-0")

    observed.take(ThreadMetadataPatch(model="observed", title="observed"), "7-0", "8-0")

    assert (observed.thread.model, observed.thread.title) == ("observed", "asked")


def test_a_first_come_field_that_was_emptied_stays_empty() -> None:
    """As any other that was asked for; the writers that saw the first item would not report the next one."""
    observed = Observed()
    observed.take(ThreadMetadataPatch(title=""), None, "5-0")

    observed.take(ThreadMetadataPatch(title="observed"), "7-0", "8-0")

    assert observed.thread.title == ""


def test_a_time_of_update_that_was_asked_for_outlives_what_was_appended_before_it() -> None:
    observed = Observed()
    observed.take(ThreadMetadataPatch(updated_at=at(1)), None, "5-0")

    observed.take(ThreadMetadataPatch(updated_at=at(3)), "4-0", "6-0")
    before = observed.thread.updated_at
    observed.take(ThreadMetadataPatch(updated_at=at(2)), "7-0", "8-0")

    assert (before, observed.thread.updated_at) == (at(1), at(2))


def test_a_thread_that_was_read_as_a_whole_knows_every_field_up_to_there() -> None:
    observed = Observed(new_thread().model_copy(update={"model": "read"}))
    observed.marks = {ALL_FIELDS: "5-0"}

    observed.take(ThreadMetadataPatch(model="late", token_usage={"late": 1}), "4-0", "6-0")
    late = observed.thread
    observed.take(ThreadMetadataPatch(model="new"), "7-0", "8-0")

    assert (late.model, late.token_usage, observed.thread.model) == ("read", None, "new")


def test_the_same_observation_again_changes_nothing() -> None:
    observed = Observed()
    patch = ThreadMetadataPatch(model="m", title="t", updated_at=at(1), advance_recency_at=at(1))
    observed.take(patch, "3-0", "4-0")
    once = (observed.thread, dict(observed.marks))

    observed.take(patch, "3-0", "4-0")

    assert (observed.thread, observed.marks) == once


def test_an_observed_time_never_goes_back() -> None:
    observed = Observed()
    observed.take(ThreadMetadataPatch(updated_at=at(5), advance_recency_at=at(5)), "7-0", "8-0")

    observed.take(ThreadMetadataPatch(updated_at=at(1), advance_recency_at=at(1)), "9-0", "10-0")

    assert (observed.thread.updated_at, observed.thread.recency_at) == (at(5), at(5))


def test_a_time_that_somebody_asked_for_may_go_back() -> None:
    observed = Observed()
    observed.take(ThreadMetadataPatch(updated_at=at(5)), "7-0", "8-0")

    observed.take(ThreadMetadataPatch(updated_at=at(1)), None, "9-0")

    assert observed.thread.updated_at == at(1)


def test_what_was_read_from_the_file_counts_as_asked_for() -> None:
    """A rebuilt index marks first-come fields with the start, and the others with the last position it knows."""
    observed = Observed(new_thread().model_copy(update={"title": "read", "model": "read"}))
    observed.marks = {"title": START, "model": "5-0"}

    observed.take(ThreadMetadataPatch(title="late", model="late"), "4-0", "6-0")

    assert (observed.thread.title, observed.thread.model) == ("read", "read")


@given(data=st.data())
def test_of_patches_that_were_asked_for_the_last_one_counts_for_every_field(data: st.DataObject) -> None:
    values = st.sampled_from(["a", "b", ""])
    fields = st.dictionaries(st.sampled_from(sorted(FIRST_OBSERVED | {"model", "name"})), values, max_size=3)
    observed, expected = Observed(), new_thread()

    for n, changes in enumerate(data.draw(st.lists(fields, max_size=5)), start=1):
        observed.take(ThreadMetadataPatch.model_validate(changes), None, f"{n}-0")
        expected = expected.model_copy(update=changes)

    assert observed.thread == expected
    assert all(position_key(mark) >= position_key(START) for mark in observed.marks.values())


def test_a_turn_that_is_told_late_advances_what_somebody_set_meanwhile() -> None:
    observed = Observed()

    observed.take(ThreadMetadataPatch(advance_recency_at=at(-1)), None, "3-0")
    observed.take(ThreadMetadataPatch(advance_recency_at=at(1)), "2-0", "4-0")

    assert observed.thread.recency_at == at(1)
