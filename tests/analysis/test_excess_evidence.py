"""The e-value: its expectation by enumeration, its promise by simulation."""

from __future__ import annotations

import math
import random

import pytest

from understudy.analysis.shares import excess_evidence


@pytest.mark.parametrize("share", [0.5, 0.1, 0.9])
@pytest.mark.parametrize("events", [1, 10, 200])
def test_its_expectation_is_one_when_nothing_is_more_frequent(share: float, events: int) -> None:
    expectation = sum(
        math.comb(events, count)
        * share**count
        * (1 - share) ** (events - count)
        * math.exp(excess_evidence(count, events - count, share))
        for count in range(events + 1)
    )
    assert expectation == pytest.approx(1.0, abs=1e-9)


def test_for_independent_chances_its_expectation_is_at_most_one() -> None:
    """Given the events of both sets, the candidate's are hypergeometric: checked by enumeration."""
    chances, control_chances = 60, 240
    share = chances / (chances + control_chances)
    for events in (5, 60, 150, 290):
        expectation = sum(
            math.comb(chances, count)
            * math.comb(control_chances, events - count)
            / math.comb(chances + control_chances, events)
            * math.exp(excess_evidence(count, events - count, share))
            for count in range(max(0, events - control_chances), min(chances, events) + 1)
        )
        assert expectation <= 1.0 + 1e-9


def test_looking_after_every_pair_names_too_often_at_most_alpha_times() -> None:
    dice = random.Random(4)
    wrong = 0
    for _ in range(1000):
        ups = downs = 0
        for _ in range(300):
            if dice.random() < 0.5:
                ups += 1
            else:
                downs += 1
            if excess_evidence(ups, downs) >= math.log(20):
                wrong += 1
                break
    assert wrong <= 76  # binomial(1000, 0.05): above with p < 2e-4


def test_it_finds_what_is_there() -> None:
    assert excess_evidence(15, 0) > math.log(20)
    assert excess_evidence(600, 400) > math.log(20)
    assert excess_evidence(0, 1000) < 0.0
    assert math.isfinite(excess_evidence(10**7, 10**7))
