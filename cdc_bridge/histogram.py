"""Histograms of seconds, which parts of a bridge keep and metrics show."""

from bisect import bisect_left

BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""The upper bounds of all buckets but the last one, which has none."""


class Histogram:
    """Counts values by size. `counts` has one number for each of `BOUNDS_S`, and one for what is larger."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count a value. Where two clocks were compared it can be negative, and counts as 0."""
        if seconds > 0:
            self.counts[bisect_left(BOUNDS_S, seconds)] += 1
            self.sum_s += seconds
        else:
            self.counts[0] += 1
