from __future__ import annotations

from typing import Any

import pytest

from livethread.rollout.old_forms import event_of_message, modern_record

ODD = [None, 7, True, ["message"], {"a": 1}]


@pytest.mark.parametrize("odd", ODD)
def test_a_line_whose_type_is_no_text_is_none_of_an_old_rollout(odd: Any) -> None:
    assert modern_record({"type": odd, "role": "user"}) is None


@pytest.mark.parametrize("odd", ODD)
def test_a_message_whose_role_is_no_text_is_nobodys(odd: Any) -> None:
    assert event_of_message({"type": "message", "role": odd, "content": [{"text": "hello"}]}) is None
