"""The guardrail linter: will these alarms catch a bad model, and leave a good one alone?

Owns the reports on the alarms of an AutoRollbackConfiguration, from the endpoint's own traffic.  Refuses
nothing: a finding is advice.  Main function: :func:`lint`.  What metrics there are is in
``guardrail_metrics``, kinds of findings in ``guardrail_checks``, the arithmetic in ``guardrail_odds``.

Source: AWS's sample alarms ``Average >= 1`` and ``Average > 1`` on 0/1 metrics, commented as 1 %, which need
every request to fail; "Auto-Rollback Configuration and Monitoring", Amazon SageMaker Developer Guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from understudy.core.alarm_data import metrics_of, rule_of
from understudy.core.alarm_expressions import children_of, is_true, parse_rule
from understudy.core.alarms import Alarm, AlarmState
from understudy.core.guardrail_cases import Case, fires, smallest_regression, variant_of
from understudy.core.guardrail_checks import (
    NOISY,
    find_dilution,
    find_few_samples,
    find_noise,
    find_odd_expression,
    find_odd_statistics,
    find_refused_before,
    find_silence,
    find_weakness,
    is_broken,
    window_findings,
)
from understudy.core.guardrail_math import boundary_of, rate_metric_of
from understudy.core.guardrail_metrics import FLAGS, LATENCIES, check_metric
from understudy.core.guardrail_odds import Step
from understudy.core.guardrail_traffic import EndpointTraffic, Finding, Severity

MAX_ENUMERATED = 7  # children of a composite alarm whose states are all tried


@dataclass(frozen=True)
class AlarmReport:
    """What is said of one alarm.

    Attributes:
        false_alarm_probability: That it fires on an unchanged model during the deployment; None: not known.
        smallest_regression: The smallest one it catches with 90 %: a rate of errors, or a factor of latency;
            None: none, or not known.
        regression_unit: ``rate`` or ``factor``.
    """

    name: str
    state: str | None
    findings: tuple[Finding, ...]
    false_alarm_probability: float | None = None
    smallest_regression: float | None = None
    regression_unit: str | None = None


def lint(
    names: Sequence[str],
    alarms: Mapping[str, Alarm],
    traffic: EndpointTraffic,
    steps: Sequence[Step],
) -> list[AlarmReport]:
    """Judge the alarms that guard an update.

    Args:
        names: Of AutoRollbackConfiguration, in order.
        alarms: By name; of composite alarms also those they read.
        steps: Of the deployment, in order; empty where none is known.
    """
    reports: list[AlarmReport] = []
    for name in dict.fromkeys(names):
        reports += _report(name, alarms, traffic, steps, seen=())
    return reports


def _report(
    name: str,
    alarms: Mapping[str, Alarm],
    traffic: EndpointTraffic,
    steps: Sequence[Step],
    seen: tuple[str, ...],
) -> list[AlarmReport]:
    alarm = alarms.get(name)
    if alarm is None:
        missing = Finding(
            "missing-alarm",
            Severity.ERROR,
            name,
            f"There is no alarm {name}.",
            "An alarm that does not exist never fires, so nothing is rolled back.",
            "Make it with PutMetricAlarm, or take its name out of AutoRollbackConfiguration.",
        )
        return [AlarmReport(name, None, (missing,))]
    findings = _state_findings(alarm)
    if alarm.composite:
        findings += _composite_findings(alarm)
        own = AlarmReport(name, alarm.state.value, tuple(findings))
        children = [
            child for child in children_of(parse_rule(alarm.request["AlarmRule"])) if child not in seen
        ]
        reports = [_report(child, alarms, traffic, steps, (*seen, name)) for child in children]
        return [own, *(one for found in reports for one in found)]
    return [_metric_report(alarm, findings, traffic, steps)]


def _state_findings(alarm: Alarm) -> list[Finding]:
    if alarm.state is not AlarmState.ALARM:
        return []
    return [
        Finding(
            "in-alarm",
            Severity.WARNING,
            alarm.name,
            f"{alarm.name} is in ALARM now.",
            f"An update that it guards would not begin. {alarm.reason}",
            "Find out why first; an alarm on the old fleet can be told apart by EndpointConfigName.",
        )
    ]


def _composite_findings(alarm: Alarm) -> list[Finding]:
    rule = parse_rule(alarm.request["AlarmRule"])
    children = children_of(rule)
    if len(children) > MAX_ENUMERATED:
        return []
    outcomes = [
        is_true(rule, dict(zip(children, states, strict=True)))
        for states in product(AlarmState, repeat=len(children))
    ]
    if not any(outcomes):
        return [
            Finding(
                "never-fires",
                Severity.ERROR,
                alarm.name,
                f"The rule of {alarm.name} is never true.",
                f"No states of {', '.join(children) or 'its alarms'} make {alarm.request['AlarmRule']} true.",
                "Write a rule like ALARM(a) OR ALARM(b).",
            )
        ]
    if is_true(rule, dict.fromkeys(children, AlarmState.OK)):
        return [
            Finding(
                "fires-on-healthy",
                Severity.ERROR,
                alarm.name,
                f"{alarm.name} fires while all its alarms are OK.",
                f"{alarm.request['AlarmRule']} is true then.",
                "Write a rule like ALARM(a) OR ALARM(b).",
            )
        ]
    return []


# --- metric alarms -------------------------------------------------------------------------------------


def _metric_report(
    alarm: Alarm, findings: list[Finding], traffic: EndpointTraffic, steps: Sequence[Step]
) -> AlarmReport:
    rule = rule_of(alarm.request)
    broken = False
    for metric in metrics_of(alarm.request):
        found = check_metric(alarm.name, metric, traffic)
        findings += found
        broken = broken or bool(found)
    findings += window_findings(alarm, rule, steps)
    report = AlarmReport(alarm.name, alarm.state.value, tuple(findings))
    plain = "MetricName" in alarm.request
    rated = metrics_of(alarm.request)[0] if plain else rate_metric_of(alarm.request)
    variant = None if rated is None else variant_of(rated, traffic)
    if rated is None:
        return replace(report, findings=(*report.findings, _not_judged(alarm.name)))
    if broken or variant is None:
        return report
    case = Case(alarm, rule, rated, traffic, steps, variant, findings)
    find_refused_before(case)
    if plain:
        find_odd_statistics(case)
    else:
        case.boundary = boundary_of(alarm.request)
        find_odd_expression(case)
    find_silence(case)
    return _odds_report(case)


def _not_judged(alarm: str) -> Finding:
    return Finding(
        "not-judged",
        Severity.INFO,
        alarm,
        "This statistic or expression is not judged by numbers.",
        "How often it breaches can't be computed from rates and single latencies.",
        "Guard with alarms on single metrics as well.",
    )


def _odds_report(case: Case) -> AlarmReport:
    name = case.metric["MetricName"]
    steps = case.steps or (Step(1.0, float(case.rule.period_s * case.rule.evaluation_periods)),)

    def report(false: float | None = None, smallest: float | None = None) -> AlarmReport:
        unit = "rate" if name in FLAGS else "factor"
        return AlarmReport(
            case.alarm.name,
            case.alarm.state.value,
            tuple(case.findings),
            false,
            smallest,
            unit if false is not None and name in FLAGS | LATENCIES else None,
        )

    if case.variant.requests_per_minute <= 0.0:
        case.find(
            "no-traffic",
            Severity.INFO,
            f"No requests of {case.variant.name} are known; nothing can be computed.",
            f"Looked at the last {case.traffic.observed_s / 60:.0f} minutes.",
            "Run the linter again when the endpoint serves.",
        )
        return report()
    false = fires(case, steps, None)
    if false is None:
        case.findings.append(_not_judged(case.alarm.name))
        return report()
    if false >= NOISY and not is_broken(case):
        find_noise(case, false)
    if name not in FLAGS | LATENCIES or not case.rule.comparison.startswith("GreaterThan"):
        return report(false)
    find_few_samples(case, steps)
    smallest = smallest_regression(case, steps)
    first = smallest_regression(case, steps[:1])
    if false < NOISY and not is_broken(case):
        find_weakness(case, smallest, first, steps)
    find_dilution(case, steps, first)
    return report(false, smallest)
