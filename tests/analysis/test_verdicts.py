"""Verdicts: the five decisions, the traps, what would change them, and replays."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from understudy.analysis.asymptotic import Difference
from understudy.analysis.bets import Unit
from understudy.analysis.evidence import Batch, Evidence, advance, start_evidence
from understudy.analysis.planning import plan
from understudy.analysis.shares import Tally
from understudy.analysis.verdicts import decide_verdict, replay_verdict, verdict_inputs
from understudy.core.policies import Policy, default_policy, parse_policy
from understudy.core.verdicts import Decision, Validity, Verdict

DEPLOY = parse_policy({"name": "deploy/v3", "guardrails": [{"metric": "error_rate"}]})
EXPERIMENT = parse_policy(
    {
        "kind": "experiment",
        "primary": {"metric": "conversion", "mde": 1.2},
        "guardrails": [{"metric": "error_rate"}],
        "minimum_requests": 100,
    }
)


def errors(
    control: int, treatment: int, requests: tuple[int, int] = (9000, 1000), pi: float = 0.1
) -> Evidence:
    counts = (Tally(1, pi, control, treatment, *requests),)
    return advance(DEPLOY, start_evidence(DEPLOY), Batch(1, rates={"error_rate": counts}))


def test_the_example_of_the_guide() -> None:
    validity = Validity(excluded_targeted=42, warmup_excluded_s=60, label_maturity=0.97)
    verdict = decide_verdict(DEPLOY, errors(91, 11), validity, requests_per_minute=600)
    told = verdict.to_json()
    assert told["verdict"] == "HOLD"
    assert told["decided_at"] is None
    assert told["policy"] == "deploy/v3"
    assert told["alpha"] == {"promote": 0.05, "rollback": 0.01}
    assert (
        told["reason"] == "error ratio 1.09, time-uniform 95% CS [0.378, 2.49]; shipping needs proof of < 2"
    )
    row = told["evidence"][0]
    assert row["metric"] == "error_rate"
    assert row["events"] == {"control": 91, "treatment": 11}
    assert row["stages"] == [{"pi": 0.1, "requests": 10000}]
    assert (round(row["E_harm"], 2), row["needs_harm"]) == (0.04, 100)
    assert (round(row["E_noninf"], 1), row["needs_noninf"]) == (4.4, 20)
    assert {"srm_E", "label_maturity", "excluded_targeted", "warmup_excluded_s"} <= set(told["validity"])
    assert told["would_change"] == {
        "rollback": "15 more canary errors with none in control",
        "ship": "about 8,400 more requests at the current rates (14 min at 600/min)",
        "maybe_never": "a true ratio of errors between 1.1 and 2 may stay undecided",
    }
    assert told["replay"].startswith("verdict replay ")
    json.dumps(told, allow_nan=False)


def test_what_would_change_it_does() -> None:
    for more, expected in ((14, Decision.HOLD), (15, Decision.ROLLBACK)):
        assert decide_verdict(DEPLOY, errors(91, 11 + more, (9000, 1000 + more))).decision is expected
    for part, expected in ((1.8, Decision.HOLD), (1.86, Decision.PROMOTE)):
        scaled = errors(round(91 * part), round(11 * part), (round(9000 * part), round(1000 * part)))
        assert decide_verdict(DEPLOY, scaled).decision is expected


def test_a_bad_canary_is_rolled_back_and_the_metric_says_so() -> None:
    verdict = decide_verdict(DEPLOY, errors(0, 6, (90, 12)), decided_at="2026-01-01T00:00:00Z")
    assert verdict.decision is Decision.ROLLBACK
    assert verdict.harm_log10 >= 2.0
    assert verdict.decided_at == "2026-01-01T00:00:00Z"
    assert decide_verdict(DEPLOY, errors(0, 1, (90, 12))).harm_log10 < 2.0


def test_two_guardrails_need_twice_the_evidence() -> None:
    policy = default_policy()
    evidence = start_evidence(policy)
    for events in range(12):
        counts = (Tally(1, 0.1, 0, 1, 0, 1),)
        evidence = advance(policy, evidence, Batch(events, rates={"error_rate": counts}))
        verdict = decide_verdict(policy, evidence)
        assert (verdict.harm_log10 >= 2.0) == (verdict.evidence[0]["max_E_harm"] >= 200)


def experiment(
    control: int, treatment: int, requests: int = 20_000, bad: tuple[int, int] = (200, 200)
) -> Evidence:
    """Ten batches, so that the expected rate is known when most requests are bet on."""
    evidence = start_evidence(EXPERIMENT)
    for at in range(10):
        evidence = advance(
            EXPERIMENT,
            evidence,
            Batch(
                at,
                rates={
                    "conversion": (
                        Tally(1, 0.5, control // 10, treatment // 10, requests // 10, requests // 10),
                    ),
                    "error_rate": (
                        Tally(1, 0.5, bad[0] // 10, bad[1] // 10, requests // 10, requests // 10),
                    ),
                },
            ),
        )
    return evidence


def test_the_decisions_of_an_experiment() -> None:
    assert decide_verdict(EXPERIMENT, experiment(2000, 2400)).decision is Decision.PROMOTE
    assert decide_verdict(EXPERIMENT, experiment(2000, 1990)).decision is Decision.KEEP
    assert decide_verdict(EXPERIMENT, experiment(200, 220, 2_000, (20, 20))).decision is Decision.HOLD
    assert decide_verdict(EXPERIMENT, experiment(2000, 2400, bad=(200, 600))).decision is Decision.ROLLBACK
    held = decide_verdict(EXPERIMENT, experiment(2000, 2400, bad=(10, 10)))
    assert held.decision is Decision.HOLD and "shipping needs proof" in held.reason


def test_a_rope_keeps_what_is_too_small_to_matter() -> None:
    policy = parse_policy(
        {
            "kind": "experiment",
            "primary": {"metric": "conversion", "mde": 1.01, "rope": 1.2},
            "guardrails": [{"metric": "error_rate"}],
        }
    )
    counts = (Tally(1, 0.5, 4000, 4010, 40_000, 40_000),)
    evidence = advance(policy, start_evidence(policy), Batch(1, rates={"conversion": counts}))
    verdict = decide_verdict(policy, evidence)
    assert verdict.decision is Decision.KEEP and "too small to matter" in verdict.reason


@pytest.mark.parametrize(
    "validity",
    [Validity(config_changes=1), Validity(unlogged=3), Validity(immature_counted=1)],
)
def test_what_is_not_valid_is_not_promoted(validity: Validity) -> None:
    evidence = errors(910, 100, (90_000, 10_000))
    assert decide_verdict(DEPLOY, evidence).decision is Decision.PROMOTE
    assert decide_verdict(DEPLOY, evidence, validity).decision is Decision.INVALID


def test_requests_of_users_who_keep_their_variant_hold() -> None:
    verdict = decide_verdict(DEPLOY, errors(910, 100, (90_000, 10_000)), Validity(repeated_units=True))
    assert verdict.decision is Decision.HOLD and "independent" in verdict.reason


def test_targeted_requests_do_not_count_and_are_told() -> None:
    verdict = decide_verdict(DEPLOY, errors(9, 1, (900, 100)), Validity(excluded_targeted=5000))
    assert verdict.decision is Decision.HOLD
    assert verdict.validity["excluded_targeted"] == 5000


def test_one_arms_failures_unlogged() -> None:
    """A tenth of the canary's requests fail, and none of those was recorded."""
    evidence = errors(900, 0, (90_000, 9_000))
    verdict = decide_verdict(DEPLOY, evidence)
    assert verdict.decision is Decision.INVALID and "sample ratio" in verdict.reason


def test_labels_that_come_faster_in_one_arm() -> None:
    policy = parse_policy({"guardrails": [{"metric": "accuracy"}]})
    labelled = (Tally(1, 0.5, 0, 0, 2000, 3000),)
    quality = Difference(5000, 0.02, 0.001, 500, 0.90, 0.92, labelled)
    evidence = advance(policy, start_evidence(policy), Batch(1, qualities={"accuracy": quality}))
    assert decide_verdict(policy, evidence).decision is Decision.INVALID
    equal = Difference(5000, 0.02, 0.001, 500, 0.90, 0.92, (Tally(1, 0.5, 0, 0, 2510, 2490),))
    evidence = advance(policy, start_evidence(policy), Batch(1, qualities={"accuracy": equal}))
    assert decide_verdict(policy, evidence).decision is Decision.PROMOTE


def test_three_requests_a_minute_hold() -> None:
    """An hour at 60 requests/min and 5 %: nobody can know."""
    dice = random.Random(2)
    evidence = start_evidence(DEPLOY)
    for minute in range(60):
        control = sum(dice.random() < 0.01 for _ in range(57))
        treatment = sum(dice.random() < 0.01 for _ in range(3))
        counts = (Tally(1, 0.05, control, treatment, 57, 3),)
        evidence = advance(DEPLOY, evidence, Batch(minute, rates={"error_rate": counts}))
        verdict = decide_verdict(DEPLOY, evidence, requests_per_minute=60)
        assert verdict.decision is Decision.HOLD
    assert "more requests" in verdict.would_change["ship"]


def test_no_errors_at_all() -> None:
    verdict = decide_verdict(DEPLOY, errors(0, 0))
    assert verdict.decision is Decision.HOLD and "acceptable_rate" in verdict.would_change["ship"]
    policy = parse_policy({"guardrails": [{"metric": "error_rate", "acceptable_rate": 0.001}]})
    counts = (Tally(1, 0.1, 0, 0, 72_000, 8_000),)
    evidence = advance(policy, start_evidence(policy), Batch(1, rates={"error_rate": counts}))
    assert decide_verdict(policy, evidence).decision is Decision.PROMOTE


def test_what_was_proven_once_and_turned_is_not_promoted() -> None:
    policy = parse_policy({"guardrails": [{"metric": "error_rate", "tolerance": 1.9}]})
    early = Batch(1, rates={"error_rate": (Tally(1, 0.1, 400, 30, 36_000, 4_000),)})
    evidence = advance(policy, start_evidence(policy), early)
    assert decide_verdict(policy, evidence).decision is Decision.PROMOTE
    later = Batch(2, rates={"error_rate": (Tally(1, 0.1, 40, 75, 3_600, 400),)})
    verdict = decide_verdict(policy, advance(policy, evidence, later))
    assert verdict.decision is Decision.HOLD and "speaks against it" in verdict.reason


def test_nothing_is_known_at_the_start() -> None:
    for policy in (default_policy("deploy"), default_policy("experiment"), DEPLOY):
        verdict = decide_verdict(policy, start_evidence(policy))
        assert verdict.decision is Decision.HOLD
        json.dumps(verdict.to_json(), allow_nan=False)


def test_evidence_of_another_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="not collected for"):
        decide_verdict(default_policy(), errors(1, 1))


@pytest.mark.parametrize("seed", range(5))
def test_a_replay_is_the_same_to_the_bit(seed: int) -> None:
    dice = random.Random(seed)
    policy = parse_policy(
        {
            "kind": "experiment",
            "primary": {"metric": "basket", "measure": "mean", "clip": 9.0, "mde": 0.2, "margin": 0.2},
            "guardrails": [{"metric": "conversion"}, {"metric": "error_rate"}, {"metric": "log_loss"}],
        }
    )
    evidence = start_evidence(policy)
    for at in range(30):
        counts = (Tally(1, 0.37, dice.randrange(5), dice.randrange(5), 50, 50),)
        evidence = advance(
            policy,
            evidence,
            Batch(
                at,
                rates={"conversion": counts, "error_rate": counts},
                units={"basket": [Unit(0.5, dice.random() < 0.5, dice.gauss(3, 1)) for _ in range(9)]},
                qualities={"log_loss": Difference(300, dice.gauss(0, 0.1), 0.05, 30)},
            ),
        )
    validity = Validity(label_maturity=0.5)
    verdict = decide_verdict(policy, evidence, validity, decided_at="x", requests_per_minute=77.7)
    stored = json.loads(json.dumps(verdict_inputs(policy, evidence, validity, "x", 77.7)))
    again = replay_verdict(stored)
    assert again == verdict
    assert json.dumps(again.to_json()) == json.dumps(verdict.to_json())
    other = decide_verdict(
        policy, evidence, Validity(label_maturity=0.6), decided_at="x", requests_per_minute=77.7
    )
    assert other.replay != verdict.replay


def test_what_is_stored_today_is_decided_the_same_tomorrow() -> None:
    """A release that renders inputs otherwise gives every verdict kept before another id."""
    latency = {"metric": "latency_p99", "threshold_us": 1000}
    rules = [{"metric": "error_rate", "acceptable_rate": 0.001}, latency]
    policy = parse_policy({"kind": "deploy", "guardrails": rules})
    evidence = start_evidence(policy, "x", {"latency_p99": [1000.0]})
    counts = (Tally(1, 0.1, 9, 3, 900, 100),)
    first = Batch(
        1,
        "x",
        rates={"error_rate": counts},
        latencies={"latency_p99": (counts,)},
        checks={"assigned": (Tally(1, 0.1, 0, 0, 900, 100),)},
    )
    evidence = advance(policy, evidence, first)
    evidence = advance(
        policy, evidence, Batch(2, "x", rates={"error_rate": (Tally(2, 0.5, 9, 3, 400, 410),)})
    )
    validity = Validity(excluded_targeted=4, label_maturity=0.5)
    verdict = decide_verdict(policy, evidence, validity, requests_per_minute=60.0)
    assert verdict.replay == "1ea602788228f6173cf6"


def opinions(verdict: Verdict) -> Mapping[str, Any]:
    found: Mapping[str, Any] = verdict.side_by_side["error_rate"]
    return found


def test_what_others_would_have_said() -> None:
    worse = opinions(decide_verdict(DEPLOY, errors(100, 25)))
    assert worse["z_test"]["says"] == "worse"
    assert worse["sequential_test"]["says"] == "nothing"
    assert worse["cloudwatch_threshold"] == {"Average >= 0.05": "nothing", "Average >= 1": "nothing"}
    better = opinions(decide_verdict(DEPLOY, errors(9000, 100, (90_000, 10_000))))
    assert (better["z_test"]["says"], better["sequential_test"]["says"]) == ("better", "better")
    dead = opinions(decide_verdict(DEPLOY, errors(90, 1000)))
    assert dead["cloudwatch_threshold"]["Average >= 1"] == "worse"


@pytest.mark.parametrize(
    ("margin", "share", "measured"),
    [(3.0, 0.1, 3_955), (2.0, 0.1, 10_414), (1.5, 0.1, 33_374), (3.0, 0.5, 2_010), (1.5, 0.5, 13_506)],
)
def test_a_plan_is_about_what_simulations_measured(margin: float, share: float, measured: int) -> None:
    policy = parse_policy({"guardrails": [{"metric": "error_rate", "margin": margin}]})
    ship = plan(policy, {"error_rate": 0.01}, 600, share).needs[0]
    assert ship.requests == pytest.approx(measured, rel=0.2)
    assert ship.requests_p80 is not None and ship.requests is not None and ship.requests_p80 > ship.requests
    assert ship.minutes == pytest.approx(ship.requests / 600, abs=0.1)


def test_a_plan_names_what_is_wrong() -> None:
    for rates, traffic, share, key in (
        ({"error_rate": 2.0}, 600.0, 0.1, "rates.error_rate"),
        ({}, 0.0, 0.1, "requests_per_minute"),
        ({}, 600.0, 1.0, "share"),
    ):
        with pytest.raises(ValueError, match=key):
            plan(DEPLOY, rates, traffic, share)
    never = plan(DEPLOY, {"error_rate": 0.0}, 600, 0.1).needs[0]
    assert never.requests is None and never.minutes is None


def horizon_policy() -> Policy:
    return parse_policy(
        {
            "kind": "experiment",
            "primary": {"metric": "conversion", "mde": 1.1},
            "guardrails": [{"metric": "error_rate"}],
            "mode": "horizon",
            "horizon_requests": 20_000,
        }
    )


def test_a_declared_horizon_looks_at_planned_times_only() -> None:
    policy = horizon_policy()
    evidence = start_evidence(policy)
    fine = (Tally(1, 0.5, 50, 50, 500, 500),)
    for at in range(25):
        conversions = (Tally(1, 0.5, 50, 58, 500, 500),)
        evidence = advance(policy, evidence, Batch(at, rates={"conversion": conversions, "error_rate": fine}))
    looks = evidence.metrics[0].looks
    assert [look.fraction for look in looks] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert decide_verdict(policy, evidence).decision is Decision.PROMOTE
