"""Evidence: batches count once, in any cut; a redeploy begins anew; JSON loses nothing."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.analysis.asymptotic import Difference
from understudy.analysis.bets import Unit
from understudy.analysis.evidence import (
    Batch,
    Evidence,
    Question,
    advance,
    evidence_from_json,
    start_evidence,
    with_thresholds,
)
from understudy.analysis.latency import edge_of, latency_tallies, latency_thresholds, slower_than
from understudy.analysis.shares import Tally
from understudy.core.metrics import Summary
from understudy.core.policies import Policy, default_policy, known_rule, parse_policy

POLICY = parse_policy(
    {
        "kind": "experiment",
        "primary": {"metric": "conversion"},
        "guardrails": [
            {"metric": "error_rate"},
            {"metric": "latency_p99"},
            {"metric": "basket", "measure": "mean", "clip": 10.0, "mde": 0.5, "margin": 0.5},
            {"metric": "auc"},
            {"metric": "shadow_agreement"},
        ],
    }
)
LATENCIES = Summary.of([1000.0 + at for at in range(1000)])


def batch(sequence: int, dice: random.Random, identity: str = "a") -> Batch:
    def tally(rate: float) -> tuple[Tally, ...]:
        n = [dice.randrange(20) for _ in range(2)]
        c, t = (sum(dice.random() < rate for _ in range(one)) for one in n)
        return (Tally(sequence // 5, (0.1, 0.5)[sequence // 5 % 2], c, t, *n),)

    rule = known_rule("latency_p99")
    assert rule is not None
    thresholds = latency_thresholds(LATENCIES, rule)
    assert thresholds is not None
    answers = [Summary.of(dice.uniform(1000, 2100) for _ in range(5)) for _ in range(2)]
    return Batch(
        sequence,
        identity,
        rates={"conversion": tally(0.1), "error_rate": tally(0.01), "shadow_agreement": tally(0.05)},
        latencies={"latency_p99": latency_tallies(sequence // 5, 0.5, *answers, thresholds)},
        units={"basket": [Unit(0.5, dice.random() < 0.5, dice.gauss(5, 1)) for _ in range(5)]},
        qualities={"auc": Difference(300 + sequence, 0.01, 0.02, 40)},
        checks={"answered": tally(0.5)},
    )


def begun(policy: Policy = POLICY) -> Evidence:
    rule = known_rule("latency_p99")
    assert rule is not None
    thresholds = latency_thresholds(LATENCIES, rule)
    assert thresholds is not None
    return start_evidence(policy, "a", {"latency_p99": thresholds})


def test_what_is_stored_after_any_batch_goes_on_to_the_same_bits() -> None:
    """A crash between any two batches, and every batch since the start delivered again."""
    dice = random.Random(3)
    batches = [batch(at, dice) for at in range(15)]
    whole = begun()
    for one in batches:
        whole = advance(POLICY, whole, one)
    for crash in (1, 7, 14):
        part = begun()
        for one in batches[:crash]:
            part = advance(POLICY, part, one)
        part = evidence_from_json(json.loads(json.dumps(part.to_json())))
        for one in batches:
            part = advance(POLICY, part, one)
        assert part == whole


def test_the_largest_evidence_never_falls() -> None:
    dice = random.Random(4)
    evidence = begun()
    for at in range(20):
        after = advance(POLICY, evidence, batch(at, dice))
        for one, other in zip(evidence.metrics, after.metrics, strict=True):
            for question in Question:
                assert other.weight(question).max_log_e >= one.weight(question).max_log_e
                assert other.weight(question).max_log_e >= other.weight(question).log_e
        evidence = after


def test_another_identity_begins_anew() -> None:
    dice = random.Random(5)
    evidence = advance(POLICY, begun(), batch(1, dice))
    other = Batch(2, "b", rates={"error_rate": (Tally(1, 0.5, 1, 2, 10, 10),)})
    after = advance(POLICY, evidence, other)
    assert (after.restarts, after.identity) == (1, "b")
    found = after.metric("error_rate")
    assert found is not None and found.counts == (Tally(1, 0.5, 1, 2, 10, 10),)
    conversions = after.metric("conversion")
    assert conversions is not None and conversions.counts == ()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), st.integers(1, 7))
def test_rates_depend_on_the_counts_alone(requests: list[tuple[bool, bool]], size: int) -> None:
    """Batches of a request or of many: events alone give the same evidence, to the bit."""
    policy = default_policy()

    def tallies(some: list[tuple[bool, bool]]) -> tuple[Tally, ...]:
        c, t = (sum(event for treated, event in some if treated == arm) for arm in (False, True))
        n_t = sum(treated for treated, _ in some)
        return (Tally(1, 0.3, c, t, len(some) - n_t, n_t),)

    def run(step: int) -> list[float]:
        evidence = start_evidence(policy)
        for at in range(0, len(requests), step):
            evidence = advance(
                policy, evidence, Batch(at, rates={"error_rate": tallies(requests[at : at + step])})
            )
        return [weight.log_e for weight in evidence.metrics[0].weights]

    assert run(1) == run(size) == run(100)


def test_thresholds_are_fixed_once_and_before_use() -> None:
    policy = default_policy()
    evidence = start_evidence(policy)
    with pytest.raises(ValueError, match="no thresholds yet"):
        advance(policy, evidence, Batch(1, latencies={"latency_p99": ((),) * 6}))
    with pytest.raises(ValueError, match="6 thresholds, not 1"):
        with_thresholds(evidence, "latency_p99", (1.0,))
    with pytest.raises(ValueError, match="no latency"):
        with_thresholds(evidence, "error_rate", (1.0,))
    fixed = with_thresholds(evidence, "latency_p99", (1.0, 2.0, 3.0, 4.0, 5.0, 5.0))
    assert with_thresholds(fixed, "latency_p99", (1.0, 2.0, 3.0, 4.0, 5.0, 5.0)) == fixed
    with pytest.raises(ValueError, match="other thresholds"):
        with_thresholds(fixed, "latency_p99", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))


def test_a_metric_that_the_policy_does_not_have_is_refused() -> None:
    policy = default_policy()
    with pytest.raises(ValueError, match="basket is no metric"):
        advance(policy, start_evidence(policy), Batch(1, rates={"basket": ()}))


@given(st.lists(st.floats(0.1, 1e7), min_size=1, max_size=50), st.floats(0.1, 1e7))
def test_a_sketch_counts_exactly_what_is_above_an_edge(values: list[float], near: float) -> None:
    edge = edge_of(near)
    assert near * (1 - 1e-6) <= edge <= near * 1.0203
    assert edge_of(edge) == edge
    clear = [value for value in values if abs(value / edge - 1) > 1e-6]
    assert slower_than(Summary.of(clear), edge) == sum(value > edge for value in clear)


def test_few_answers_give_no_threshold_and_a_limit_needs_none() -> None:
    rule = known_rule("latency_p99")
    assert rule is not None
    assert latency_thresholds(Summary.of([1.0] * 400), rule) is None
    limited = parse_policy({"guardrails": [{"metric": "latency_p99", "threshold_us": 2000.0}]}).guardrails[0]
    assert latency_thresholds(Summary(), limited) == (edge_of(2000.0),)


def test_slow_answers_are_harm() -> None:
    policy = parse_policy({"guardrails": [{"metric": "latency_p99"}]})
    dice = random.Random(9)
    before = Summary.of(dice.lognormvariate(9, 0.5) for _ in range(5000))
    thresholds = latency_thresholds(before, policy.guardrails[0])
    assert thresholds is not None
    evidence = start_evidence(policy, thresholds_us={"latency_p99": thresholds})
    for at in range(20):
        control = Summary.of(dice.lognormvariate(9, 0.5) for _ in range(200))
        treatment = Summary.of(1.5 * dice.lognormvariate(9, 0.5) for _ in range(200))
        counts = latency_tallies(1, 0.5, control, treatment, thresholds)
        evidence = advance(policy, evidence, Batch(at, latencies={"latency_p99": counts}))
    assert evidence.metrics[0].weight(Question.HARM).max_log_e > math.log(100)
