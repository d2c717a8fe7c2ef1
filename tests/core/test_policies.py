"""Policies: what is read, what is filled in, and that a wrong key is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from understudy.core.policies import (
    CloudWatchMetric,
    Kind,
    Measure,
    MetricRule,
    PolicyError,
    default_policy,
    known_rule,
    parse_policy,
    read_policy,
)

TOML = """
name = "deploy/v3"
kind = "experiment"
alpha_promote = 0.025
label_window_s = 3600

[primary]
metric = "conversion"
mde = 1.05

[[guardrails]]
metric = "error_rate"
margin = 1.5

[[guardrails]]
metric = "latency_p95"

[[guardrails]]
metric = "basket"
measure = "mean"
clip = 500
mde = 2.0
margin = 1.0
"""


def test_toml_is_read_and_defaults_are_filled_in() -> None:
    policy = read_policy(TOML)
    assert policy.kind is Kind.EXPERIMENT
    assert policy.primary is not None
    assert (policy.primary.mde, policy.primary.every_request, policy.primary.better) == (1.05, True, "higher")
    errors, latency, basket = policy.guardrails
    assert (errors.margin, errors.mde, errors.tolerance) == (1.5, 3.0, 1.1)
    assert (latency.measure, latency.quantile, latency.warmup_s) == (Measure.LATENCY, 0.95, 60.0)
    assert (basket.measure, basket.clip, basket.better) == (Measure.MEAN, 500.0, "higher")
    assert (policy.alpha_promote, policy.alpha_rollback) == (0.025, 0.01)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_policy_survives_json(kind: Kind) -> None:
    for policy in (default_policy(kind), read_policy(TOML)):
        assert parse_policy(json.loads(json.dumps(policy.to_json()))) == policy
        assert read_policy(json.dumps(policy.to_json())) == policy


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"kind": "canary"}, "kind"),
        ({"alpa": 0.05}, "alpa"),
        ({"alpha_promote": 0}, "alpha_promote"),
        ({"alpha_rollback": "low"}, "alpha_rollback"),
        ({"alpha_rollback": float("nan")}, "alpha_rollback"),
        ({"minimum_requests": 1.5}, "minimum_requests"),
        ({"label_window_s": -1}, "label_window_s"),
        ({"guardrails": "error_rate"}, "guardrails"),
        ({"guardrails": []}, "guardrails"),
        ({"guardrails": [{}]}, "guardrails[0].metric"),
        ({"guardrails": [{"metric": "basket"}]}, "guardrails[0].measure"),
        ({"guardrails": [{"metric": "error_rate", "mde": 1.0}]}, "guardrails[0].mde"),
        ({"guardrails": [{"metric": "error_rate", "margn": 2}]}, "guardrails[0].margn"),
        ({"guardrails": [{"metric": "error_rate", "tolerance": 2.5}]}, "guardrails[0].tolerance"),
        ({"guardrails": [{"metric": "error_rate", "better": "faster"}]}, "guardrails[0].better"),
        ({"guardrails": [{"metric": "basket", "measure": "mean"}]}, "guardrails[0].clip"),
        ({"guardrails": [{"metric": "error_rate"}, {"metric": "error_rate"}]}, "guardrails"),
        ({"guardrails": [{"metric": "accuracy", "acceptable_rate": 0.1}]}, "guardrails[0].acceptable_rate"),
        ({"guardrails": [{"metric": "latency_p100"}]}, "guardrails[0].measure"),
        ({"primary": {"metric": "conversion"}}, "primary"),
        ({"kind": "experiment", "primary": None}, "primary"),
        ({"kind": "experiment", "primary": {"metric": "conversion", "mde": True}}, "primary.mde"),
        ({"kind": "experiment", "mode": "horizon"}, "horizon_requests"),
        ({"kind": "experiment", "mode": "horizon", "horizon_requests": 9, "looks": 21}, "looks"),
        ("deploy", "the policy"),
    ],
)
def test_a_wrong_key_is_named(data: Any, key: str) -> None:
    with pytest.raises(PolicyError) as raised:
        parse_policy(data)
    assert str(raised.value).startswith(key)


@pytest.mark.parametrize("text", ["kind = ", "{", "[[]]", '{"kind": "deploy"'])
def test_what_is_neither_toml_nor_json_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="can't be read"):
        read_policy(text)


def test_the_policy_of_the_guide_is_read() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "verdicts-statistics.md"
    text = guide.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    policy = read_policy(text)
    assert policy.name == "deploy/v3"
    assert policy.guardrails == default_policy().guardrails[:1]


def test_unknown_metrics_are_not_known() -> None:
    assert known_rule("latency_pfast") is None
    assert known_rule("basket") is None


def test_what_the_autopilot_does_is_declared_and_decides_nothing() -> None:
    plain = parse_policy({})
    ramped = parse_policy({"ramp": [10, 100], "bandit": {"every_s": 30}})
    assert plain.ramp.percents == (5.0, 10.0, 25.0, 50.0, 100.0) and "ramp" not in plain.to_json()
    assert ramped.ramp.percents == (10.0, 100.0) and ramped.bandit.every_s == 30.0
    assert parse_policy(json.loads(json.dumps(ramped.to_json()))) == ramped
    assert plain.decides_as(ramped) and not plain.decides_as(parse_policy({"minimum_requests": 7}))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"ramp": [10, 50]}, "ramp.percents"),
        ({"ramp": [50, 10, 100]}, "ramp.percents"),
        ({"ramp": {"percents": [0, 100]}}, "ramp.percents"),
        ({"ramp": {"minimum_requests": -1}}, "ramp.minimum_requests"),
        ({"ramp": {"every": 3}}, "ramp.every"),
        ({"bandit": {"floor": 0.6}}, "bandit.floor"),
        ({"bandit": 3}, "bandit"),
    ],
)
def test_a_wrong_ramp_or_bandit_is_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(PolicyError, match=named):
        parse_policy(given)


@pytest.mark.parametrize("text", ['{"a":' + "[" * 100_000, "a = " + "[" * 100_000, "{", "= 1", '{"a": 1e}'])
def test_a_text_that_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="can't be read"):
        read_policy(text)


CUSTOM: dict[str, Any] = {
    "metric": "bad_answer",
    "measure": "rate",
    "source": "cloudwatch",
    "namespace": "Shop",
}


def test_a_metric_of_putmetricdata_is_read_and_written_back() -> None:
    policy = parse_policy({"guardrails": [CUSTOM]})
    (rule,) = policy.guardrails
    assert rule.cloudwatch == CloudWatchMetric("Shop", "bad_answer", (), 60, 30.0)
    full = {
        **CUSTOM,
        "metric_name": "Bad",
        "dimensions": {"b": "2", "a": "1"},
        "resolution_s": 1,
        "delay_s": 0,
    }
    policy = parse_policy({"guardrails": [full, {"metric": "error_rate"}]})
    assert policy.guardrails[0].cloudwatch == CloudWatchMetric(
        "Shop", "Bad", (("a", "1"), ("b", "2")), 1, 0.0
    )
    assert parse_policy(json.loads(json.dumps(policy.to_json()))) == policy
    assert (
        MetricRule.from_json(json.loads(json.dumps(policy.guardrails[0].to_json()))) == policy.guardrails[0]
    )
    assert "source" not in policy.to_json()["guardrails"][1]


def test_a_conversion_may_come_from_putmetricdata() -> None:
    text = """
kind = "experiment"
[primary]
metric = "conversion"
source = "cloudwatch"
namespace = "Shop"
dimensions = { Region = "eu" }
"""
    primary = read_policy(text).primary
    assert primary is not None and primary.every_request and primary.better == "higher"
    assert primary.cloudwatch == CloudWatchMetric("Shop", "conversion", (("Region", "eu"),))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"measure": "mean", "clip": 9}, "measure: .*sums.*outcomes"),
        ({"measure": "latency"}, "measure"),
        ({"measure": "quality"}, "measure"),
        ({"source": "prometheus"}, "source"),
        ({"source": 3}, "source"),
        ({"source": None}, "namespace: only of a metric with source"),
        ({"namespace": None}, "namespace"),
        ({"namespace": ""}, "namespace"),
        ({"namespace": 7}, "namespace"),
        ({"namespace": "n" * 256}, "namespace"),
        ({"namespace": "n\n"}, "namespace"),
        ({"metric_name": " "}, "metric_name"),
        ({"metric_name": ["a"]}, "metric_name"),
        ({"metric": "error_rate"}, "metric: error_rate is counted"),
        ({"dimensions": [["a", "b"]]}, "dimensions"),
        ({"dimensions": {"a": 1}}, "dimensions.a"),
        ({"dimensions": {"a": "ü"}}, "dimensions.a"),
        ({"dimensions": {"VariantName": "A"}}, "dimensions.VariantName"),
        ({"dimensions": {f"d{at}": "v" for at in range(28)}}, "dimensions: at most"),
        ({"resolution_s": 30}, "resolution_s"),
        ({"resolution_s": True}, "resolution_s"),
        ({"resolution_s": [1]}, "resolution_s"),
        ({"delay_s": -1}, "delay_s"),
        ({"delay_s": float("nan")}, "delay_s"),
        ({"delay_s": 1e9}, "delay_s"),
        ({"statistic": "Sum"}, "statistic: unknown"),
    ],
)
def test_a_wrong_metric_of_putmetricdata_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(PolicyError, match=rf"guardrails\[0\].{named}"):
        parse_policy({"guardrails": [{**CUSTOM, **change}]})


@pytest.mark.parametrize(
    "rule",
    [
        {"metric": "error_rate", "mde": 1e300},
        {"metric": "error_rate", "mde": 10**400},
        {"metric": "latency_p99", "mde": 1e80},
        {"metric": "latency_p99", "better": "higher"},
        {"metric": "basket", "measure": "mean", "clip": 1e300},
        {"metric": "basket", "measure": "mean", "clip": 1e-300},
        {"metric": "basket", "measure": "mean", "clip": 1.0, "mde": 1e308},
        {"metric": "accuracy", "margin": 10**400},
    ],
)
def test_what_would_break_the_arithmetic_of_evidence_is_refused(rule: dict[str, Any]) -> None:
    """A policy that is kept is weighed at every tick: one that can't be would end all judging."""
    (key,) = [name for name in rule if name not in ("metric", "measure")][-1:]
    with pytest.raises(PolicyError) as raised:
        parse_policy({"guardrails": [rule]})
    assert str(raised.value).startswith(f"guardrails[0].{key}: ")


@pytest.mark.parametrize(
    "key", ["alpha_promote", "alpha_rollback", "label_window_s", "minimum_requests", "looks"]
)
@pytest.mark.parametrize("value", [10**400, -(10**400), 5e-324])
def test_numbers_of_absurd_size_are_refused(key: str, value: float) -> None:
    if (key, value) == ("label_window_s", 5e-324):
        assert parse_policy({key: value}).label_window_s == value
        return
    with pytest.raises(PolicyError) as raised:
        parse_policy({key: value})
    assert str(raised.value).startswith(f"{key}: ")
