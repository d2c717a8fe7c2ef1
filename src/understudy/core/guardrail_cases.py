"""One alarm under judgement: its odds during a deployment, and a better alarm in its place.

Owns :class:`Case` and what is computed from it.  Main functions: :func:`fires`, :func:`smallest_regression`,
:func:`better_alarm`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from understudy.core.alarm_data import metrics_of, rule_of
from understudy.core.alarm_evaluation import AlarmRule
from understudy.core.alarms import Alarm
from understudy.core.guardrail_metrics import FLAGS, LATENCIES
from understudy.core.guardrail_odds import (
    BoundaryOf,
    Samples,
    Step,
    breach_probability,
    firing_probability,
    flags,
    measured,
    mixed,
    periods_of,
)
from understudy.core.guardrail_traffic import EndpointTraffic, Finding, Severity, VariantTraffic

POWER = 0.9  # "catches" means: in nine of ten deployments
HARMLESS = 0.01  # a suggested alarm rolls at most one unchanged model in a hundred back


@dataclass
class Case:
    """One metric of one alarm under judgement.

    Attributes:
        boundary: Of an alarm on metric math: which numbers of errors breach.
    """

    alarm: Alarm
    rule: AlarmRule
    metric: Mapping[str, Any]
    traffic: EndpointTraffic
    steps: Sequence[Step]
    variant: VariantTraffic
    findings: list[Finding] = field(default_factory=list)
    boundary: BoundaryOf | None = None

    @cached_property
    def better(self) -> dict[str, Any] | None:
        """A better call, looked for once."""
        return better_alarm(self)

    @property
    def sees_new_fleet_only(self) -> bool:
        """The alarm watches one configuration, that of the new fleet."""
        return any(each["Name"] == "EndpointConfigName" for each in self.metric["Dimensions"])

    def find(
        self, code: str, severity: Severity, what: str, why: str, suggestion: str, call: bool = False
    ) -> None:
        better = self.better if call else None
        self.findings.append(Finding(code, severity, self.alarm.name, what, why, suggestion, better))


def variant_of(metric: Mapping[str, Any], traffic: EndpointTraffic) -> VariantTraffic | None:
    for dimension in metric["Dimensions"]:
        if dimension["Name"] == "VariantName":
            return traffic.variant(dimension["Value"])
    return None


def samples_of(case: Case, count: float, regression: float | None) -> Samples | None:
    """Describe one period of a fleet.

    Args:
        regression: A rate of errors or a factor of latency; None: the model as it is.
    """
    name, variant = case.metric["MetricName"], case.variant
    if name in FLAGS:
        return flags(count, variant.rates.get(name, 0.0) if regression is None else regression)
    summary = variant.summaries.get(name)
    if summary is None or not summary.sketched:
        return None
    return measured(count, summary, 1.0 if regression is None else regression)


def expected_samples(case: Case, step: Step) -> Samples:
    """Tell how many samples a period of the new fleet has in a step."""
    per_period = case.variant.samples_per_minute(case.metric["MetricName"]) * case.rule.period_s / 60.0
    return flags(per_period * step.share, 0.0)


def _breach(case: Case, step: Step, regression: float | None) -> float | None:
    count = expected_samples(case, step).count
    new = samples_of(case, count, regression)
    if new is None:
        return None
    if not case.sees_new_fleet_only and step.share < 1.0:
        whole = expected_samples(case, Step(1.0, 0.0)).count
        old = samples_of(case, whole - count, None)
        new = new if old is None else mixed(old, new)
    return breach_probability(case.rule, case.metric["Stat"], new, case.boundary)


def fires(case: Case, steps: Sequence[Step], regression: float | None) -> float | None:
    breaches = [_breach(case, step, regression) for step in steps]
    known = [breach for breach in breaches if breach is not None]
    if len(known) < len(breaches):
        return None
    return firing_probability(case.rule, known, periods_of(case.rule, steps))


def smallest_regression(case: Case, steps: Sequence[Step]) -> float | None:
    """Search the smallest regression that is caught with ``POWER``; None: not even the largest is."""
    is_rate = case.metric["MetricName"] in FLAGS
    low = case.variant.rates.get(case.metric["MetricName"], 0.0) if is_rate else 1.0
    high = 1.0 if is_rate else 1000.0

    def caught(regression: float) -> bool:
        return (fires(case, steps, regression) or 0.0) >= POWER

    if not caught(high):
        return None
    for _ in range(24):
        middle = (low + high) / 2 if is_rate else math.sqrt(low * high)
        if caught(middle):
            high = middle
        else:
            low = middle
    return high


# --- a better one --------------------------------------------------------------------------------------


def better_alarm(case: Case) -> dict[str, Any] | None:
    """Look for a PutMetricAlarm call that does what this alarm was meant to do.

    Returns:
        The call with the smallest regression caught among those that fire on an unchanged model in fewer
        than one in a hundred deployments; None when none is known.
    """
    name = case.metric["MetricName"] if case.metric["MetricName"] in LATENCIES else "Invocation5XXErrors"
    if case.variant.requests_per_minute <= 0.0 or not case.steps:
        return None
    best: tuple[float, dict[str, Any]] | None = None
    for threshold, statistic in _candidates(case, name):
        for m, n in ((1, 1), (2, 2), (2, 3), (3, 3)):
            period_s = 60 if n * 60 <= case.steps[0].duration_s else 10
            if n * period_s > sum(step.duration_s for step in case.steps):
                continue
            request = _call(case, name, statistic, threshold, period_s, m, n)
            tried = Case(
                case.alarm, rule_of(request), metrics_of(request)[0], case.traffic, case.steps, case.variant
            )
            false = fires(tried, case.steps, None)
            if false is None or false > HARMLESS:
                continue
            caught = smallest_regression(tried, case.steps)
            if caught is not None and (best is None or caught < best[0]):
                best = caught, request
        if best is not None and name in FLAGS:
            break  # higher thresholds only catch less
    return None if best is None else best[1]


def _candidates(case: Case, name: str) -> list[tuple[float, str]]:
    if name in FLAGS:
        return [(rate, "Average") for rate in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)]
    summary = case.variant.summaries.get(name)
    if summary is None or not summary.sketched:
        return []
    average = summary.sum / summary.count
    return [(float(round(average * factor)), "Average") for factor in (1.2, 1.5, 2.0, 3.0)]


def _call(
    case: Case, name: str, statistic: str, threshold: float, period_s: int, m: int, n: int
) -> dict[str, Any]:
    dimensions = {"EndpointName": case.traffic.name, "VariantName": case.variant.name}
    if case.traffic.new_config is not None:
        dimensions["EndpointConfigName"] = case.traffic.new_config
    return {
        "AlarmName": case.alarm.name,
        "Namespace": "AWS/SageMaker",
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
        "Statistic": statistic,
        "Period": period_s,
        "EvaluationPeriods": n,
        "DatapointsToAlarm": m,
        "Threshold": threshold,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
    }
