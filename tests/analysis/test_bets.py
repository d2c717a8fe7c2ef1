"""The linear bet: fairness by enumeration, what a covariate saves, state that round-trips."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest

from understudy.analysis.bets import Bankroll, Unit, after_units

NULLS, SIGNS = (0.0, 0.0, 0.5, -0.5), (1.0, -1.0, 1.0, 1.0)


def start(clip: float = 4.0, mde: float = 0.5) -> Bankroll:
    return Bankroll.start(NULLS, SIGNS, clip=clip, mde=mde)


def test_without_an_effect_the_expected_wealth_is_one() -> None:
    """Every outcome of four units with values 0 or 3, assigned at 30 %."""
    totals = [0.0] * 4
    for outcome in itertools.product(itertools.product((False, True), (0.0, 3.0)), repeat=4):
        chance = 1.0
        units = []
        for treated, value in outcome:
            chance *= (0.3 if treated else 0.7) * (0.4 if value else 0.6)
            units.append(Unit(0.3, treated, value))
        bankroll = after_units(start(), units)
        for question in range(4):
            totals[question] += chance * math.exp(bankroll.log_evidence(question))
    assert totals[0] == pytest.approx(1.0, abs=1e-12)
    assert totals[1] == pytest.approx(1.0, abs=1e-12)
    assert totals[2] < 1.0 < totals[3]  # "larger by a half" is false, "not smaller by a half" is true


def test_an_effect_at_the_border_of_a_null_is_fair_too() -> None:
    total = 0.0
    for outcome in itertools.product(itertools.product((False, True), (0.0, 1.0)), repeat=4):
        chance, units = 1.0, []
        for treated, value in outcome:
            rate = 0.7 if treated else 0.2
            chance *= 0.5 * (rate if value else 1 - rate)
            units.append(Unit(0.5, treated, value))
        total += chance * math.exp(after_units(start(clip=2.0), units).log_evidence(2))
    assert total == pytest.approx(1.0, abs=1e-12)


def users(dice: random.Random, count: int, effect: float = 0.0, covariate: bool = False) -> list[Unit]:
    found = []
    for _ in range(count):
        before = dice.gauss(0.0, 1.0)
        treated = dice.random() < 0.5
        value = 2.0 * before + dice.gauss(0.0, 1.0) + effect * treated
        found.append(Unit(0.5, treated, value, covariate=before if covariate else None))
    return found


def test_a_covariate_from_before_takes_variance_away() -> None:
    plain = after_units(start(clip=8.0), users(random.Random(5), 2000, effect=0.3))
    helped = after_units(start(clip=8.0), users(random.Random(5), 2000, effect=0.3, covariate=True))
    assert plain.standard_error is not None and helped.standard_error is not None
    assert helped.standard_error < 0.6 * plain.standard_error
    assert helped.log_evidence(0) > math.log(20) > plain.log_evidence(1)
    assert helped.effect == pytest.approx(0.3, abs=3 * helped.standard_error)


def test_ratio_metrics_are_centred_by_their_denominator() -> None:
    dice = random.Random(6)
    units = []
    for _ in range(1500):
        requests = dice.choice([1, 1, 1, 50])
        units.append(Unit(0.5, dice.random() < 0.5, 0.1 * requests + dice.gauss(0, 0.2), float(requests)))
    by_ratio = after_units(start(), units)
    by_mean = after_units(start(), [Unit(one.pi, one.treated, one.value) for one in units])
    assert by_ratio.standard_error is not None and by_mean.standard_error is not None
    assert by_ratio.standard_error < by_mean.standard_error / 3


def test_clipped_scores_are_counted() -> None:
    bankroll = after_units(start(clip=1.0), [Unit(0.5, True, 100.0), Unit(0.5, False, 0.0)])
    assert bankroll.clipped == 2
    assert (bankroll.control_units, bankroll.treatment_units) == (1, 1)


def test_the_state_survives_json_and_batches_do_not_matter() -> None:
    units = users(random.Random(7), 200)
    whole = after_units(start(), units)
    parts = after_units(after_units(start(), units[:70]), units[70:])
    assert whole == parts == Bankroll.from_json(json.loads(json.dumps(whole.to_json())))


def test_bets_on_different_units_merge() -> None:
    units = users(random.Random(8), 200)
    left, right = after_units(start(), units[:100]), after_units(start(), units[100:])
    assert (left + right).log_evidence(0) <= left.log_evidence(0) + right.log_evidence(0) + 3.0
    assert (left + right).units == 200
    with pytest.raises(ValueError, match="different questions"):
        left + start(clip=5.0)


@pytest.mark.parametrize("unit", [Unit(0.0, True, 1.0), Unit(1.0, True, 1.0), Unit(0.5, True, math.inf)])
def test_what_is_no_unit_is_refused(unit: Unit) -> None:
    with pytest.raises(ValueError, match="unit's"):
        after_units(start(), [unit])


def test_an_absurd_value_neither_breaks_nor_rules_what_comes_after() -> None:
    dice = random.Random(1000)
    plain = users(dice, 3_000, effect=0.8)
    for absurd in (1e308, -1e308):
        hit = [*plain[:50], Unit(0.5, True, absurd), Unit(0.5, False, absurd), *plain[50:]]
        bankroll = after_units(start(), hit)
        assert bankroll.log_evidence(0) > math.log(20)
        assert Bankroll.from_json(json.loads(json.dumps(bankroll.to_json(), allow_nan=False))) == bankroll
