from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from livethread import types
from livethread.errors import InvalidRequest
from livethread.metadata import ThreadMetadataPatch
from livethread.model import Model
from livethread.position import START, position_key
from livethread.rollout.item import RolloutItem

THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"


@pytest.mark.parametrize(
    ("model", "fields", "named"),
    [
        (types.CreateThreadParams, {"thread_id": "../.."}, "thread_id"),
        (types.CreateThreadParams, {"session_id": "s"}, "session_id"),
        (types.CreateThreadParams, {"parent_thread_id": ""}, "parent_thread_id"),
        (types.CreateThreadParams, {"thread_source": {"custom": "x"}}, "thread_source"),
        (types.CreateThreadParams, {"source": {}}, "source"),
        (types.CreateThreadParams, {"created_at": "2026-11-22T12:00:00"}, "created_at"),
        (types.CreateThreadParams, {"memory_mode": "perhaps"}, "memory_mode"),
        (types.CreateThreadParams, {"dynamic_tools": ["tool"]}, "dynamic_tools.0"),
        (types.CreateThreadParams, {"tread_id": THREAD}, "tread_id"),
        (types.AppendThreadItemsParams, {"thread_id": THREAD}, "items"),
        (types.AppendThreadItemsParams, {"thread_id": THREAD, "items": [{"payload": 1}]}, "type"),
        (
            types.AppendThreadItemsParams,
            {"thread_id": THREAD, "items": [], "expected_position": "1"},
            "expected_position",
        ),
        (
            types.AppendThreadItemsParams,
            {"thread_id": THREAD, "items": [], "expected_position": "1-0\n"},
            "expected_position",
        ),
        (types.FlushThreadParams, {"thread_id": THREAD, "timeout_s": 0}, "timeout_s"),
        (types.ReadThreadParams, {}, "thread_id"),
        (types.UpdateThreadMetadataParams, {"thread_id": THREAD, "patch": {"titel": "t"}}, "titel"),
        (types.ListThreadsParams, {"page_size": 0}, "page_size"),
        (types.ListThreadsParams, {"page_size": 1001}, "page_size"),
        (types.ListThreadsParams, {"sort_key": "name"}, "sort_key"),
        (types.ListThreadsParams, {"relation_filter": {"kind": "cousins", "thread_id": THREAD}}, "kind"),
        (types.SearchThreadsParams, {"search_term": ""}, "search_term"),
    ],
)
def test_bad_input_is_an_invalid_request_that_names_the_field(
    model: type[Model], fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=rf"\b{named}"):
        model.model_validate(fields)


def test_an_id_in_upper_case_is_the_same_thread() -> None:
    assert types.ReadThreadParams(thread_id=THREAD.upper()) == types.ReadThreadParams(thread_id=THREAD)


def test_each_new_thread_has_its_own_id_and_time() -> None:
    first, second = types.CreateThreadParams(), types.CreateThreadParams()

    assert first.thread_id != second.thread_id
    assert first.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - first.created_at).total_seconds() < 60


def test_items_may_be_given_as_objects() -> None:
    params = types.AppendThreadItemsParams.model_validate({
        "thread_id": THREAD,
        "items": [{"type": "x", "payload": 1}],
    })

    assert params.items == (RolloutItem(type="x", payload=1),)


def test_a_patch_inside_parameters_keeps_its_nulls() -> None:
    params = types.UpdateThreadMetadataParams.model_validate({"thread_id": THREAD, "patch": {"name": None}})

    assert params.patch.changes() == ThreadMetadataPatch(name=None).changes() == {"name": None}


@pytest.mark.parametrize("others", [{"cursor": "x"}, {"turn_id": "t1"}, {"sort_direction": "desc"}])
def test_items_after_a_place_exclude_other_places(others: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="after excludes"):
        types.ListItemsParams.model_validate({"thread_id": THREAD, "after": 1} | others)


def test_positions_sort_as_numbers_with_the_start_first() -> None:
    positions = ["10-2", "9-11", "10-10", START, "9-2"]

    assert sorted(positions, key=position_key) == [START, "9-2", "9-11", "10-2", "10-10"]
