from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from livethread.model import format_time
from livethread.rollout.item import RolloutItem
from livethread.rollout.turns import (
    TurnEnd,
    TurnPhase,
    TurnPlace,
    TurnsRolledBack,
    TurnStart,
    next_place,
    stored_turn,
)
from livethread.types import StoredTurn, StoredTurnItemsView, StoredTurnStatus

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
BEFORE, STARTED, IMPLIED, ENDED = TurnPhase.BEFORE, TurnPhase.STARTED, TurnPhase.IMPLIED, TurnPhase.ENDED
FULL, SUMMARY, NOT_LOADED = StoredTurnItemsView.FULL, StoredTurnItemsView.SUMMARY, StoredTurnItemsView.NOT_LOADED


def event(kind: str, second: int = 0, **fields: Any) -> RolloutItem:
    at = format_time(AT + timedelta(seconds=second))
    return RolloutItem(type="event_msg", payload={"type": kind, **fields}, timestamp=at)


def response(second: int = 0) -> RolloutItem:
    at = format_time(AT + timedelta(seconds=second))
    return RolloutItem(type="response_item", payload={"type": "message", "role": "assistant"}, timestamp=at)


# -- starts and ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize("kind", ["task_started", "turn_started"])
def test_a_start_event_begins_a_turn_in_every_phase(phase: TurnPhase, kind: str) -> None:
    place = TurnPlace(phase, "t0")

    assert next_place(place, kind, {"turn_id": "t1"}, 7) == (TurnPlace(STARTED, "t1"), TurnStart("t1"))


@pytest.mark.parametrize("phase", [BEFORE, IMPLIED, ENDED])
def test_a_users_message_begins_a_turn_outside_of_a_started_turn(phase: TurnPhase) -> None:
    after = next_place(TurnPlace(phase), "user_message", {"message": "x"}, 7)

    assert after == (TurnPlace(IMPLIED), TurnStart("turn-7"))


def test_a_users_message_within_a_started_turn_belongs_to_it() -> None:
    place = TurnPlace(STARTED, "t1")

    assert next_place(place, "user_message", {"message": "x"}, 7) == (place, None)


@pytest.mark.parametrize("turn_id", [None, "", 7, ["t"]])
def test_a_turn_without_an_id_is_named_after_its_lines_number(turn_id: Any) -> None:
    after = next_place(TurnPlace(), "task_started", {"turn_id": turn_id}, 3)

    assert after == (TurnPlace(STARTED), TurnStart("turn-3"))


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize("kind", ["task_complete", "turn_complete", "turn_aborted"])
def test_an_end_event_ends_the_turn(phase: TurnPhase, kind: str) -> None:
    assert next_place(TurnPlace(phase, "t1"), kind, {}, 7) == (TurnPlace(ENDED), None)


@pytest.mark.parametrize("kind", ["task_complete", "turn_complete", "turn_aborted"])
@pytest.mark.parametrize("turn_id", ["t1", None])
def test_an_end_event_that_names_the_current_turn_or_no_turn_ends_it(kind: str, turn_id: str | None) -> None:
    assert next_place(TurnPlace(STARTED, "t1"), kind, {"turn_id": turn_id}, 7) == (TurnPlace(ENDED), None)


def test_an_end_event_that_names_another_turn_ends_that_turn() -> None:
    place = TurnPlace(STARTED, "t2")

    assert next_place(place, "task_complete", {"turn_id": "t1"}, 7) == (place, TurnEnd("t1"))


def test_any_end_event_ends_a_turn_without_an_id() -> None:
    assert next_place(TurnPlace(STARTED), "task_complete", {"turn_id": "t1"}, 7) == (TurnPlace(ENDED), None)


@pytest.mark.parametrize("phase", [BEFORE, IMPLIED, ENDED])
def test_an_end_event_outside_of_a_started_turn_ends_the_turn_that_it_names(phase: TurnPhase) -> None:
    assert next_place(TurnPlace(phase), "turn_aborted", {"turn_id": "t1"}, 7) == (TurnPlace(ENDED), TurnEnd("t1"))


@pytest.mark.parametrize("phase", TurnPhase)
def test_a_rollback_leaves_no_turn_open(phase: TurnPhase) -> None:
    after = next_place(TurnPlace(phase, "t1"), "thread_rolled_back", {"num_turns": 2}, 7)

    assert after == (TurnPlace(ENDED), TurnsRolledBack(2))


@pytest.mark.parametrize("payload", [{}, {"num_turns": None}, {"num_turns": "2"}, {"num_turns": 1.5}])
def test_a_rollback_without_a_valid_count_does_nothing(payload: dict[str, Any]) -> None:
    place = TurnPlace(STARTED, "t1")

    assert next_place(place, "thread_rolled_back", payload, 7) == (place, None)


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize("kind", [None, "agent_message", "token_count", "from_the_future"])
def test_every_other_event_changes_nothing(phase: TurnPhase, kind: str | None) -> None:
    assert next_place(TurnPlace(phase, "t1"), kind, {"turn_id": "t"}, 7) == (TurnPlace(phase, "t1"), None)


# -- status ------------------------------------------------------------------------------------------------


def turn(*items: RolloutItem, is_last: bool = False) -> StoredTurn:
    return stored_turn("t", items, NOT_LOADED, is_last=is_last)


def test_a_completed_turn_has_the_times_of_its_start_and_end() -> None:
    found = stored_turn("t", [event("task_started", 1), response(2), event("task_complete", 3)], FULL, is_last=True)

    assert found == StoredTurn(
        turn_id="t",
        items=(event("task_started", 1), response(2), event("task_complete", 3)),
        items_view=FULL,
        status=StoredTurnStatus.COMPLETED,
        started_at=AT + timedelta(seconds=1),
        completed_at=AT + timedelta(seconds=3),
    )


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        (event("turn_complete"), StoredTurnStatus.COMPLETED, None),
        (event("turn_complete", error=None), StoredTurnStatus.COMPLETED, None),
        (event("turn_aborted"), StoredTurnStatus.INTERRUPTED, None),
        (event("error", message="no quota"), StoredTurnStatus.FAILED, "no quota"),
        (event("task_complete", error={"message": "no quota"}), StoredTurnStatus.FAILED, "no quota"),
        (event("task_complete", error="no quota"), StoredTurnStatus.FAILED, "no quota"),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("is_last", [False, True])
def test_an_end_event_decides_the_status_and_error(
    end: RolloutItem, status: StoredTurnStatus, error: str | None, is_last: bool
) -> None:
    found = turn(event("task_started"), end, response(), is_last=is_last)

    assert (found.status, found.error) == (status, error)
    assert found.completed_at is not None


@pytest.mark.parametrize(
    ("begin", "is_last", "status"),
    [
        (event("task_started"), True, StoredTurnStatus.IN_PROGRESS),
        # The next turn began without an end event for this one: the process died.
        (event("task_started"), False, StoredTurnStatus.INTERRUPTED),
        # Turns of old rollouts have no end events; codex counts them as completed.
        (event("user_message", message="x"), False, StoredTurnStatus.COMPLETED),
        (event("user_message", message="x"), True, StoredTurnStatus.COMPLETED),
    ],
    ids=str,
)
def test_a_turn_without_an_end_event_is_in_progress_interrupted_or_completed(
    begin: RolloutItem, is_last: bool, status: StoredTurnStatus
) -> None:
    assert turn(begin, response(), is_last=is_last).status is status


@pytest.mark.parametrize(
    ("events", "status", "error", "second"),
    [
        ([event("error", 1, message="no"), event("task_complete", 2)], StoredTurnStatus.FAILED, "no", 2),
        ([event("turn_aborted", 1), event("task_complete", 2)], StoredTurnStatus.INTERRUPTED, None, 2),
        ([event("error", 1, message="no"), event("turn_aborted", 2)], StoredTurnStatus.INTERRUPTED, None, 2),
        ([event("task_complete", 1), response(2)], StoredTurnStatus.COMPLETED, None, 1),
        (
            [event("error", 1, message="no", codex_error_info="thread_rollback_failed"), event("task_complete", 2)],
            StoredTurnStatus.COMPLETED,
            None,
            2,
        ),
        (
            [event("error", 1, message="no", codex_error_info={"active_turn_not_steerable": {}}), response(2)],
            StoredTurnStatus.INTERRUPTED,
            None,
            2,
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_completion_does_not_undo_a_failure_or_interruption(
    events: list[RolloutItem], status: StoredTurnStatus, error: str | None, second: int
) -> None:
    found = turn(event("task_started"), *events)

    assert (found.status, found.error, found.completed_at) == (status, error, AT + timedelta(seconds=second))


def test_a_turn_ignores_other_turns_ends_and_takes_its_own_late_end() -> None:
    items = [event("task_started"), event("turn_aborted", 1, turn_id="other"), response(2)]
    others = frozenset({"other"})

    open_ = stored_turn("t", items, FULL, is_last=True, others=others)
    ended = stored_turn("t", items, FULL, is_last=False, others=others, late_end=event("task_complete", 9))
    without_others = stored_turn("t", items, FULL, is_last=True)

    assert open_.status is StoredTurnStatus.IN_PROGRESS
    assert (ended.status, ended.completed_at) == (StoredTurnStatus.COMPLETED, AT + timedelta(seconds=9))
    assert ended.items == tuple(items)
    assert without_others.status is StoredTurnStatus.INTERRUPTED


def test_a_turn_in_progress_has_no_completion_time() -> None:
    assert turn(event("task_started"), response(), is_last=True).completed_at is None


def test_a_turn_whose_start_has_no_time_has_no_start_time() -> None:
    started = RolloutItem(type="event_msg", payload={"type": "task_started"})

    assert turn(started, is_last=True).started_at is None


# -- views -------------------------------------------------------------------------------------------------

ITEMS = [
    event("task_started"),
    event("user_message", message="q"),
    response(),
    RolloutItem(type="turn_context", payload={"type": "user_message"}),
    event("agent_message", message="a"),
    event("token_count"),
]


@pytest.mark.parametrize(
    ("view", "shown"), [(FULL, ITEMS), (SUMMARY, [ITEMS[1], ITEMS[4]]), (NOT_LOADED, [])], ids=str
)
def test_each_view_shows_its_part_of_the_items(view: StoredTurnItemsView, shown: list[RolloutItem]) -> None:
    found = stored_turn("t", ITEMS, view, is_last=True)

    assert (found.items_view, found.items) == (view, tuple(shown))


def test_a_summary_of_a_paginated_thread_shows_its_messages() -> None:
    messages = [event("item_completed", item={"type": kind}) for kind in ("UserMessage", "AgentMessage")]
    others = [event("item_completed", item=item) for item in ({"type": "Reasoning"}, {"type": ["UserMessage"]}, None)]

    found = stored_turn("t", [*messages, *others], SUMMARY, is_last=True)

    assert found.items == tuple(messages)


def test_a_summary_is_the_first_user_message_and_the_last_agent_message() -> None:
    messages = [event(kind, message=f"{n}") for n, kind in enumerate(["user_message", "agent_message"] * 2)]

    found = stored_turn("t", [event("task_started"), *messages, response()], SUMMARY, is_last=True)

    assert found.items == (messages[0], messages[3])


def test_a_summary_falls_back_to_response_items() -> None:
    answer = RolloutItem(
        type="response_item",
        payload={"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    )

    found = stored_turn("t", [event("user_message", message="q"), answer, response()], SUMMARY, is_last=True)

    assert [item.type for item in found.items] == ["event_msg", "response_item"]


def test_the_status_does_not_depend_on_the_view() -> None:
    items = [*ITEMS, event("turn_aborted")]

    statuses = {stored_turn("t", items, view, is_last=True).status for view in StoredTurnItemsView}

    assert statuses == {StoredTurnStatus.INTERRUPTED}
