"""A bank of broken guardrails, each to be caught by name, and sound ones that must be left alone."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.alarm_data import rule_of
from understudy.core.alarm_evaluation import AlarmRule, Datapoint, evaluate
from understudy.core.alarms import Alarm, AlarmState
from understudy.core.endpoints import Fleet, FleetVariant
from understudy.core.guardrail_odds import (
    Step,
    breach_probability,
    firing_probability,
    flags,
    measured,
    tail,
)
from understudy.core.guardrail_traffic import EndpointTraffic, Severity, VariantTraffic, steps_of
from understudy.core.guardrails import AlarmReport, lint
from understudy.core.metrics import Summary
from understudy.core.statistics import statistic

RANDOM = random.Random(7)
# Lognormal around 20 ms, as a model that is doing well.
LATENCIES_US = Summary.of([20_000 * math.exp(RANDOM.gauss(0.0, 0.5)) for _ in range(4000)])
DIMENSIONS = {"EndpointName": "churn", "VariantName": "v"}
NEW_FLEET = {**DIMENSIONS, "EndpointConfigName": "churn-2"}


def traffic(per_minute: float = 600.0, errors: float = 0.001) -> EndpointTraffic:
    variant = VariantTraffic(
        "v",
        False,
        per_minute,
        {"Invocation5XXErrors": errors, "Invocation4XXErrors": 0.01, "InvocationModelErrors": errors},
        {
            "ModelLatency": LATENCIES_US,
            "OverheadLatency": LATENCIES_US,
            "Invocations": Summary.repeated(1.0, per_minute),
            "CPUUtilization": Summary.of([20.0, 30.0, 25.0, 22.0]),
        },
    )
    shadow = VariantTraffic("s", True, per_minute, {"Invocation5XXErrors": 0.0})
    return EndpointTraffic("churn", "churn-1", (variant, shadow), "churn-2", 3600.0)


def fleet(instances: int) -> Fleet:
    return Fleet("f2", "churn-2", (FleetVariant("v", "m", (), desired_count=instances),))


def deployment(kind: str = "CANARY", wait_s: int = 600, percent: int = 10) -> list[Step]:
    routing: dict[str, Any] = {"Type": kind, "WaitIntervalInSeconds": wait_s}
    size = {"Type": "CAPACITY_PERCENT", "Value": percent}
    if kind != "ALL_AT_ONCE":
        routing["CanarySize" if kind == "CANARY" else "LinearStepSize"] = size
    return steps_of({"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}, fleet(1))


def alarm(name: str = "guard", **members: Any) -> Alarm:
    dimensions = members.pop("on", NEW_FLEET)
    request = {
        "AlarmName": name,
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocation5XXErrors",
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 0.1,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        **members,
    }
    if "ExtendedStatistic" in members:
        del request["Statistic"]
    return Alarm(name, f"arn:{name}", request, False, 0.0, AlarmState.OK)


def composite(rule: str) -> Alarm:
    return Alarm("guard", "arn:guard", {"AlarmName": "guard", "AlarmRule": rule}, True, 0.0, AlarmState.OK)


def judge(
    *alarms: Alarm, seen: EndpointTraffic | None = None, steps: list[Step] | None = None
) -> AlarmReport:
    known = {one.name: one for one in alarms}
    reports = lint(["guard"], known, seen or traffic(), deployment() if steps is None else steps)
    return reports[0]


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    # AWS's canary notebook: Average >= 1, commented "alarm on 1% 5xx error rate".
    "aws notebook": (
        "never-fires",
        {"Threshold": 1.0, "ComparisonOperator": "GreaterThanOrEqualToThreshold"},
    ),
    # AWS's guide: Average > 1 over 2 periods of 600 s.
    "aws guide": ("never-fires", {"Threshold": 1.0, "Period": 600, "EvaluationPeriods": 2}),
    "percent as a whole number": ("never-fires", {"Threshold": 5.0}),
    "longer than the bake": ("window-longer-than-bake", {"Period": 600, "EvaluationPeriods": 3}),
    "misspelt metric": ("unknown-metric", {"MetricName": "Invocations5XXErrors"}),
    "wrong namespace": ("unknown-metric", {"Namespace": "/aws/sagemaker/Endpoints"}),
    "unknown namespace": ("unknown-metric", {"Namespace": "AWS/Sagemaker"}),
    "no variant": ("unknown-dimension", {"on": {"EndpointName": "churn"}}),
    "invented dimension": ("unknown-dimension", {"on": {**DIMENSIONS, "Stage": "prod"}}),
    "other endpoint": ("other-endpoint", {"on": {**NEW_FLEET, "EndpointName": "fraud"}}),
    "AllTraffic": ("other-variant", {"on": {"EndpointName": "churn", "VariantName": "AllTraffic"}}),
    "old configuration": ("other-config", {"on": {**DIMENSIONS, "EndpointConfigName": "churn-1"}}),
    "a shadow": ("shadow", {"on": {**NEW_FLEET, "VariantName": "s"}}),
    "milliseconds": ("wrong-unit", {"MetricName": "ModelLatency", "Threshold": 100.0}),
    "unit that is not there": (
        "wrong-unit",
        {"MetricName": "ModelLatency", "Threshold": 1e5, "Unit": "Milliseconds"},
    ),
    "sum of errors": ("sum-threshold", {"Statistic": "Sum", "Threshold": 20.0}),
    "counts requests": ("counts-requests", {"Statistic": "SampleCount", "Threshold": 10.0}),
    "any single error": ("fires-on-healthy", {"Statistic": "Maximum", "Threshold": 0.0}),
    "one slow request": (
        "fires-on-healthy",
        {"MetricName": "ModelLatency", "Statistic": "Maximum", "Threshold": 60_000.0},
    ),
    "the wrong way round": ("inverted", {"ComparisonOperator": "LessThanThreshold", "Threshold": 0.05}),
    "silence is fine": (
        "silence-hidden",
        {
            "MetricName": "Invocations",
            "Statistic": "Sum",
            "ComparisonOperator": "LessThanThreshold",
            "Threshold": 10.0,
        },
    ),
    "both fleets": ("both-fleets", {"on": DIMENSIONS}),
    "p99.9 of sixty": (
        "few-samples",
        {"MetricName": "ModelLatency", "ExtendedStatistic": "p99.9", "Threshold": 1e6},
    ),
    "hears nothing": ("catches-little", {"Threshold": 0.6}),
    "deaf to latency": ("catches-little", {"MetricName": "ModelLatency", "Threshold": 1e7}),
    "callers' errors": ("callers-errors", {"MetricName": "Invocation4XXErrors", "Threshold": 0.2}),
    "memory beyond 100": (
        "never-fires",
        {
            "Namespace": "/aws/sagemaker/Endpoints",
            "MetricName": "MemoryUtilization",
            "Threshold": 100.0,
            "on": DIMENSIONS,
        },
    ),
    "average of ones": ("constant", {"MetricName": "Invocations", "Threshold": 1.0}),
    "average per instance": ("constant", {"MetricName": "InvocationsPerInstance", "Threshold": 0.5}),
    # No update could begin: without the new fleet there is no datapoint, and that breaches.
    "breaches before it begins": ("refused-before", {"TreatMissingData": "breaching"}),
    "every request must fail": ("catches-little", {"Statistic": "Minimum", "Threshold": 0.5}),
    "half of the requests must fail": ("catches-little", {"ExtendedStatistic": "p50", "Threshold": 0.5}),
    "less than nothing": ("fires-on-healthy", {"Threshold": -0.1}),
    "nothing is too much": (
        "fires-on-healthy",
        {"Threshold": 0.0, "ComparisonOperator": "GreaterThanOrEqualToThreshold"},
    ),
    "requests are too many": (
        "fires-on-healthy",
        {"MetricName": "Invocations", "Statistic": "Sum", "Threshold": 10.0},
    ),
    "trimmed milliseconds": (
        "wrong-unit",
        {"MetricName": "ModelLatency", "ExtendedStatistic": "tm99", "Threshold": 100.0},
    ),
    "an hour": ("window-longer-than-bake", {"Period": 3600}),
    "another letter's case": ("other-variant", {"on": {**NEW_FLEET, "VariantName": "V"}}),
}


def bad(report: AlarmReport) -> list[str]:
    return [found.code for found in report.findings if found.severity is not Severity.INFO]


@pytest.mark.parametrize("case", BROKEN)
def test_broken_guardrails_are_caught(case: str) -> None:
    code, members = BROKEN[case]
    report = judge(alarm(**members))
    assert code in bad(report), report.findings
    for found in report.findings:
        assert found.what and found.why and found.suggestion, found


def test_the_two_samples_of_aws_are_errors_with_a_better_call() -> None:
    for case in ("aws notebook", "aws guide"):
        (found,) = [one for one in judge(alarm(**BROKEN[case][1])).findings if one.code == "never-fires"]
        assert found.severity is Severity.ERROR
        assert found.call is not None and found.call["Threshold"] < 0.5
        assert bad(judge(alarm(**found.call))) == [], "the suggestion is flagged itself"


SOUND: dict[str, dict[str, Any]] = {
    "error rate, 1 of 1": {},
    "error rate, 2 of 3": {"EvaluationPeriods": 3, "DatapointsToAlarm": 2, "Threshold": 0.05},
    "error rate, 10 s": {"Period": 10, "EvaluationPeriods": 2, "Threshold": 0.2},
    "model errors": {"MetricName": "InvocationModelErrors", "Threshold": 0.08},
    "average latency": {"MetricName": "ModelLatency", "Threshold": 35_000.0},
    "p90 latency": {
        "MetricName": "ModelLatency",
        "ExtendedStatistic": "p90",
        "Threshold": 70_000.0,
        "Period": 120,
    },
    "maximum far out": {"MetricName": "ModelLatency", "Statistic": "Maximum", "Threshold": 400_000.0},
    "silence breaches": {
        "MetricName": "Invocations",
        "Statistic": "Sum",
        "ComparisonOperator": "LessThanThreshold",
        "Threshold": 10.0,
        "TreatMissingData": "breaching",
        "on": DIMENSIONS,
    },
    "trimmed mean": {"MetricName": "ModelLatency", "ExtendedStatistic": "tm95", "Threshold": 35_000.0},
    "winsorized mean": {"MetricName": "ModelLatency", "ExtendedStatistic": "wm95", "Threshold": 35_000.0},
    "median": {"MetricName": "ModelLatency", "ExtendedStatistic": "p50", "Threshold": 30_000.0},
    "missing is ignored": {"TreatMissingData": "ignore", "Threshold": 0.05},
    "processor": {
        "Namespace": "/aws/sagemaker/Endpoints",
        "MetricName": "CPUUtilization",
        "Threshold": 90.0,
        "on": DIMENSIONS,
        "Period": 60,
    },
}


@pytest.mark.parametrize("case", SOUND)
def test_sound_guardrails_are_left_alone(case: str) -> None:
    report = judge(alarm(**SOUND[case]), seen=traffic(6000.0))
    assert bad(report) == [], report.findings


def test_steps_of_every_kind() -> None:
    assert [step.share for step in deployment("LINEAR", percent=33)] == [0.33, 0.66, 1.0]
    assert [step.share for step in deployment("LINEAR", percent=50)] == [0.5, 1.0]
    assert [step.share for step in deployment("ALL_AT_ONCE")] == [1.0]
    size = {"Type": "INSTANCE_COUNT", "Value": 1}
    rolling = {"RollingUpdatePolicy": {"MaximumBatchSize": size, "WaitIntervalInSeconds": 60}}
    assert steps_of(rolling, fleet(4)) == [Step(share, 60.0) for share in (0.25, 0.5, 0.75, 1.0)]
    assert steps_of({}, fleet(1)) == []


def test_all_at_once_needs_no_configuration() -> None:
    report = judge(alarm(on=DIMENSIONS), steps=deployment("ALL_AT_ONCE"))
    assert bad(report) == []


def test_what_is_not_there_or_rings_already() -> None:
    assert bad(judge()) == ["missing-alarm"]
    ringing = Alarm("guard", "arn", alarm().request, False, 0.0, AlarmState.ALARM, "Threshold Crossed: ...")
    assert "in-alarm" in bad(judge(ringing))


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("FALSE", "never-fires"),
        ("ALARM(a) AND OK(a)", "never-fires"),
        ("NOT ALARM(a)", "fires-on-healthy"),
        ("ALARM(gone)", None),
    ],
)
def test_composite_rules(rule: str, code: str | None) -> None:
    assert bad(judge(composite(rule), alarm("a"))) == ([] if code is None else [code])


def test_alarms_behind_a_composite_are_judged_too() -> None:
    known = {"guard": composite("ALARM(a) OR ALARM(gone)"), "a": alarm("a", Threshold=1.0)}
    reports = {one.name: bad(one) for one in lint(["guard"], known, traffic(), deployment())}
    assert reports["guard"] == [] and "never-fires" in reports["a"] and reports["gone"] == ["missing-alarm"]


def test_without_traffic_nothing_is_claimed() -> None:
    report = judge(alarm(), seen=traffic(0.0))
    assert bad(report) == [] and report.false_alarm_probability is None
    assert [one.code for one in report.findings] == ["no-traffic"]


def computed(expression: str, calls: str = "Invocations", **members: Any) -> Alarm:
    """An alarm on metric math over ``errors`` and ``calls``."""

    def metric(key: str, name: str) -> dict[str, Any]:
        dimensions = [{"Name": one, "Value": value} for one, value in NEW_FLEET.items()]
        named = {"Namespace": "AWS/SageMaker", "MetricName": name, "Dimensions": dimensions}
        return {"Id": key, "ReturnData": False, "MetricStat": {"Metric": named, "Period": 60, "Stat": "Sum"}}

    request = {
        "AlarmName": "guard",
        "Metrics": [
            {"Id": "rate", "Expression": expression},
            metric("errors", "Invocation5XXErrors"),
            metric("calls", calls),
        ],
        "EvaluationPeriods": 1,
        "Threshold": 0.1,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        **members,
    }
    return Alarm("guard", "arn", request, False, 0.0, AlarmState.OK)


def test_what_is_no_single_rate_is_checked_but_not_judged() -> None:
    told = [one.code for one in judge(computed("errors / calls", calls="Invocation")).findings]
    assert told == ["unknown-metric", "not-judged"]
    for expression, calls in (("RATE(errors)", "Invocations"), ("errors + calls", "ModelLatency")):
        assert [one.code for one in judge(computed(expression, calls)).findings] == ["not-judged"]


@pytest.mark.parametrize(
    ("expression", "threshold"),
    [
        ("errors / calls", 0.05),
        ("100 * errors / calls", 5.0),
        ("IF(calls > 10, errors / calls, 0)", 0.05),
        ("FILL(errors, 0) / FILL(calls, 1)", 0.05),
    ],
)
def test_rates_by_metric_math_are_judged_like_averages(expression: str, threshold: float) -> None:
    seen = traffic(3000.0)
    wanted = judge(alarm(Threshold=0.05), seen=seen)
    found = judge(computed(expression, Threshold=threshold), seen=seen)
    assert bad(found) == bad(wanted) == []
    assert found.false_alarm_probability == pytest.approx(wanted.false_alarm_probability)
    assert found.smallest_regression == pytest.approx(wanted.smallest_regression)
    assert found.regression_unit == "rate"


@pytest.mark.parametrize(
    ("expression", "threshold", "code"),
    [
        ("errors / calls", 5.0, "never-fires"),  # meant as percent
        ("100 * errors / calls", 0.05, "fires-on-healthy"),  # meant as a fraction
        ("IF(calls > 1000000, errors / calls, 0)", 0.05, "never-fires"),
        ("calls / errors", 0.05, "fires-on-healthy"),
        ("1 - errors / calls", 0.95, "fires-on-healthy"),  # good answers, with the operator for bad ones
        ("errors / calls", 0.6, "catches-little"),
    ],
)
def test_broken_metric_math_is_caught(expression: str, threshold: float, code: str) -> None:
    assert code in bad(judge(computed(expression, Threshold=threshold), seen=traffic(3000.0)))


def test_the_share_of_good_answers_is_judged_too() -> None:
    good = computed("1 - errors / calls", Threshold=0.95, ComparisonOperator="LessThanThreshold")
    report = judge(good, seen=traffic(3000.0))
    assert bad(report) == [] and report.false_alarm_probability == pytest.approx(0.0, abs=1e-9)


# --- the arithmetic ------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.integers(-1, 401))
def test_tails_are_exact(number: int, rate: float, least: int) -> None:
    wanted = math.fsum(
        math.comb(number, k) * rate**k * (1 - rate) ** (number - k) for k in range(max(0, least), number + 1)
    )
    assert tail(number, rate, least) == pytest.approx(wanted, abs=1e-9)


def test_statistics_md_rates_of_false_rollbacks() -> None:
    """60 requests a minute, 1 % errors, 10 minutes: the simulated rates of the two rules."""
    one_of_one = AlarmRule("GreaterThanOrEqualToThreshold", 0.02, 60, 1, 1)
    breach = breach_probability(one_of_one, "Average", flags(60.0, 0.01))
    assert breach is not None
    assert firing_probability(one_of_one, [breach], [10]) == pytest.approx(0.72, abs=0.1)
    two_of_three = AlarmRule("GreaterThanOrEqualToThreshold", 0.05, 60, 3, 2)
    breach = breach_probability(two_of_three, "Average", flags(60.0, 0.01))
    assert breach is not None
    assert firing_probability(two_of_three, [breach], [10]) < 0.01


@given(st.integers(1, 5), st.data())
def test_the_chain_counts_as_the_evaluation_does(window: int, data: st.DataObject) -> None:
    """Every course of a short bake, judged by the real evaluation and weighed by its chance."""
    enough = data.draw(st.integers(1, window))
    breach = data.draw(st.floats(0.05, 0.95))
    count = data.draw(st.integers(0, 7))
    rule = AlarmRule("GreaterThanThreshold", 0.5, 60, window, enough)
    total = 0.0
    for course in range(2**count):
        signs = [float(course >> at & 1) for at in range(count)]
        history = [Datapoint(60 * at, 0.0) for at in range(window + 2)]
        fired = False
        for sign in signs:
            history.append(Datapoint(60 * len(history), sign))
            fired = fired or evaluate(rule, history, 60 * len(history)).state is AlarmState.ALARM
        total += fired * breach ** sum(signs) * (1 - breach) ** (count - sum(signs))
    assert firing_probability(rule, [breach], [count]) == pytest.approx(total, abs=1e-9)


def test_smallest_regressions_are_caught_as_often_as_promised() -> None:
    """Play deployments with the regression that the linter names: nine in ten must be caught."""
    guard = alarm(EvaluationPeriods=3, DatapointsToAlarm=2, Threshold=0.05)
    report = judge(guard)
    assert report.smallest_regression is not None and report.regression_unit == "rate"
    steps, rule = deployment(), rule_of(guard.request)
    dice, caught, runs = random.Random(1), 0, 400
    for _ in range(runs):
        history: list[Datapoint] = [Datapoint(60 * at, 0.0) for at in range(5)]
        fired = False
        for step in steps:
            for _ in range(int(step.duration_s // 60)):
                number = round(600 * step.share)
                errors = sum(dice.random() < report.smallest_regression for _ in range(number))
                history.append(Datapoint(60 * len(history), errors / number))
                fired = fired or evaluate(rule, history, 60 * len(history)).state is AlarmState.ALARM
            if fired:
                break
        caught += fired
    assert 0.84 < caught / runs < 0.96


@pytest.mark.parametrize("name", ["tm90", "wm95", "TM(5%:95%)", "TM(10000:40000)", "IQM", "Average", "p90"])
def test_odds_of_a_period_are_those_of_samples_drawn(name: str) -> None:
    drawn = [20_000 * math.exp(RANDOM.gauss(0.0, 0.5)) for _ in range(4000)]
    centre = statistic(Summary.of(drawn), name)
    assert centre is not None
    periods = [statistic(Summary.of(RANDOM.choices(drawn, k=150)), name) for _ in range(600)]
    for factor in (0.97, 1.0, 1.03):
        rule = AlarmRule("GreaterThanThreshold", centre * factor, 60, 1, 1)
        odds = breach_probability(rule, name, measured(150.0, Summary.of(drawn)))
        seen = sum(value is not None and value > rule.threshold for value in periods) / len(periods)
        assert odds == pytest.approx(seen, abs=0.12), (factor, seen)
