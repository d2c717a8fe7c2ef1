"""The share e-process: expectations by enumeration, coverage by simulation, counts that merge."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.analysis.shares import (
    Bets,
    Tally,
    bets_above,
    bets_below,
    bets_both,
    bets_within,
    estimate_ratio,
    log_evidence,
    log_rate_below,
    log_without_event,
    ratio_interval,
    swapped,
    tallies_from_json,
    tallies_of,
)

BETS = {
    "above 1": bets_above(1.0, 2.0),
    "above 1, close": bets_above(1.0, 1.5, close=True),
    "above 1.1": bets_above(1.1, 3.0),
    "below 1": bets_below(1.0, 1.1),
    "within 2": bets_within(2.0),
    "no gain": bets_above(1 / 1.1, 1.1),
    "both": bets_both((0.02, 0.1, 0.4)),
}


@pytest.mark.parametrize("bets", BETS.values(), ids=BETS)
def test_the_expectation_is_one_at_the_border_of_the_null_through_a_ramp(bets: Bets) -> None:
    """Every outcome of 12 events at a share of 5 % and 9 at 40 %."""
    stages = ((0.05, 12), (0.4, 9))
    total = 0.0
    for seen in itertools.product(*(range(events + 1) for _, events in stages)):
        chance = 1.0
        tallies = []
        for at, ((pi, events), treated) in enumerate(zip(stages, seen, strict=True)):
            p = pi * bets.null / (1 - pi + pi * bets.null)
            chance *= math.comb(events, treated) * p**treated * (1 - p) ** (events - treated)
            tallies.append(Tally(at, pi, events - treated, treated))
        total += chance * math.exp(log_evidence(tallies, bets))
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("bets", [bets_above(1.0, 1.2), bets_below(1.0, 1.2)])
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.3, 0.3), (0.02, 0.02), (0.2, 0.1), (0.1, 0.2)])
@pytest.mark.parametrize("expected", [0.01, 0.1, 0.6])
def test_bets_on_every_request_are_fair_whatever_rate_was_expected(
    bets: Bets, rates: tuple[float, float], expected: float
) -> None:
    """The expected factor of one request: 1 for equal rates, below 1 on the null's side."""
    pi = 0.3
    for at, ratio in enumerate(bets.ratios):
        factor = 0.0
        for treated, event in itertools.product((0, 1), repeat=2):
            rate = rates[treated]
            chance = (pi if treated else 1 - pi) * (rate if event else 1 - rate)
            tally = Tally(1, pi, event * (1 - treated), event * treated, 1 - treated, treated)
            alone = Bets(1.0, (ratio,), (1.0,))
            won = log_without_event([tally], bets, expected)[at]
            factor += chance * math.exp(log_evidence([tally], alone) + won)
        gain = (rates[1] - rates[0]) * (1 if ratio > 1 else -1)
        assert factor == pytest.approx(1.0, abs=1e-12) if gain == 0 else (factor - 1) * gain > 0


def test_requests_without_an_event_can_be_bet_on_against_one_only() -> None:
    with pytest.raises(ValueError, match="against a ratio of 1"):
        log_without_event([Tally(1, 0.5, 0, 0, 1, 1)], bets_above(1.1, 2.0), 0.1)


@pytest.mark.parametrize("rate", [0.001, 0.002, 0.0011])
def test_a_rate_above_the_limit_is_hardly_ever_proven_below(rate: float) -> None:
    expectation = sum(
        math.comb(40, events)
        * rate**events
        * (1 - rate) ** (40 - events)
        * math.exp(log_rate_below([Tally(1, 0.5, 0, events, 0, 40)], 0.001))
        for events in range(41)
    )
    assert expectation <= 1.0 + 1e-9
    assert rate > 0.001 or expectation == pytest.approx(1.0, abs=1e-9)


def test_published_values() -> None:
    """Zero control events, MDE 3: what 3, 4 and 5 canary errors weigh at 5, 10 and 20 %."""
    for pi, events, expected in ((0.05, 3, 280), (0.1, 4, 488), (0.2, 5, 252)):
        evidence = math.exp(log_evidence([Tally(1, pi, 0, events)], bets_above(1.0, 3.0)))
        assert round(evidence) == expected
    counts = [Tally(1, 0.1, 91, 11)]
    assert round(math.exp(log_evidence(counts, bets_above(1.1, 3.0))), 2) == 0.04
    assert round(math.exp(log_evidence(counts, bets_within(2.0))), 1) == 4.4
    assert [round(one, 2) for one in ratio_interval(counts)] == [0.38, 2.49]
    assert estimate_ratio(counts) == pytest.approx(99 / 91)


def test_the_interval_covers_at_every_look_through_a_ramp() -> None:
    dice = random.Random(11)
    missed = 0
    for _ in range(300):
        counts = {pi: [0, 0] for pi in (0.05, 0.25, 0.5)}
        for at in range(150):
            pi = (0.05, 0.25, 0.5)[at // 50]
            counts[pi][dice.random() < pi * 1.5 / (1 - pi + pi * 1.5)] += 1
            if at % 5 == 4:
                tallies = [Tally(round(pi * 100), pi, c, t) for pi, (c, t) in counts.items()]
                low, high = ratio_interval(tallies)
                if not low <= 1.5 <= high:
                    missed += 1
                    break
    assert missed <= 28  # binomial(300, 0.05): above with p < 1e-3


def test_an_interval_without_events_in_one_arm_is_open() -> None:
    low, high = ratio_interval([Tally(1, 0.5, 0, 30)])
    assert low > 1.0 and high == math.inf
    assert estimate_ratio([Tally(1, 0.5, 0, 30)]) is None
    low, high = ratio_interval([Tally(1, 0.5, 30, 0)])
    assert low == 0.0 and high < 1.0


tallies = st.builds(
    lambda stage, c, t, more: Tally(stage, (0.05, 0.1, 0.5)[stage], c, t, c + more, t + more),
    st.integers(0, 2),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 50),
)


@given(st.lists(tallies), st.randoms())
def test_counts_merge_in_any_order_to_the_same_bits(some: list[Tally], dice: random.Random) -> None:
    shuffled = list(some)
    dice.shuffle(shuffled)
    cut = len(some) // 2
    merged = tallies_of(some)
    assert merged == tallies_of(shuffled) == tallies_of((*tallies_of(some[:cut]), *tallies_of(some[cut:])))
    assert merged == tallies_from_json([one.to_json() for one in merged])
    for bets in BETS.values():
        assert log_evidence(merged, bets) == log_evidence(tallies_of(shuffled), bets)


@given(st.lists(tallies))
def test_exchanging_the_arms_inverts_the_ratio(some: list[Tally]) -> None:
    merged = tallies_of(some)
    above = log_evidence(merged, bets_above(1.0, 2.0))
    assert log_evidence(swapped(merged), bets_below(1.0, 2.0)) == pytest.approx(above, abs=1e-9)


@pytest.mark.parametrize(
    "wrong", [(1, 0.0), (1, 1.0), (1, math.nan), (1, 0.5, -1), (1, 0.5, 1.5), (1, 0.5, True)]
)
def test_counts_that_are_none_are_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a stage's"):
        Tally(*wrong)  # type: ignore[arg-type]


def test_a_stage_has_one_share() -> None:
    with pytest.raises(ValueError, match="two shares"):
        tallies_of([Tally(1, 0.5), Tally(1, 0.4)])
