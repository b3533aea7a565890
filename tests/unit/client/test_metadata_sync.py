from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from livethread.item_observer import ItemObserver
from livethread.metadata import StoredThread, ThreadMetadataPatch
from livethread.metadata_sync import TOUCH_INTERVAL, ObservedUpdate, ThreadMetadataSync
from livethread.rollout_item import RolloutItem
from livethread.types import END, START, CreateThreadParams

THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
REASONING = RolloutItem(type="response_item", payload={"type": "reasoning"})
TURN = RolloutItem(type="turn_context", payload={"model": "m"})


def after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sync(clock: Clock) -> ThreadMetadataSync:
    return ThreadMetadataSync(ItemObserver(THREAD, cwd_seen=True), monotonic=clock)


def touch(sync: ThreadMetadataSync, seconds: float, position: str) -> list[ObservedUpdate]:
    return sync.observe_appended_items([REASONING], [after(seconds)], position)


def test_the_first_append_is_a_touch_that_is_due(sync: ThreadMetadataSync) -> None:
    update = touch(sync, 1, "1-0")

    assert update == [ObservedUpdate(ThreadMetadataPatch(updated_at=after(1)), "1-0")]
    assert sync.take_pending() == []


def test_within_the_interval_a_mere_touch_stays_pending(sync: ThreadMetadataSync, clock: Clock) -> None:
    assert touch(sync, 1, "1-0")
    clock.now += TOUCH_INTERVAL - 0.001

    due = touch(sync, 2, "2-0")

    assert due == []
    assert sync.take_pending() == [ObservedUpdate(ThreadMetadataPatch(updated_at=after(2)), "2-0")]


def test_after_the_interval_a_touch_is_due_again(sync: ThreadMetadataSync, clock: Clock) -> None:
    assert touch(sync, 1, "1-0")
    clock.now += TOUCH_INTERVAL

    due = touch(sync, 2, "2-0")

    assert due == [ObservedUpdate(ThreadMetadataPatch(updated_at=after(2)), "2-0")]


def test_many_touches_become_one_of_the_latest_time(sync: ThreadMetadataSync, clock: Clock) -> None:
    assert touch(sync, 1, "1-0")
    clock.now += 1
    assert touch(sync, 3, "2-0") == []
    assert touch(sync, 2, "3-0") == []  # a line's own time may go back

    assert sync.take_pending() == [ObservedUpdate(ThreadMetadataPatch(updated_at=after(3)), "3-0")]


def test_a_fact_is_due_at_once_and_takes_the_pending_touch_along(sync: ThreadMetadataSync) -> None:
    assert touch(sync, 1, "1-0")
    assert touch(sync, 3, "2-0") == []

    due = sync.observe_appended_items([TURN], [after(2)], "3-0")

    assert due == [ObservedUpdate(ThreadMetadataPatch(model="m", updated_at=after(3)), "3-0")]


def test_items_of_one_append_are_one_patch(sync: ThreadMetadataSync) -> None:
    message = RolloutItem(type="event_msg", payload={"type": "user_message", "message": "hello"})
    started = RolloutItem(type="event_msg", payload={"type": "task_started"})

    due = sync.observe_appended_items([started, TURN, message], [after(1), after(3), after(2)], "1-0")

    [update] = due
    assert update.patch.changes() == {
        "advance_recency_at": after(1),
        "model": "m",
        "first_user_message": "hello",
        "preview": "hello",
        "title": "hello",
        "updated_at": after(3),
    }


def test_a_patch_that_could_not_be_sent_goes_out_with_the_next(sync: ThreadMetadataSync) -> None:
    lost = sync.observe_appended_items([TURN], [after(1)], "1-0")
    assert lost
    sync.give_back(lost)

    due = touch(sync, 2, "2-0")  # a mere touch, but a fact is pending

    # Each from where it was seen: of several writers the position decides.
    assert due == [
        ObservedUpdate(ThreadMetadataPatch(model="m"), "1-0"),
        ObservedUpdate(ThreadMetadataPatch(updated_at=after(2)), "2-0"),
    ]
    assert sync.take_pending() == []


def test_a_touch_that_could_not_be_sent_is_due_with_the_next_append(sync: ThreadMetadataSync) -> None:
    lost = touch(sync, 1, "1-0")
    assert lost
    sync.give_back(lost)

    assert touch(sync, 2, "2-0") == [ObservedUpdate(ThreadMetadataPatch(updated_at=after(2)), "2-0")]


def test_what_is_given_back_is_handed_over_once_more_as_it_was(sync: ThreadMetadataSync) -> None:
    lost = sync.observe_appended_items([TURN], [after(1)], "1-0")
    assert lost
    assert sync.take_pending() == []

    sync.give_back(lost)

    assert sync.take_pending() == lost
    assert sync.take_pending() == []


def test_what_is_handed_over_is_forgotten(sync: ThreadMetadataSync) -> None:
    assert sync.observe_appended_items([TURN], [after(1)], "1-0")

    assert sync.take_pending() == []
    assert touch(sync, 2, "2-0") == []
    assert sync.take_pending() == [ObservedUpdate(ThreadMetadataPatch(updated_at=after(2)), "2-0")]


def test_a_patch_that_is_given_back_does_not_undo_what_was_observed_since(sync: ThreadMetadataSync) -> None:
    older = sync.observe_appended_items([TURN], [after(1)], "1-0")
    assert older
    other = RolloutItem(type="turn_context", payload={"model": "n"})
    newer = sync.observe_appended_items([other], [after(2)], "2-0")
    assert newer

    # While the newer was being sent, the older failed; then the newer failed, too.
    sync.give_back(newer)
    sync.give_back(older)

    assert sync.take_pending() == [
        ObservedUpdate(ThreadMetadataPatch(model="m"), "1-0"),
        ObservedUpdate(ThreadMetadataPatch(model="n", updated_at=after(2)), "2-0"),
    ]


def test_a_new_threads_own_session_meta_is_not_observed_again() -> None:
    params = CreateThreadParams(thread_id=THREAD, cwd="/work", created_at=AT)
    context = RolloutItem(type="turn_context", payload={"cwd": "/elsewhere", "model": "m"})

    due = ThreadMetadataSync.for_create(params).observe_appended_items([context], [after(1)], "1-0")

    assert due == [ObservedUpdate(ThreadMetadataPatch(model="m", updated_at=after(1)), "1-0")]


def test_a_new_thread_without_a_directory_takes_its_first_turns() -> None:
    params = CreateThreadParams(thread_id=THREAD, created_at=AT)
    context = RolloutItem(type="turn_context", payload={"cwd": "/work"})

    due = ThreadMetadataSync.for_create(params).observe_appended_items([context], [after(1)], "1-0")

    [update] = due
    assert update.patch.changes() == {"cwd": "/work", "updated_at": after(1)}


def test_a_resumed_thread_keeps_its_title() -> None:
    stored = StoredThread(
        thread_id=THREAD,
        created_at=AT,
        updated_at=after(9),
        recency_at=AT,
        title="t",
        preview="t",
        first_user_message="t",
    )
    message = RolloutItem(type="event_msg", payload={"type": "user_message", "message": "later"})

    due = ThreadMetadataSync.for_resume(stored).observe_appended_items([message], [after(5)], "7-0")

    # Of two times the store keeps the later one.
    assert due == [ObservedUpdate(ThreadMetadataPatch(updated_at=after(5)), "7-0")]


def test_what_happened_before_the_last_report_is_not_reported_again(sync: ThreadMetadataSync, clock: Clock) -> None:
    """Else it would undo an earlier time that somebody asked for since."""
    assert touch(sync, 9, "1-0")
    clock.now += TOUCH_INTERVAL

    due = touch(sync, 2, "2-0")

    assert due == [ObservedUpdate(ThreadMetadataPatch(updated_at=after(2)), "2-0")]


def test_to_say_anew_what_a_thread_is_touches_it_not(sync: ThreadMetadataSync) -> None:
    """A copy of its ``session_meta`` is no happening: the store writes such copies, too."""
    meta = RolloutItem(type="session_meta", payload={"id": THREAD, "source": "exec"})

    [update] = sync.observe_appended_items([meta], [after(1)], "1-0")

    assert (update.patch.source, update.patch.updated_at) == ("exec", None)


def test_items_that_land_nobody_knows_where_set_only_what_nobody_else_has_set(sync: ThreadMetadataSync) -> None:
    message = RolloutItem(type="event_msg", payload={"type": "user_message", "message": "hello"})

    sync.observe_late_items([message, TURN], [after(1), after(2)])
    sync.observe_late_items([REASONING], [after(3)])

    texts = ThreadMetadataPatch(first_user_message="hello", preview="hello", title="hello")
    assert sync.take_pending() == [
        ObservedUpdate(ThreadMetadataPatch(model="m"), START),
        ObservedUpdate(texts, END),
        ObservedUpdate(ThreadMetadataPatch(updated_at=after(3)), START),
    ]


# -- appends with a key ------------------------------------------------------------------------------------


def test_what_an_append_with_a_key_says_goes_out_by_itself(sync: ThreadMetadataSync) -> None:
    touch(sync, 1, "1-0")
    touch(sync, 2, "2-0")  # stays pending

    due = sync.observe_appended_items([TURN], [after(3)], "3-0", "k")

    assert due == [
        ObservedUpdate(ThreadMetadataPatch(model="m", updated_at=after(3)), "3-0", "k"),
        ObservedUpdate(ThreadMetadataPatch(updated_at=after(2)), "2-0"),
    ]


def test_an_append_with_a_key_leaves_nothing_to_be_taken_for_known() -> None:
    sync = ThreadMetadataSync(ItemObserver(THREAD))
    message = RolloutItem(type="event_msg", payload={"type": "user_message", "message": "hello"})
    sync.observe_appended_items([message], [AT], "1-0", "k")

    (update,) = sync.observe_appended_items([message], [AT], "2-0")

    assert (update.patch.title, update.observed_from, update.idempotency_key) == ("hello", "2-0", None)


def test_items_with_a_key_that_land_nobody_knows_where_are_left_to_the_store(sync: ThreadMetadataSync) -> None:
    sync.observe_late_items([TURN], [AT], "k")
    sync.observe_late_items([TURN], [after(1)], "l")
    sync.observe_late_items([TURN], [after(2)])

    assert sync.take_pending() == [
        ObservedUpdate(ThreadMetadataPatch(model="m", updated_at=AT), START, "k"),
        ObservedUpdate(ThreadMetadataPatch(model="m", updated_at=after(1)), START, "l"),
        ObservedUpdate(ThreadMetadataPatch(model="m", updated_at=after(2)), START),
    ]


def test_a_patch_with_a_key_that_could_not_be_sent_is_given_back_whole(sync: ThreadMetadataSync) -> None:
    due = sync.observe_appended_items([TURN], [AT], "1-0", "k")

    sync.give_back(due)

    assert sync.take_pending() == due
