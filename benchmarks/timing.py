"""Times operations interleaved, so that anything that slows the machine slows them all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping


def medians(
    operations: Mapping[str, Callable[[], object]], repeats: int, measured_s: float = 0.005
) -> dict[str, float]:
    """Return the median seconds of one run of each operation, by its name.

    Each operation runs once unmeasured. Then all run in turn, in an order that changes each time. One measurement repeats
    an operation for about *measured_s*.
    """
    runs = {name: _runs(operation, measured_s) for name, operation in operations.items()}
    measured: dict[str, list[float]] = {name: [] for name in operations}
    names = list(operations)
    for _ in range(repeats):
        gc.collect()
        for name in names:
            measured[name].append(_time(operations[name], runs[name]))
        names = [*names[1:], names[0]]
    return {name: statistics.median(values) for name, values in measured.items()}


def _runs(operation: Callable[[], object], measured_s: float) -> int:
    operation()
    return max(1, int(measured_s / _time(operation, 1)))


def _time(operation: Callable[[], object], runs: int) -> float:
    begin = time.perf_counter()
    for _ in range(runs):
        operation()
    return (time.perf_counter() - begin) / runs


def seconds(operation: Callable[[], object]) -> float:
    """Return the seconds of one run of *operation*."""
    return _time(operation, 1)
