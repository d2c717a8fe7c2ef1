"""What can be wrong with an alarm whose metric exists, one function per kind of finding.

Owns the limits from which odds are called too noisy or too weak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from understudy.core.alarm_evaluation import AlarmRule
from understudy.core.alarms import Alarm
from understudy.core.guardrail_cases import Case, expected_samples
from understudy.core.guardrail_metrics import FLAGS, LATENCIES
from understudy.core.guardrail_odds import Step
from understudy.core.guardrail_traffic import Finding, Severity
from understudy.core.metrics import ENDPOINT_NAMESPACE
from understudy.core.statistics import parse_statistic

NOISY, TOO_NOISY = 0.05, 0.20  # chance to roll an unchanged model back: one in twenty, one in five
WEAK_RATE, BLIND_RATE = 0.3, 0.5  # a rate of errors that goes unnoticed below
WEAK_FACTOR, BLIND_FACTOR = 5.0, 20.0  # the same for latencies, as a factor
QUIET = 0.05  # share of periods without any request
FEW_BEYOND = 10.0  # samples beyond a percentile that make it worth judging: CloudWatch's own rule


def window_findings(alarm: Alarm, rule: AlarmRule, steps: Sequence[Step]) -> list[Finding]:
    if not steps:
        return []
    needed_s = rule.datapoints_to_alarm * rule.period_s
    total_s = sum(step.duration_s for step in steps)
    if needed_s > total_s:
        return [
            Finding(
                "window-longer-than-bake",
                Severity.ERROR,
                alarm.name,
                f"{alarm.name} needs {needed_s} s of data, the deployment is watched for {total_s:g} s.",
                f"{rule.datapoints_to_alarm} periods of {rule.period_s} s must breach; the old fleet is gone "
                "before that.",
                "Use a period of 60 s or 10 s and fewer periods, or a longer WaitIntervalInSeconds.",
            )
        ]
    first = steps[0]
    if first.share < 1.0 and needed_s > first.duration_s:
        return [
            Finding(
                "window-longer-than-step",
                Severity.WARNING,
                alarm.name,
                f"{alarm.name} needs {needed_s} s of data, the first step lasts {first.duration_s:g} s.",
                f"Before it can fire, more than the first {first.share:.0%} of the traffic has moved.",
                "Use a shorter period or a longer WaitIntervalInSeconds.",
            )
        ]
    return []


def find_odd_statistics(case: Case) -> None:
    """Find statistics that don't mean what they seem to."""
    name, statistic, rule = case.metric["MetricName"], case.metric["Stat"], case.rule
    greater = rule.comparison.startswith("GreaterThan")
    if name in FLAGS and statistic == "SampleCount":
        case.find(
            "counts-requests",
            Severity.ERROR,
            f"SampleCount of {name} counts requests, not errors.",
            "Every request gives one sample, 0 or 1.",
            "Use Average, the rate of errors.",
            call=True,
        )
    if not greater and name in FLAGS | LATENCIES:
        case.find(
            "inverted",
            Severity.ERROR,
            f"{rule.comparison} on {name} fires when all is well.",
            "Less of it is better.",
            "Use GreaterThanThreshold.",
            call=True,
        )
    elif name in FLAGS and _beyond_flags(rule, statistic):
        case.find(
            "never-fires",
            Severity.ERROR,
            f"{statistic} of {name} against {rule.threshold:g} never fires, or only when all requests fail.",
            f"{name} is 0 or 1 per request: its {statistic} is at most 1, and 1 % is 0.01.",
            "Write the rate as a fraction: 0.01 is 1 %.",
            call=True,
        )
    if name == "InvocationsPerInstance" and statistic != "Sum":
        case.find(
            "constant",
            Severity.ERROR,
            f"{statistic} of InvocationsPerInstance tells how many instances there are, not how busy.",
            "Every request gives one sample of 1 / instances; only their Sum means something.",
            "Use Sum.",
        )
    if name == "Invocations" and statistic not in ("Sum", "SampleCount"):
        case.find(
            "constant",
            Severity.ERROR,
            f"{statistic} of Invocations is always 1.",
            "Every request gives one sample of 1.",
            "Use Sum.",
        )
    if name in ("MemoryUtilization", "DiskUtilization") and greater and rule.threshold >= 100.0:
        case.find(
            "never-fires",
            Severity.ERROR,
            f"{name} never exceeds 100.",
            "It is a percentage of the instance's own.",
            "Use a threshold below 100.",
        )
    if statistic == "Sum" and greater and name in FLAGS | LATENCIES:
        per_period = case.variant.requests_per_minute * rule.period_s / 60.0
        shown = ""
        if per_period > 0.0 and name in FLAGS:
            share = case.steps[0].share if case.steps else 1.0
            rate = min(1.0, rule.threshold / per_period)
            shown = (
                f" Now there are {per_period:.4g} requests in a period, so it stands for {rate:.2%}; with "
                f"{share:.0%} of them for {min(1.0, rate / share):.2%}, with twice as many for "
                f"{rate / 2:.2%}."
            )
        case.find(
            "sum-threshold",
            Severity.WARNING,
            f"A Sum of {name} grows with the traffic.",
            f"The threshold {rule.threshold:g} means another quality at every load.{shown}",
            "Use Average (a rate) or a percentile.",
            call=True,
        )
    if name == "Invocation4XXErrors":
        case.find(
            "callers-errors",
            Severity.WARNING,
            "4XX errors are the callers'.",
            "Whoever sends bad requests can roll a good model back, and hide a bad one.",
            "Watch Invocation5XXErrors or InvocationModelErrors.",
            call=True,
        )


def find_odd_expression(case: Case) -> None:
    """Find metric math that no number of errors makes breach."""
    assert case.boundary is not None
    name = case.metric["MetricName"]
    for step in case.steps or (Step(1.0, 0.0),):
        number = max(1, round(expected_samples(case, step).count))
        found = case.boundary(number)
        if found is None or found != (True, number + 1):
            return
    case.find(
        "never-fires",
        Severity.ERROR,
        f"No number of errors makes the expression of {case.alarm.name} breach {case.rule.threshold:g}.",
        f"Tried with none to all requests of a period failing: {name} is 0 or 1 per request, so a rate is at "
        "most 1, in percent at most 100.",
        "Write the threshold in the unit of the expression: 0.01 is 1 % of errors / requests.",
        call=True,
    )


def find_refused_before(case: Case) -> None:
    """Find alarms that are in ALARM until the new fleet has requests, which it never gets."""
    config = next(
        (one["Value"] for one in case.metric["Dimensions"] if one["Name"] == "EndpointConfigName"), None
    )
    if config in (None, case.traffic.config) or case.rule.treat_missing != "breaching":
        return
    case.find(
        "refused-before",
        Severity.ERROR,
        f"{case.alarm.name} is in ALARM before the new fleet has its first request.",
        f"{config} has no datapoint before the update, and TreatMissingData is breaching. An update whose "
        "alarm is in ALARM is refused.",
        "Set TreatMissingData to notBreaching; to notice silence, watch Invocations of the whole variant, "
        "without EndpointConfigName.",
        call=True,
    )


def _beyond_flags(rule: AlarmRule, statistic: str) -> bool:
    if statistic == "Sum":
        return False
    if rule.comparison == "GreaterThanThreshold":
        return rule.threshold >= 1.0
    return rule.threshold > 1.0 or (rule.threshold == 1.0 and statistic in ("Average", "Minimum"))


def find_silence(case: Case) -> None:
    """Find alarms that take silence for health."""
    rule, name = case.rule, case.metric["MetricName"]
    if name == "Invocations" and rule.comparison.startswith("LessThan") and rule.treat_missing != "breaching":
        case.find(
            "silence-hidden",
            Severity.ERROR,
            f"{case.alarm.name} does not see that requests stop.",
            f"A period without requests has no datapoint, and TreatMissingData is {rule.treat_missing}.",
            "Set TreatMissingData to breaching"
            + (", and leave EndpointConfigName out." if case.sees_new_fleet_only else "."),
        )
        return
    if case.metric["Namespace"] != ENDPOINT_NAMESPACE:
        return
    expected = expected_samples(case, case.steps[0] if case.steps else Step(1.0, 0.0)).count
    quiet = math.exp(-expected)
    if case.variant.requests_per_minute > 0.0 and quiet > QUIET and rule.treat_missing != "breaching":
        case.find(
            "silence-hidden",
            Severity.WARNING,
            f"{quiet:.0%} of the periods of {case.alarm.name} have no request.",
            f"About {expected:.2g} requests are expected in {rule.period_s} s; a period without any is no "
            f"evidence, and TreatMissingData {rule.treat_missing} lets it pass.",
            "Use longer periods, a larger first step, or wait for a number of requests.",
        )


def is_broken(case: Case) -> bool:
    return any(one.severity is Severity.ERROR for one in case.findings)


def find_noise(case: Case, false: float) -> None:
    name, rule, variant = case.metric["MetricName"], case.rule, case.variant
    why = f"With {variant.requests_per_minute:.4g} requests per minute"
    hint = "Use more periods (2 out of 3) or a higher threshold."
    code = "fires-on-healthy"
    if name in FLAGS:
        why += f" and {variant.rates.get(name, 0.0):.2%} errors as they are now"
    summary = variant.summaries.get(name)
    if summary is not None and name in LATENCIES:
        average_us = summary.sum / summary.count
        why += f" and an average {name} of {average_us:,.0f} microseconds"
        for unit, factor in (("milliseconds", 1e3), ("seconds", 1e6)):
            meant = rule.threshold * factor
            if rule.threshold < average_us <= meant and rule.comparison.startswith("GreaterThan"):
                code = "wrong-unit"
                hint = f"{name} is in microseconds: {rule.threshold:g} {unit} are {meant:.0f}."
                break
    case.find(
        code,
        Severity.ERROR if false >= TOO_NOISY or code == "wrong-unit" else Severity.WARNING,
        f"{case.alarm.name} rolls an unchanged model back in {false:.1%} of deployments.",
        f"{why}, a period breaches {rule.threshold:g} by chance.",
        hint,
        call=True,
    )


def find_few_samples(case: Case, steps: Sequence[Step]) -> None:
    kind = parse_statistic(case.metric["Stat"])
    if kind.kind != "p" or kind.high is None:
        return
    count = expected_samples(case, steps[0]).count
    beyond = count * (1.0 - kind.high / 100.0)
    if beyond < FEW_BEYOND:
        case.find(
            "few-samples",
            Severity.ERROR if beyond < 1.0 else Severity.WARNING,
            f"{case.metric['Stat']} of about {count:.3g} samples is decided by {beyond:.2g} of them.",
            f"In the first step {steps[0].share:.0%} of the requests reach the new fleet; CloudWatch itself "
            f"calls a percentile significant from {FEW_BEYOND:g} samples beyond it.",
            "Use a lower percentile, longer periods or a larger first step.",
            call=True,
        )


def find_weakness(case: Case, smallest: float | None, first: float | None, steps: Sequence[Step]) -> None:
    is_rate = case.metric["MetricName"] in FLAGS
    weak, blind = (WEAK_RATE, BLIND_RATE) if is_rate else (WEAK_FACTOR, BLIND_FACTOR)
    if smallest is not None and smallest < weak:
        return
    shown = "none" if smallest is None else f"{smallest:.0%} errors" if is_rate else f"{smallest:.1f} times"
    alone = "none" if first is None else f"{first:.0%} errors" if is_rate else f"{first:.1f} times"
    case.find(
        "catches-little",
        Severity.ERROR if smallest is None or smallest >= blind else Severity.WARNING,
        f"The smallest regression that {case.alarm.name} catches with 90 %: {shown}.",
        f"Over the whole deployment; in the first step ({steps[0].share:.0%} of the traffic) alone: {alone}.",
        "Lower the threshold, or watch more requests.",
        call=True,
    )


def find_dilution(case: Case, steps: Sequence[Step], first: float | None) -> None:
    if case.sees_new_fleet_only or steps[0].share >= 1.0:
        return
    is_rate = case.metric["MetricName"] in FLAGS
    shown = "none" if first is None else f"{first:.1%} errors" if is_rate else f"{first:.2f} times as slow"
    case.find(
        "both-fleets",
        Severity.WARNING,
        f"{case.alarm.name} watches the old and the new fleet together.",
        f"In the first step {steps[0].share:.0%} of its samples are the new fleet's: the smallest regression "
        f"it catches there with 90 % is {shown}; and it fires for what the old fleet does.",
        "Add the dimension EndpointConfigName with the new configuration.",
        call=True,
    )
