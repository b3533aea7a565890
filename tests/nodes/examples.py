"""How long Hypothesis looks: briefly and always the same way, or as long as somebody asks for."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

#: Set to a number, each machine runs so many examples, other ones each time; what fails prints how to repeat it.
VARIABLE = "LIVETHREAD_TEST_EXAMPLES"


def machine_settings(*, examples: int, steps: int) -> settings:
    """Return settings for a state machine that by default runs *examples* of up to *steps* steps."""
    asked = os.environ.get(VARIABLE)
    return settings(
        max_examples=int(asked) if asked else examples,
        stateful_step_count=steps,
        derandomize=not asked,
        print_blob=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),  # an example writes files: it is slow, and that is no fault
        database=None,
        # To explain takes as long as to find.
        phases=[Phase.generate, Phase.shrink],
    )


def assert_finds_a_fault(machine: type[RuleBasedStateMachine], match: str | None = None) -> None:
    """Check that *machine* fails, with what *match* says: somebody has planted a fault."""
    found = settings(
        machine_settings(examples=200, steps=30),
        max_examples=200,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError, match=match):
        run_state_machine_as_test(machine, settings=found)
