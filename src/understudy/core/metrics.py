"""Mergeable evidence about numbers: counts, sums and log-bucket sketches.

Owns the value that routers send, series stores keep and CloudWatch operations read.
Refuses approximate sums: count, sum, minimum and maximum are exact; only percentiles
come from the sketch, within ``RELATIVE_ERROR``.

Source: DDSketch (Masson, Rim, Lee, VLDB 2019), logarithmic mapping; CloudWatch's
``trimmed mean`` and percentile definitions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

RELATIVE_ERROR = 0.01  # the sketch's promise: a quantile is within 1 % of a true sample value
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LOG_GAMMA = math.log(GAMMA)

# Buckets of the three kinds of value share one integer space: positive values take the
# logarithmic index, negative ones mirror it below, zero has its own.
ZERO_BUCKET = 0
_SHIFT = 1 << 20


def bucket_of(value: float) -> int:
    """Name the log bucket of one value.

    Args:
        value: Any finite number.

    >>> bucket_of(0.0), bucket_of(1.0) - bucket_of(1.0 / GAMMA), bucket_of(-1.0) == -bucket_of(1.0)
    (0, 1, True)
    """
    if value > 0.0:
        return math.ceil(math.log(value) / LOG_GAMMA) + _SHIFT
    if value < 0.0:
        return -(math.ceil(math.log(-value) / LOG_GAMMA) + _SHIFT)
    return ZERO_BUCKET


def value_of(bucket: int) -> float:
    """Return the value that stands for a bucket: within ``RELATIVE_ERROR`` of every member."""
    if bucket == ZERO_BUCKET:
        return 0.0
    magnitude = 2.0 * math.exp((abs(bucket) - _SHIFT) * LOG_GAMMA) / (GAMMA + 1.0)
    return magnitude if bucket > 0 else -magnitude


@dataclass(frozen=True)
class Summary:
    """What is known of a set of numbers; add two to merge them.

    Attributes:
        count: Number of samples, may be fractional (PutMetricData's Counts are floats).
        sum: Exact sum.
        minimum: Smallest sample; ``inf`` when empty.
        maximum: Largest sample; ``-inf`` when empty.
        buckets: Samples per log bucket (:func:`bucket_of`); empty when only a
            StatisticSet is known, and then percentiles are not.
    """

    count: float = 0.0
    sum: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    buckets: Mapping[int, float] = field(default_factory=dict)

    def __add__(self, other: Summary) -> Summary:
        buckets = dict(self.buckets)
        for bucket, count in other.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0.0) + count
        return Summary(
            self.count + other.count,
            self.sum + other.sum,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            buckets,
        )

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Summarise plain values.

        >>> Summary.of([2.0, 0.0]).sum
        2.0
        """
        count = total = 0.0
        low, high = math.inf, -math.inf
        buckets: dict[int, float] = {}
        for value in values:
            count += 1.0
            total += value
            low, high = min(low, value), max(high, value)
            bucket = bucket_of(value)
            buckets[bucket] = buckets.get(bucket, 0.0) + 1.0
        return cls(count, total, low, high, buckets)


@dataclass(frozen=True, order=True)
class SeriesKey:
    """Identity of one CloudWatch metric: namespace, name, dimensions sorted by name."""

    namespace: str
    metric_name: str
    dimensions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Datum:
    """One summary for one metric in one second.

    Attributes:
        key: Which metric.
        at_s: Unix time, whole seconds, of the samples.
        unit: CloudWatch unit, e.g. ``"Microseconds"``; ``"None"`` when not given.
        summary: The samples.
    """

    key: SeriesKey
    at_s: int
    unit: str
    summary: Summary


@dataclass(frozen=True)
class Bucket:
    """One period of one metric as read back: start, unit and merged summary."""

    start_s: int
    unit: str
    summary: Summary
