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


# -- where turns begin -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize("kind", ["task_started", "turn_started"])
def test_a_start_begins_a_turn_wherever_the_thread_stands(phase: TurnPhase, kind: str) -> None:
    place = TurnPlace(phase, "t0")

    assert next_place(place, kind, {"turn_id": "t1"}, 7) == (TurnPlace(STARTED, "t1"), TurnStart("t1"))


@pytest.mark.parametrize("phase", [BEFORE, IMPLIED, ENDED])
def test_a_users_message_begins_a_turn_where_none_said_that_it_began(phase: TurnPhase) -> None:
    after = next_place(TurnPlace(phase), "user_message", {"message": "x"}, 7)

    assert after == (TurnPlace(IMPLIED), TurnStart("turn-7"))


def test_a_users_message_within_a_turn_that_said_when_it_began_is_part_of_it() -> None:
    place = TurnPlace(STARTED, "t1")

    assert next_place(place, "user_message", {"message": "x"}, 7) == (place, None)


@pytest.mark.parametrize("turn_id", [None, "", 7, ["t"]])
def test_a_turn_without_an_id_has_its_lines_number(turn_id: Any) -> None:
    after = next_place(TurnPlace(), "task_started", {"turn_id": turn_id}, 3)

    assert after == (TurnPlace(STARTED), TurnStart("turn-3"))


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize("kind", ["task_complete", "turn_complete", "turn_aborted"])
def test_an_end_ends_the_turn(phase: TurnPhase, kind: str) -> None:
    assert next_place(TurnPlace(phase, "t1"), kind, {}, 7) == (TurnPlace(ENDED), None)


@pytest.mark.parametrize("kind", ["task_complete", "turn_complete", "turn_aborted"])
@pytest.mark.parametrize("turn_id", ["t1", None])
def test_an_end_that_names_the_turn_or_none_ends_it(kind: str, turn_id: str | None) -> None:
    assert next_place(TurnPlace(STARTED, "t1"), kind, {"turn_id": turn_id}, 7) == (TurnPlace(ENDED), None)


def test_an_end_that_names_another_turn_ends_that_one() -> None:
    place = TurnPlace(STARTED, "t2")

    assert next_place(place, "task_complete", {"turn_id": "t1"}, 7) == (place, TurnEnd("t1"))


def test_an_end_ends_a_turn_that_said_no_id_whatever_it_names() -> None:
    assert next_place(TurnPlace(STARTED), "task_complete", {"turn_id": "t1"}, 7) == (TurnPlace(ENDED), None)


@pytest.mark.parametrize("phase", [BEFORE, IMPLIED, ENDED])
def test_an_end_outside_of_a_turn_that_began_ends_the_one_that_it_names(phase: TurnPhase) -> None:
    assert next_place(TurnPlace(phase), "turn_aborted", {"turn_id": "t1"}, 7) == (TurnPlace(ENDED), TurnEnd("t1"))


@pytest.mark.parametrize("phase", TurnPhase)
def test_turns_that_are_rolled_back_leave_none_open(phase: TurnPhase) -> None:
    after = next_place(TurnPlace(phase, "t1"), "thread_rolled_back", {"num_turns": 2}, 7)

    assert after == (TurnPlace(ENDED), TurnsRolledBack(2))


@pytest.mark.parametrize("payload", [{}, {"num_turns": None}, {"num_turns": "2"}, {"num_turns": 1.5}])
def test_a_rollback_of_nothing_that_can_be_counted_does_nothing(payload: dict[str, Any]) -> None:
    place = TurnPlace(STARTED, "t1")

    assert next_place(place, "thread_rolled_back", payload, 7) == (place, None)


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize("kind", [None, "agent_message", "token_count", "from_the_future"])
def test_every_other_event_changes_nothing(phase: TurnPhase, kind: str | None) -> None:
    assert next_place(TurnPlace(phase, "t1"), kind, {"turn_id": "t"}, 7) == (TurnPlace(phase, "t1"), None)


# -- how they ended ----------------------------------------------------------------------------------------


def turn(*items: RolloutItem, is_last: bool = False) -> StoredTurn:
    return stored_turn("t", items, NOT_LOADED, is_last=is_last)


def test_a_turn_that_completed_says_when_it_began_and_ended() -> None:
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
def test_the_last_that_ends_a_turn_says_how(
    end: RolloutItem, status: StoredTurnStatus, error: str | None, is_last: bool
) -> None:
    found = turn(event("task_started"), end, response(), is_last=is_last)

    assert (found.status, found.error) == (status, error)
    assert found.completed_at is not None


@pytest.mark.parametrize(
    ("begin", "is_last", "status"),
    [
        (event("task_started"), True, StoredTurnStatus.IN_PROGRESS),
        # The next turn began, and nobody said that this one ended: the process died.
        (event("task_started"), False, StoredTurnStatus.INTERRUPTED),
        # In old rollouts no turn says when it ends; codex takes each for completed.
        (event("user_message", message="x"), False, StoredTurnStatus.COMPLETED),
        (event("user_message", message="x"), True, StoredTurnStatus.COMPLETED),
    ],
    ids=str,
)
def test_a_turn_that_does_not_say_how_it_ended(begin: RolloutItem, is_last: bool, status: StoredTurnStatus) -> None:
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
def test_what_failed_or_was_interrupted_stays_so_though_it_completes(
    events: list[RolloutItem], status: StoredTurnStatus, error: str | None, second: int
) -> None:
    found = turn(event("task_started"), *events)

    assert (found.status, found.error, found.completed_at) == (status, error, AT + timedelta(seconds=second))


def test_the_end_of_another_turn_is_not_this_ones_and_its_own_may_come_late() -> None:
    items = [event("task_started"), event("turn_aborted", 1, turn_id="other"), response(2)]
    others = frozenset({"other"})

    open_ = stored_turn("t", items, FULL, is_last=True, others=others)
    ended = stored_turn("t", items, FULL, is_last=False, others=others, late_end=event("task_complete", 9))
    of_nobody = stored_turn("t", items, FULL, is_last=True)

    assert open_.status is StoredTurnStatus.IN_PROGRESS
    assert (ended.status, ended.completed_at) == (StoredTurnStatus.COMPLETED, AT + timedelta(seconds=9))
    assert ended.items == tuple(items)
    assert of_nobody.status is StoredTurnStatus.INTERRUPTED


def test_a_turn_in_progress_is_not_completed_at_any_time() -> None:
    assert turn(event("task_started"), response(), is_last=True).completed_at is None


def test_an_item_without_a_time_gives_none() -> None:
    started = RolloutItem(type="event_msg", payload={"type": "task_started"})

    assert turn(started, is_last=True).started_at is None


# -- how much of them is shown -----------------------------------------------------------------------------

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
def test_a_view_shows_so_much(view: StoredTurnItemsView, shown: list[RolloutItem]) -> None:
    found = stored_turn("t", ITEMS, view, is_last=True)

    assert (found.items_view, found.items) == (view, tuple(shown))


def test_a_summary_of_a_paginated_thread_shows_what_was_said() -> None:
    said = [event("item_completed", item={"type": kind}) for kind in ("UserMessage", "AgentMessage")]
    others = [event("item_completed", item=item) for item in ({"type": "Reasoning"}, {"type": ["UserMessage"]}, None)]

    found = stored_turn("t", [*said, *others], SUMMARY, is_last=True)

    assert found.items == tuple(said)


def test_a_summary_is_what_was_asked_first_and_answered_last() -> None:
    said = [event(kind, message=f"{n}") for n, kind in enumerate(["user_message", "agent_message"] * 2)]

    found = stored_turn("t", [event("task_started"), *said, response()], SUMMARY, is_last=True)

    assert found.items == (said[0], said[3])


def test_a_summary_takes_what_the_model_saw_where_there_is_no_event() -> None:
    answer = RolloutItem(
        type="response_item",
        payload={"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    )

    found = stored_turn("t", [event("user_message", message="q"), answer, response()], SUMMARY, is_last=True)

    assert [item.type for item in found.items] == ["event_msg", "response_item"]


def test_how_a_turn_ended_does_not_depend_on_the_view() -> None:
    items = [*ITEMS, event("turn_aborted")]

    statuses = {stored_turn("t", items, view, is_last=True).status for view in StoredTurnItemsView}

    assert statuses == {StoredTurnStatus.INTERRUPTED}
