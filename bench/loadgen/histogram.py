"""Latencies in buckets that grow by 1 %: constant memory, mergeable, percentiles exact to 1 %.

Owns whole microseconds from 0 up.  Main class: :class:`Histogram`.
"""

from __future__ import annotations

import math
from typing import Any

GROWTH = 1.01
_LOG = math.log(GROWTH)
_TABLE_US = 65_536
_BUCKETS = 2048  # 1.01 ** 2048 us are 8 minutes


def _bucket(value_us: int) -> int:
    return 0 if value_us < 1 else min(_BUCKETS - 1, 1 + math.ceil(math.log(value_us) / _LOG))


# Nearly every latency is below 65 ms: a look-up costs a tenth of a logarithm.
_TABLE = [_bucket(value_us) for value_us in range(_TABLE_US)]


class Histogram:
    """Counts of latencies.

    >>> histogram = Histogram()
    >>> for value_us in range(1, 1001): histogram.add(value_us)
    >>> histogram.count, round(histogram.percentile(50) / 500, 1), histogram.max_us
    (1000, 1.0, 1000)
    """

    __slots__ = ("_counts", "count", "max_us", "min_us", "sum_us")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.sum_us = 0
        self.min_us = 0
        self.max_us = 0

    def add(self, value_us: int) -> None:
        """Count one; a negative one (clocks) counts as 0."""
        if value_us < 0:
            value_us = 0
        self._counts[_TABLE[value_us] if value_us < _TABLE_US else _bucket(value_us)] += 1
        if value_us > self.max_us:
            self.max_us = value_us
        if not self.count or value_us < self.min_us:
            self.min_us = value_us
        self.count += 1
        self.sum_us += value_us

    def merge(self, other: Histogram) -> None:
        """Add another one's counts."""
        if not other.count:
            return
        self._counts = [one + two for one, two in zip(self._counts, other._counts, strict=True)]
        self.min_us = other.min_us if not self.count else min(self.min_us, other.min_us)
        self.max_us = max(self.max_us, other.max_us)
        self.count += other.count
        self.sum_us += other.sum_us

    def percentile(self, percent: float) -> float:
        """Return the value in us that ``percent`` of all are not above, to within 1 %; 0.0 when empty."""
        rank = max(1, math.ceil(self.count * percent / 100.0))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank and count:
                if bucket == 0:
                    return 0.0
                upper_us = GROWTH ** (bucket - 1)
                return min(max(upper_us, float(self.min_us)), float(self.max_us))
        return 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the usual figures, microseconds."""
        return {
            "count": self.count,
            "mean_us": self.sum_us / self.count if self.count else 0.0,
            "p50_us": self.percentile(50.0),
            "p90_us": self.percentile(90.0),
            "p99_us": self.percentile(99.0),
            "p999_us": self.percentile(99.9),
            "max_us": self.max_us,
        }
