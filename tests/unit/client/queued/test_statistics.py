from __future__ import annotations

import pytest

from livethread.queued.statistics import LAG_BOUNDS_S, LagHistogram


def histogram(**counts: int) -> LagHistogram:
    """Return a histogram with *counts* in the buckets of these indexes, such as ``b3``."""
    return LagHistogram(tuple(counts.get(f"b{i}", 0) for i in range(len(LAG_BOUNDS_S) + 1)), 0.0)


@pytest.mark.parametrize(
    ("lags", "p", "lag"),
    [
        (histogram(), 50, None),
        (histogram(b0=10), 50, 0.0025),
        (histogram(b0=10), 100, 0.005),
        (histogram(b0=10, b4=10), 50, 0.005),
        (histogram(b0=10, b4=10), 75, 0.075),
        (histogram(b4=1, b14=99), 99, 300.0),
        (histogram(b14=1), 50, 300.0),
    ],
)
def test_a_percentile_is_interpolated_within_its_bucket(lags: LagHistogram, p: float, lag: float | None) -> None:
    assert lags.percentile(p) == (None if lag is None else pytest.approx(lag))
