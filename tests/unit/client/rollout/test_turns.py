from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from livethread.model import format_time
from livethread.rollout.item import RolloutItem
from livethread.rollout.turns import (
    TurnChange,
    TurnEnd,
    TurnPhase,
    TurnPlace,
    TurnsRolledBack,
    TurnStart,
    kept_turns,
    next_place,
    stored_turn,
)
from livethread.types import StoredTurn, StoredTurnError, StoredTurnItemsView, StoredTurnStatus

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
BETWEEN, STARTED, IMPLIED, COMPACTED = TurnPhase
FULL, SUMMARY, NOT_LOADED = StoredTurnItemsView.FULL, StoredTurnItemsView.SUMMARY, StoredTurnItemsView.NOT_LOADED


def event(kind: str, second: int = 0, **fields: Any) -> RolloutItem:
    at = format_time(AT + timedelta(seconds=second))
    return RolloutItem(type="event_msg", payload={"type": kind, **fields}, timestamp=at)


def response(second: int = 0) -> RolloutItem:
    at = format_time(AT + timedelta(seconds=second))
    return RolloutItem(type="response_item", payload={"type": "message", "role": "assistant"}, timestamp=at)


# -- starts and ends ---------------------------------------------------------------------------------------


def after(place: TurnPlace, kind: str, known: str = "", line_type: str = "event_msg", **fields: Any) -> Any:
    """Return what follows the line of number 7 in a thread whose earlier turns are *known*, separated by spaces."""
    return next_place(place, line_type, {"type": kind, **fields}, 7, known.split().__contains__)


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "output_text", "text": text}]}


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize("kind", ["task_started", "turn_started"])
def test_a_start_event_begins_a_turn_in_every_phase(phase: TurnPhase, kind: str) -> None:
    assert after(TurnPlace(phase, "t0"), kind, turn_id="t1") == (TurnPlace(STARTED, "t1"), TurnStart("t1"))


@pytest.mark.parametrize("phase", [BETWEEN, IMPLIED])
def test_a_users_message_begins_a_turn_outside_of_a_started_turn(phase: TurnPhase) -> None:
    assert after(TurnPlace(phase), "user_message", message="x") == (TurnPlace(IMPLIED), TurnStart("turn-7"))


def test_a_users_message_within_a_started_turn_belongs_to_it() -> None:
    place = TurnPlace(STARTED, "t1")

    assert after(place, "user_message", message="x") == (place, None)


def test_a_users_message_belongs_to_a_turn_that_has_only_a_compaction() -> None:
    assert after(TurnPlace(COMPACTED), "user_message", message="x") == (TurnPlace(IMPLIED), None)


SHOWN: list[Any] = [
    ("event_msg", {"type": "agent_message", "message": "a"}),
    ("event_msg", {"type": "agent_reasoning", "text": "a"}),
    ("event_msg", {"type": "agent_reasoning_raw_content", "text": "a"}),
    *(("event_msg", {"type": kind}) for kind in ("context_compacted", "web_search_end", "mcp_tool_call_end")),
    *(("event_msg", {"type": kind}) for kind in ("image_generation_end", "sub_agent_activity", "patch_apply_end")),
    *(("event_msg", {"type": kind}) for kind in ("entered_review_mode", "exited_review_mode")),
    ("response_item", {"type": "message", "role": "user", "content": [{"text": '<hook_prompt hook_run_id="1">x'}]}),
]


@pytest.mark.parametrize(("line_type", "payload"), SHOWN, ids=str)
def test_what_codex_shows_begins_a_turn_unless_it_is_in_one(line_type: str, payload: dict[str, Any]) -> None:
    started, implied = TurnPlace(STARTED, "t1"), TurnPlace(IMPLIED)
    begun = [next_place(TurnPlace(phase), line_type, payload, 7, bool) for phase in (BETWEEN, COMPACTED)]

    assert begun == [(implied, TurnStart("turn-7")), (implied, None)]
    assert next_place(started, line_type, payload, 7, bool) == (started, None)
    assert next_place(implied, line_type, payload, 7, bool) == (implied, None)


NOT_SHOWN: list[Any] = [
    *(
        ("event_msg", {"type": kind, "turn_id": "t"})
        for kind in ("token_count", "patch_apply_end", "from_the_future")
    ),
    ("event_msg", {"type": "agent_message", "message": ""}),
    ("event_msg", {"type": "agent_reasoning", "text": ""}),
    ("event_msg", {"type": ["agent_message"]}),
    ("event_msg", ["agent_message"]),
    ("event_msg", None),
    ("response_item", {"type": "message", **answer("x")}),
    ("response_item", {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}),
    ("response_item", {"type": "reasoning", "summary": []}),
    ("response_item", {"type": "function_call", "name": "shell"}),
    ("turn_context", {"type": "agent_message", "message": "x"}),
    ("from_the_future", {"type": "user_message"}),
]


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize(("line_type", "payload"), NOT_SHOWN, ids=str)
def test_every_other_line_changes_nothing(phase: TurnPhase, line_type: str, payload: Any) -> None:
    place = TurnPlace(phase, "t1")

    assert next_place(place, line_type, payload, 7, bool) == (place, None)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (BETWEEN, (TurnPlace(COMPACTED), TurnStart("turn-7"))),
        (COMPACTED, (TurnPlace(COMPACTED), None)),
        (IMPLIED, (TurnPlace(IMPLIED), None)),
        (STARTED, (TurnPlace(STARTED), None)),
    ],
)
def test_a_compaction_begins_a_turn_unless_it_is_in_one(phase: TurnPhase, expected: Any) -> None:
    assert next_place(TurnPlace(phase), "compacted", {"message": "x"}, 7, bool) == expected


@pytest.mark.parametrize("turn_id", [None, "", 7, ["t"]])
def test_a_turn_without_an_id_is_named_after_its_lines_number(turn_id: Any) -> None:
    assert after(TurnPlace(), "task_started", turn_id=turn_id) == (TurnPlace(STARTED), TurnStart("turn-7"))


@pytest.mark.parametrize("phase", TurnPhase)
@pytest.mark.parametrize("kind", ["task_complete", "turn_complete", "turn_aborted"])
def test_an_end_event_ends_the_turn(phase: TurnPhase, kind: str) -> None:
    assert after(TurnPlace(phase, "t1"), kind) == (TurnPlace(), None)


@pytest.mark.parametrize("kind", ["task_complete", "turn_complete", "turn_aborted"])
@pytest.mark.parametrize("turn_id", ["t1", None])
def test_an_end_event_that_names_the_current_turn_or_no_turn_ends_it(kind: str, turn_id: str | None) -> None:
    assert after(TurnPlace(STARTED, "t1"), kind, known="t1", turn_id=turn_id) == (TurnPlace(), None)


@pytest.mark.parametrize("place", [TurnPlace(STARTED, "t2"), TurnPlace(IMPLIED), TurnPlace(COMPACTED), TurnPlace()])
@pytest.mark.parametrize("kind", ["task_complete", "turn_aborted"])
def test_an_end_event_that_names_an_earlier_turn_ends_that_turn(place: TurnPlace, kind: str) -> None:
    assert after(place, kind, known="t0 t1 t2", turn_id="t1") == (place, TurnEnd("t1"))


@pytest.mark.parametrize(
    ("phase", "kind", "is_over"),
    [
        (STARTED, "task_complete", True),
        (STARTED, "turn_aborted", False),
        (IMPLIED, "task_complete", True),
        (IMPLIED, "turn_aborted", True),
        (COMPACTED, "turn_aborted", True),
    ],
)
def test_an_end_event_with_an_unknown_id_ends_the_current_turn_as_in_codex(
    phase: TurnPhase, kind: str, is_over: bool
) -> None:
    place = TurnPlace(phase, "t2")

    assert after(place, kind, known="t0 t2", turn_id="t9") == (TurnPlace() if is_over else place, None)


def test_any_end_event_ends_a_turn_without_an_id() -> None:
    assert after(TurnPlace(STARTED), "task_complete", known="t1", turn_id="t1") == (TurnPlace(), None)


@pytest.mark.parametrize("phase", TurnPhase)
def test_a_rollback_leaves_no_turn_open(phase: TurnPhase) -> None:
    assert after(TurnPlace(phase, "t1"), "thread_rolled_back", num_turns=2) == (TurnPlace(), TurnsRolledBack(2))


@pytest.mark.parametrize("payload", [{}, {"num_turns": None}, {"num_turns": "2"}, {"num_turns": 1.5}])
def test_a_rollback_without_a_valid_count_does_nothing(payload: dict[str, Any]) -> None:
    place = TurnPlace(STARTED, "t1")

    assert after(place, "thread_rolled_back", **payload) == (place, None)


def test_the_turns_that_remain_are_those_that_were_not_rolled_back() -> None:
    changes: list[TurnChange] = [TurnStart("t3"), TurnEnd("t1"), TurnsRolledBack(2), TurnStart("t4")]

    assert kept_turns(["t1", "t2"], changes) == ["t1", "t4"]
    assert kept_turns(["t1"], [TurnsRolledBack(9)]) == []


# -- status ------------------------------------------------------------------------------------------------


def turn(*items: RolloutItem, is_last: bool = False) -> StoredTurn:
    return stored_turn("t", items, NOT_LOADED, may_go_on=is_last)


def test_a_completed_turn_has_the_times_of_its_start_and_end() -> None:
    found = stored_turn("t", [event("task_started", 1), response(2), event("task_complete", 3)], FULL, may_go_on=True)

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

    assert (found.status, found.error) == (status, error and StoredTurnError(message=error))
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
        ([event("turn_aborted", 1), event("task_complete", 2, turn_id="t")], StoredTurnStatus.INTERRUPTED, None, 2),
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

    assert (found.status, found.completed_at) == (status, AT + timedelta(seconds=second))
    assert found.error == (error and StoredTurnError(message=error))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"codex_error_info": "usage_limit_exceeded"}, StoredTurnError(message="", code="usage_limit_exceeded")),
        (
            {"message": "no", "codex_error_info": {"http_connection_failed": {"http_status_code": 500}}},
            StoredTurnError(message="no", code="http_connection_failed"),
        ),
        ({"message": "no", "additional_details": "d"}, StoredTurnError(message="no", additional_details="d")),
        ({"message": "no", "codex_error_info": 7, "additional_details": 7}, StoredTurnError(message="no")),
        ({}, None),
    ],
    ids=str,
)
def test_an_error_has_its_code_and_details(error: dict[str, Any], expected: StoredTurnError | None) -> None:
    assert turn(event("task_started"), event("task_complete", error=error)).error == expected


def test_times_and_duration_are_those_that_the_agent_measured() -> None:
    start, end = int((AT - timedelta(seconds=30)).timestamp()), int((AT - timedelta(seconds=10)).timestamp())
    ended = event("task_complete", completed_at=end, duration_ms=19_876)

    found = turn(event("task_started", started_at=start), response(), ended)

    assert (found.started_at, found.completed_at) == (AT - timedelta(seconds=30), AT - timedelta(seconds=10))
    assert found.duration_ms == 19_876


@pytest.mark.parametrize("seconds", [None, "1795000000", 1795000000.5, True, 10**15, -(10**15), 10**30])
def test_a_time_that_is_not_a_whole_number_gives_way_to_the_lines_time(seconds: Any) -> None:
    found = turn(event("task_started", 1, started_at=seconds), event("turn_aborted", 2, completed_at=seconds))

    assert (found.started_at, found.completed_at) == (AT + timedelta(seconds=1), AT + timedelta(seconds=2))
    assert turn(event("task_started"), event("task_complete", duration_ms=1.5)).duration_ms is None


def test_a_turn_ignores_other_turns_ends_and_takes_its_own_late_end() -> None:
    items = [event("task_started", turn_id="t"), event("turn_aborted", 1, turn_id="other"), response(2)]
    others = frozenset({"other"})

    open_ = stored_turn("t", items, FULL, may_go_on=True, others=others)
    ended = stored_turn("t", items, FULL, may_go_on=False, others=others, late_end=event("task_complete", 9))
    without_others = stored_turn("t", items, FULL, may_go_on=True)

    assert open_.status is StoredTurnStatus.IN_PROGRESS
    assert (ended.status, ended.completed_at) == (StoredTurnStatus.COMPLETED, AT + timedelta(seconds=9))
    assert ended.items == tuple(items)
    assert without_others.status is StoredTurnStatus.INTERRUPTED


@pytest.mark.parametrize(
    ("kind", "status"),
    [("task_complete", StoredTurnStatus.COMPLETED), ("turn_aborted", StoredTurnStatus.INTERRUPTED)],
)
def test_the_first_end_event_ends_a_turn_without_an_id_whatever_it_names(kind: str, status: StoredTurnStatus) -> None:
    items = [event("task_started"), event(kind, turn_id="t1"), event("task_complete", turn_id="t1", duration_ms=1)]

    turn = stored_turn("turn-2", items, FULL, may_go_on=True, others={"t1"})

    assert (turn.status, turn.duration_ms) == (status, None)


def test_an_end_that_names_two_turns_after_both_ended_belongs_to_the_first() -> None:
    items = [event("task_started", turn_id="t"), event("task_complete", 1), event("turn_aborted", 2, turn_id="t")]

    first, second = (stored_turn("t", items, FULL, may_go_on=True, others=others) for others in (set(), {"t"}))

    assert first.status is StoredTurnStatus.INTERRUPTED
    assert second.status is StoredTurnStatus.COMPLETED


def test_after_its_end_only_an_end_that_names_the_turn_changes_it() -> None:
    begin, end = event("task_started"), event("task_complete", 1)

    assert turn(begin, end, event("turn_aborted", 2), event("error", 3, message="no")) == turn(begin, end)
    assert turn(begin, end, event("turn_aborted", 2, turn_id="t")).status is StoredTurnStatus.INTERRUPTED


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
    found = stored_turn("t", ITEMS, view, may_go_on=True)

    assert (found.items_view, found.items) == (view, tuple(shown))


def test_a_summary_of_a_paginated_thread_shows_its_messages() -> None:
    messages = [event("item_completed", item={"type": kind}) for kind in ("UserMessage", "AgentMessage")]
    others = [event("item_completed", item=item) for item in ({"type": "Reasoning"}, {"type": ["UserMessage"]}, None)]

    found = stored_turn("t", [*messages, *others], SUMMARY, may_go_on=True)

    assert found.items == tuple(messages)


def test_a_summary_is_the_first_user_message_and_the_last_agent_message() -> None:
    messages = [event(kind, message=f"{n}") for n, kind in enumerate(["user_message", "agent_message"] * 2)]

    found = stored_turn("t", [event("task_started"), *messages, response()], SUMMARY, may_go_on=True)

    assert found.items == (messages[0], messages[3])


def test_a_summary_falls_back_to_response_items() -> None:
    answer = RolloutItem(
        type="response_item",
        payload={"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    )

    found = stored_turn("t", [event("user_message", message="q"), answer, response()], SUMMARY, may_go_on=True)

    assert [item.type for item in found.items] == ["event_msg", "response_item"]


def test_the_status_does_not_depend_on_the_view() -> None:
    items = [*ITEMS, event("turn_aborted")]

    statuses = {stored_turn("t", items, view, may_go_on=True).status for view in StoredTurnItemsView}

    assert statuses == {StoredTurnStatus.INTERRUPTED}
