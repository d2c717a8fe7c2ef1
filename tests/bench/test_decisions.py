"""The decision bench at a modest size, and its arrays held to the product's own numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bench.decisions import rivals
from bench.decisions.engines import bet_evidence, share_evidence
from bench.decisions.scenarios import (
    canary_counts,
    detection,
    diffy,
    false_promotion,
    null_families,
    oracle_for_p99,
    paired,
    paired_null,
    rollback,
    sample_ratio,
    slower,
    three_way,
)
from bench.decisions.streams import bernoulli, drifting, ramped

from understudy.analysis.asymptotic import difference_interval
from understudy.analysis.bets import Bankroll, Unit, after_units
from understudy.analysis.evidence import Batch, Question, advance, start_evidence
from understudy.analysis.shares import Tally, bets_above
from understudy.core.policies import parse_policy

STREAMS = 250


def within(alpha: float, streams: int = STREAMS) -> float:
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / streams)


def test_the_arrays_are_the_products_numbers() -> None:
    """An experiment on errors, a batch per request, through a ramp, betting on every request."""
    policy = parse_policy(
        {
            "kind": "experiment",
            "primary": {"metric": "conversion", "mde": 1.1},
            "guardrails": [{"metric": "error_rate"}],
        }
    )
    requests = bernoulli(np.random.default_rng(3), 1, drifting(400, "trend"), ramped(400), 1.3)
    # Successes are better: the product exchanges the arms and bets on fewer bad things, the bench on more.
    expected = share_evidence(
        requests.treated, requests.events, requests.pi, bets_above(1.0, 1.1), every_request=True
    )[0]
    evidence = start_evidence(policy)
    for at in range(400):
        treated, event = bool(requests.treated[0, at]), int(requests.events[0, at])
        tally = Tally(
            round(requests.pi[at] * 100),
            float(requests.pi[at]),
            event * (not treated),
            event * treated,
            int(not treated),
            int(treated),
        )
        evidence = advance(policy, evidence, Batch(at, rates={"conversion": (tally,)}))
        weight = evidence.metrics[0].weight(Question.SUPERIORITY)
        assert math.exp(weight.log_e) == pytest.approx(expected[at], rel=1e-9)


def test_the_arrays_are_the_products_bets() -> None:
    dice = np.random.default_rng(4)
    treated, values = dice.random((1, 300)) < 0.3, dice.lognormal(0, 1, (1, 300))
    pi = np.full(300, 0.3)
    expected = bet_evidence(treated, values, pi, clip=5.0, mde=0.2)[0]
    bankroll = Bankroll.start((0.0,), (1.0,), clip=5.0, mde=0.2)
    for at in range(300):
        bankroll = after_units(bankroll, [Unit(0.3, bool(treated[0, at]), float(values[0, at]))])
        assert math.exp(bankroll.log_evidence(0)) == pytest.approx(expected[at], rel=1e-9)


def test_the_formula_of_the_sequential_rival_is_ours_to_show() -> None:
    c, n_c, t, n_t = (np.array([[one]]) for one in (100, 1000, 160, 1000))
    assert rivals.growthbook_excludes_zero(c, n_c, t, n_t)[0, 0] == 1
    error = math.sqrt(0.1 * 0.9 / 1000 + 0.16 * 0.84 / 1000)
    assert difference_interval(0.06, error, 2000)[0] > 0.0


@pytest.mark.parametrize("name", null_families())
def test_what_is_no_better_is_hardly_ever_promoted(name: str) -> None:
    found = false_promotion(null_families(6_000)[name], STREAMS)
    assert found["Understudy"] <= within(0.05)


def test_peeking_and_ramps_mislead_the_others() -> None:
    found = false_promotion(null_families(6_000)["trend 8→12 %, ramp 5/10/25/50 %"], STREAMS)
    assert found["z-test, peeked"] > 0.3


@pytest.mark.parametrize(
    ("control", "ratio", "mde", "every_request", "streams", "bounds"),
    [
        (0.01, 2.0, 2.0, False, 600, (0.95, 1.8)),
        (0.10, 1.25, 1.25, True, 400, (0.95, 1.8)),
        (0.01, 4.0, 2.0, False, 600, (1.15, 2.1)),
    ],
)
def test_time_to_detect(
    control: float, ratio: float, mde: float, every_request: bool, streams: int, bounds: tuple[float, float]
) -> None:
    found = detection(control, ratio, mde, streams, every_request=every_request)
    assert found["median"] <= bounds[0]
    assert found["p80"] <= bounds[1]


def test_slower_answers() -> None:
    found = slower(150, 1.2, 4_000)
    assert np.median(np.where(found > 0, found, np.inf)) <= 0.9 * oracle_for_p99(1.2)
    assert (slower(150, 1.0, 6_000) > 0).mean() <= within(0.05, 150)


def test_shadow_tests_need_fewer_requests_and_labels() -> None:
    # 80 to 82 %: quick to draw.  The goal's own case, 90 to 91 %, is in the bench.
    found = paired(200, 0.80, 0.02, 0.05)
    assert found["fewer requests"] >= 10
    assert found["fewer labels"] >= 200
    assert paired_null(2_000, 400) <= within(0.05, 2_000)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("outage", [False, True])
def test_good_canaries_stay(share: float, outage: bool) -> None:
    counts = canary_counts(np.random.default_rng(5), 1_000, 600, share, 10, 1.0, outage=outage)
    assert (rollback(counts, share) > 0).mean() <= within(0.01, 1_000)


@pytest.mark.parametrize("guardrails", [1, 2])
def test_bad_canaries_go_at_once(guardrails: int) -> None:
    counts = canary_counts(np.random.default_rng(6), 1_000, 600, 0.1, 10, 20.0)
    at = rollback(counts, 0.1, needed=100.0 * guardrails)
    failed = np.cumsum(counts["treatment_errors"], axis=1)[np.arange(1_000), at - 1]
    assert (at > 0).all()
    assert np.median(at) <= 40
    assert np.median(failed) <= 6


def test_ship_or_hold() -> None:
    equal, twice = three_way(400, 1.0), three_way(400, 2.0)
    assert equal["ship"] >= 0.93 and equal["rollback"] <= within(0.01, 400)
    assert twice["ship"] <= within(0.05, 400)


def test_sample_ratio() -> None:
    assert (sample_ratio(400, 200_000, 0.5) > 0).sum() <= 3
    found = sample_ratio(200, 200_000, 0.51)
    assert np.median(np.where(found > 0, found, np.inf)) <= 50_000


def test_noisy_fields_are_not_named() -> None:
    found = diffy(300, 1_000, 50, 0.02, 0.0)
    assert found["Understudy names wrongly"] <= within(0.05, 300)
    assert found["Diffy names wrongly"] > 0.5
