from __future__ import annotations

from typing import Any

import pytest

from livethread.rollout.old_forms import event_of_message, modern_record

NOT_STRINGS = [None, 7, True, ["message"], {"a": 1}]


@pytest.mark.parametrize("value", NOT_STRINGS)
def test_a_line_whose_type_is_not_a_string_is_not_converted(value: Any) -> None:
    assert modern_record({"type": value, "role": "user"}) is None


@pytest.mark.parametrize("value", NOT_STRINGS)
def test_a_message_whose_role_is_not_a_string_has_no_event(value: Any) -> None:
    assert event_of_message({"type": "message", "role": value, "content": [{"text": "hello"}]}) is None
