"""What other rules would have said of the same counts: shown beside a verdict, never acted on.

Owns a z-test looked at now, a sequential test as GrowthBook does it (pooled counts), and an alarm on a
threshold as CloudWatch examples have it.  Main function: :func:`second_opinions`.
"""

from __future__ import annotations

import math
from typing import Any

from understudy.analysis.asymptotic import difference_interval
from understudy.analysis.evidence import Evidence, MetricEvidence
from understudy.core.policies import Measure, Policy

ALPHA = 0.05
# The usual alarm on errors, and the one of AWS's own examples: "Average >= 1" of a 0/1 metric is all of them.
CLOUDWATCH_THRESHOLDS = (0.05, 1.0)


def second_opinions(policy: Policy, evidence: Evidence) -> dict[str, Any]:
    """Ask the other rules about every rate and latency.

    Returns:
        By metric: ``z_test``, ``sequential_test`` and ``cloudwatch_threshold``, each with what it ``says``:
        ``better``, ``worse`` or ``nothing``.
    """
    return {
        one.rule.metric: _opinions(one)
        for one in evidence.metrics
        if one.rule.measure in (Measure.RATE, Measure.LATENCY) and one.counts
    }


def _opinions(metric: MetricEvidence) -> dict[str, Any]:
    c_events = sum(one.control_events for one in metric.counts)
    t_events = sum(one.treatment_events for one in metric.counts)
    c_all = sum(one.control_requests for one in metric.counts)
    t_all = sum(one.treatment_requests for one in metric.counts)
    if not c_all or not t_all:
        return {}
    difference = t_events / t_all - c_events / c_all
    higher_is_better = metric.rule.better == "higher"
    opinions: dict[str, Any] = {}
    p_value = two_proportions_p(c_events, c_all, t_events, t_all)
    opinions["z_test"] = {
        "p": float(f"{p_value:.3g}"),
        "says": _says(difference if p_value < ALPHA else 0.0, higher_is_better),
    }
    error = _standard_error(c_events, c_all, t_events, t_all)
    low, high = difference_interval(difference, error, c_all + t_all, ALPHA)
    opinions["sequential_test"] = {
        "interval": [float(f"{low:.3g}"), float(f"{high:.3g}")],
        "says": _says(0.0 if low <= 0.0 <= high else difference, higher_is_better),
    }
    if not higher_is_better and metric.rule.measure is Measure.RATE:
        rate = t_events / t_all
        opinions["cloudwatch_threshold"] = {
            f"Average >= {threshold:g}": "worse" if rate >= threshold else "nothing"
            for threshold in CLOUDWATCH_THRESHOLDS
        }
    return opinions


def _says(difference: float, higher_is_better: bool) -> str:
    if difference == 0.0:
        return "nothing"
    return "better" if (difference > 0.0) == higher_is_better else "worse"


def _standard_error(c_events: int, c_all: int, t_events: int, t_all: int) -> float:
    c_rate, t_rate = c_events / c_all, t_events / t_all
    return math.sqrt(c_rate * (1.0 - c_rate) / c_all + t_rate * (1.0 - t_rate) / t_all)


def two_proportions_p(c_events: int, c_all: int, t_events: int, t_all: int) -> float:
    """Return the two-sided p-value of the z-test with pooled variance: right at one planned look only."""
    pooled = (c_events + t_events) / (c_all + t_all)
    variance = pooled * (1.0 - pooled) * (1.0 / c_all + 1.0 / t_all)
    if variance == 0.0:
        return 1.0
    return math.erfc(abs(t_events / t_all - c_events / c_all) / math.sqrt(2.0 * variance))
