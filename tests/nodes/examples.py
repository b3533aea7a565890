"""How many examples Hypothesis tries: a few fixed ones by default, or as many as the environment says."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

#: If set to a number, each machine runs that many random examples; a failure prints how to repeat it.
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
        suppress_health_check=list(HealthCheck),  # examples write files, so they may be slow
        database=None,
        # Explaining a failure takes as long as finding it.
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )


def assert_finds_a_fault(machine: type[RuleBasedStateMachine], match: str | None = None) -> None:
    """Check that *machine* finds the planted fault, with an error that matches *match*.

    Hypothesis' first examples differ most, so searches of four examples, each with its own seed, find it soonest.
    """
    brief = settings(
        machine_settings(examples=4, steps=30),
        max_examples=4,
        derandomize=False,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    for number in range(50):
        seeded = seed(number)(type(machine.__name__, (machine,), {}))
        try:
            run_state_machine_as_test(seeded, settings=brief)
        except AssertionError as error:
            if match is None or re.search(match, str(error)):
                return
    pytest.fail("the machine did not find the planted fault")
