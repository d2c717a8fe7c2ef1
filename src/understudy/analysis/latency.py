"""Latencies as events: how many requests were slower than a threshold that was fixed before use.

The thresholds are edges of the sketch's buckets, so that a merged sketch tells exactly how many were above.
Owns :func:`latency_thresholds` (from what the control did before) and :func:`latency_tallies`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from understudy.analysis.shares import Tally
from understudy.core.metrics import LOG_GAMMA, Summary, bucket_of
from understudy.core.policies import LATENCY_LEVELS, MetricRule

# So few say nothing about a 99th percentile; of 500 five are beyond it.
FEWEST_BEYOND = 5
_BELOW = 1.0 - 1e-9


def edge_of(value_us: float) -> float:
    """Return the upper edge of the bucket that holds a value: the threshold that a sketch can count above.

    >>> 1000.0 <= edge_of(1000.0) <= 1020.3, edge_of(edge_of(1000.0)) == edge_of(1000.0)
    (True, True)
    """
    # An edge may fall into the next bucket by rounding: a factor keeps it in its own.
    return math.exp((bucket_of(value_us * _BELOW) - bucket_of(1.0)) * LOG_GAMMA)


def latency_thresholds(before: Summary, rule: MetricRule) -> tuple[float, ...] | None:
    """Choose the thresholds of a latency from the control's answers before the trial.

    Args:
        before: Of the control, microseconds; nothing of it may be counted as evidence later.

    Returns:
        Microseconds, rising: the early warning's levels, then the rule's own; the limit alone when the rule
            has one.  None when there are too few answers to know the rule's quantile.
    """
    if rule.threshold_us is not None:
        return (edge_of(rule.threshold_us),)
    if not before.sketched or before.count * (1.0 - rule.quantile) < FEWEST_BEYOND:
        return None
    return tuple(_quantile_edge(before, quantile) for quantile in (*LATENCY_LEVELS, rule.quantile))


def _quantile_edge(summary: Summary, quantile: float) -> float:
    wanted = quantile * summary.count
    seen = 0.0
    found = 0
    for bucket, count in sorted(summary.buckets.items()):
        seen += count
        found = bucket
        if seen >= wanted:
            break
    return math.exp((found - bucket_of(1.0)) * LOG_GAMMA)


def slower_than(summary: Summary, threshold_us: float) -> int:
    """Count the samples above a threshold that is a bucket's edge."""
    limit = bucket_of(threshold_us * _BELOW)
    return round(sum(count for bucket, count in summary.buckets.items() if bucket > limit))


def latency_tallies(
    stage: int, pi: float, control: Summary, treatment: Summary, thresholds_us: Sequence[float]
) -> tuple[tuple[Tally, ...], ...]:
    """Count what was slower than each threshold.

    Args:
        control, treatment: New answers of both arms in one stage, microseconds.
        thresholds_us: The evidence's.

    Returns:
        For ``Batch.latencies``: tallies per threshold.
    """
    return tuple(
        (
            Tally(
                stage,
                pi,
                slower_than(control, threshold),
                slower_than(treatment, threshold),
                round(control.count),
                round(treatment.count),
            ),
        )
        for threshold in thresholds_us
    )
