"""Times operations against one another: interleaved, so that whatever slows the machine slows them all."""

from __future__ import annotations

import gc
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: An operation shorter than this is run often enough, within one measurement, to last about that long.
_MEASURED_S = 0.005


def medians(operations: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of one run of each operation, by its name.

    Each is run once before it is measured, and then in turn with all the others.
    """
    runs = {name: _runs(operation) for name, operation in operations.items()}
    seconds: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(repeats):
        gc.collect()
        for name, operation in operations.items():
            seconds[name].append(_time(operation, runs[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _runs(operation: Callable[[], object]) -> int:
    operation()
    return max(1, int(_MEASURED_S / _time(operation, 1)))


def _time(operation: Callable[[], object], runs: int) -> float:
    begin = time.perf_counter()
    for _ in range(runs):
        operation()
    return (time.perf_counter() - begin) / runs
