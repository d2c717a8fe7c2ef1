"""CloudWatch's statistics, read from a summary.

Owns the names (``Average``, ``p99.9``, ``TM(2%:98%)``, ``PR(:300)`` ...) and their arithmetic.
Refuses to guess: a percentile of samples that came as a bare StatisticSet is not known (None).
Main functions: :func:`parse_statistic`, :func:`statistic`.

Values of the sketch are within 1 % of a sample; the smallest and the largest sample are exact.
A percentile is the nearest rank: the smallest sample with at least that share at or below it.

Differs from AWS: percentiles of negative values are answered too.
Source: "CloudWatch statistics definitions", Amazon CloudWatch User Guide.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

from understudy.core.metrics import Summary, value_of

PLAIN_STATISTICS = ("SampleCount", "Sum", "Average", "Minimum", "Maximum")

_NUMBER = r"\d{1,18}(?:\.\d{1,10})?"
_SIGNED = rf"-?{_NUMBER}"
_SHORT = re.compile(rf"(p|tm|wm|tc|ts)({_NUMBER})", re.ASCII)
_RANKS = re.compile(rf"(TM|WM|TC|TS)\((?:({_NUMBER})%)?:(?:({_NUMBER})%)?\)", re.ASCII)
_VALUES = re.compile(rf"(TM|WM|TC|TS|PR)\(({_SIGNED})?:({_SIGNED})?\)", re.ASCII)


_Samples = list[tuple[float, float]]  # (value, how often)


@dataclass(frozen=True)
class Statistic:
    """A statistic understood.

    Attributes:
        kind: One of ``PLAIN_STATISTICS``, ``p``, ``TM``, ``WM``, ``TC``, ``TS`` or ``PR``.
        low: Lower bound, exclusive; None for none.
        high: Upper bound, inclusive; None for none.
        ranked: The bounds are percent of the samples, not values.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    ranked: bool = True


@lru_cache(maxsize=512)
def parse_statistic(name: str) -> Statistic:
    """Understand the name of a statistic.

    Raises:
        ValueError: CloudWatch has none of that name.

    >>> parse_statistic("tm90") == parse_statistic("TM(:90%)")
    True
    """
    if name in PLAIN_STATISTICS:
        return Statistic(name)
    if name == "IQM":
        return Statistic("TM", 25.0, 75.0)
    if match := _SHORT.fullmatch(name):
        kind = match[1] if match[1] == "p" else match[1].upper()
        return _checked(name, Statistic(kind, None, float(match[2])))
    if match := _RANKS.fullmatch(name):
        return _checked(name, Statistic(match[1], _bound(match[2]), _bound(match[3])))
    if match := _VALUES.fullmatch(name):
        return _checked(name, Statistic(match[1], _bound(match[2]), _bound(match[3]), ranked=False))
    raise ValueError(f"{name} is not a statistic")


def _bound(text: str | None) -> float | None:
    return None if text is None else float(text)


def _checked(name: str, found: Statistic) -> Statistic:
    bounds = [bound for bound in (found.low, found.high) if bound is not None]
    if (
        not bounds
        or bounds != sorted(bounds)
        or (found.ranked and not 0.0 <= bounds[0] <= bounds[-1] <= 100.0)
    ):
        raise ValueError(f"{name} has no usable bounds")
    return found


def statistic(summary: Summary, name: str) -> float | None:
    """Compute one statistic.

    Args:
        name: As CloudWatch spells it; see :func:`parse_statistic`.

    Returns:
        None when there is nothing to compute it from: no samples, or samples without a sketch.

    Raises:
        ValueError: CloudWatch has none of that name.

    >>> statistic(Summary.of([1.0, 2.0, 3.0]), "p100")
    3.0
    """
    wanted = parse_statistic(name)
    if wanted.kind in PLAIN_STATISTICS:
        return _plain(summary, wanted.kind)
    if not summary.sketched:
        return None
    if wanted.kind == "p" and wanted.high is not None:
        return _percentile(summary, wanted.high)
    inside, below, above = cut(wanted, _samples(summary))
    return _trimmed(wanted, summary, inside, below, above)


def cut(wanted: Statistic, samples: _Samples) -> tuple[_Samples, float, float]:
    """Keep the samples (value, how often) within a statistic's bounds.

    Args:
        samples: In rising order.
    Returns:
        What is kept, and how many lie below and above.
    """
    if wanted.ranked:
        return _cut_by_rank(samples, wanted.low, wanted.high)
    return _cut_by_value(samples, wanted.low, wanted.high)


def _plain(summary: Summary, kind: str) -> float | None:
    if kind == "SampleCount":
        return summary.count
    if kind == "Sum":
        return summary.sum
    if summary.count == 0.0:
        return None
    return {
        "Average": summary.sum / summary.count,
        "Minimum": summary.minimum,
        "Maximum": summary.maximum,
    }[kind]


def _value_at(summary: Summary, at: int, bucket: int) -> float:
    """Return the value of the bucket, which is at a place; the extremes are exact where they stand alone."""
    _, below = summary.ranks
    count = below[at] - (below[at - 1] if at else 0.0)
    if at == 0 and count <= 1.0:
        return summary.minimum
    if at == len(below) - 1 and count <= 1.0:
        return summary.maximum
    return min(max(value_of(bucket), summary.minimum), summary.maximum)


def _samples(summary: Summary) -> _Samples:
    """List (value, how often) in rising order."""
    return [
        (_value_at(summary, at, bucket), summary.buckets[bucket])
        for at, bucket in enumerate(summary.ranks[0])
    ]


def _percentile(summary: Summary, percent: float) -> float:
    """Return the smallest value with at least ``percent`` of the samples at or below it."""
    if percent == 0.0 or percent == 100.0:
        return summary.maximum if percent else summary.minimum
    buckets, below = summary.ranks
    wanted = percent / 100.0 * summary.count * (1 - 1e-12)  # 0.07 * 100 is 7.000000000000001
    at = bisect_left(below, wanted)
    return _value_at(summary, at, buckets[at]) if at < len(buckets) else summary.maximum


def _cut_by_rank(samples: _Samples, low: float | None, high: float | None) -> tuple[_Samples, float, float]:
    """Keep the samples between two ranks, in percent; also say how many lie below and above."""
    total = sum(count for _, count in samples)
    first = total * (low or 0.0) / 100.0
    last = total if high is None else total * high / 100.0
    inside: _Samples = []
    seen = 0.0
    for value, count in samples:
        kept = min(seen + count, last) - max(seen, first)
        if kept > 0.0:
            inside.append((value, kept))
        seen += count
    return inside, first, total - last


def _cut_by_value(samples: _Samples, low: float | None, high: float | None) -> tuple[_Samples, float, float]:
    """Keep the samples in (low, high]; also say how many lie below and above."""
    inside = [
        (value, count)
        for value, count in samples
        if (low is None or value > low) and (high is None or value <= high)
    ]
    below = sum(count for value, count in samples if low is not None and value <= low)
    above = sum(count for value, count in samples if high is not None and value > high)
    return inside, below, above


def _trimmed(
    wanted: Statistic, summary: Summary, inside: _Samples, below: float, above: float
) -> float | None:
    kept = sum(count for _, count in inside)
    total = sum(value * count for value, count in inside)
    if wanted.kind == "TC":
        return kept
    if wanted.kind == "TS":
        return total
    if wanted.kind == "PR":
        return 100.0 * kept / (kept + below + above)
    if wanted.kind == "TM":
        return total / kept if kept else None
    # Winsorized: what lies outside counts as the bound it lies beyond.
    floor, ceiling = wanted.low, wanted.high
    if wanted.ranked:
        floor = None if floor is None else _percentile(summary, floor)
        ceiling = None if ceiling is None else _percentile(summary, ceiling)
    total += below * (floor or 0.0) + above * (ceiling or 0.0)
    return total / (kept + below + above)
