"""Several hypotheses, several variants, planned looks, traffic of a bandit."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from understudy.analysis.allocation import probabilities_of_best, top_two_shares
from understudy.analysis.horizon import boundary, crossed, looks_after
from understudy.analysis.shares import Tally
from understudy.analysis.winners import best_arm, e_benjamini_hochberg


@pytest.mark.parametrize(
    ("looks", "alpha", "constant"),
    [(1, 0.025, 1.960), (2, 0.025, 1.977), (5, 0.025, 2.040), (10, 0.025, 2.087), (5, 0.05, 1.751)],
)
def test_published_boundaries(looks: int, alpha: float, constant: float) -> None:
    """Jennison and Turnbull 2000, table 2.3."""
    assert boundary(looks, alpha) == pytest.approx(constant, abs=2e-3)


def test_planned_looks_keep_their_level_and_their_power() -> None:
    dice = np.random.default_rng(1)
    horizon = 50 * (round(1.05 * 23_236) // 50)
    for rate, low, high in ((0.10, 0.0, 0.075), (0.11, 0.77, 1.0)):
        promoted = 0
        for _ in range(600):
            steps = dice.multinomial(horizon // 50, [0.45, 0.05, 0.5 * (1 - rate), 0.5 * rate], 50)
            # Control converts 10 %; bad things are what is not converted more often, so arms are exchanged.
            c, n_c, t, n_t = (
                np.cumsum(some)
                for some in (steps[:, 1], steps[:, 0] + steps[:, 1], steps[:, 3], steps[:, 2] + steps[:, 3])
            )
            looks = ()
            for at in range(50):
                tally = Tally(1, 0.5, int(t[at]), int(c[at]), int(n_t[at]), int(n_c[at]))
                looks = looks_after(looks, (tally,), horizon, 5)
            promoted += crossed(looks, 5, 0.05)
        assert low <= promoted / 600 <= high


def test_the_best_arm_is_named_and_hardly_ever_a_wrong_one() -> None:
    dice = random.Random(3)
    weights = {"a": 3.0, "b": 1.0, "c": 1.0}
    equal = {name: (weight, 0) for name, weight in weights.items()}
    wrong = 0
    for _ in range(200):
        won = dict.fromkeys(weights, 0)
        for at in range(600):
            won[dice.choices(list(weights), list(weights.values()))[0]] += 1
            if at % 20 == 19:
                winner, _ = best_arm([{name: (weights[name], won[name]) for name in won}], mde=1.3)
                if winner is not None:
                    wrong += 1
                    break
    assert wrong <= 20  # binomial(200, 0.05): above with p < 2e-3
    assert best_arm([{**equal, "b": (1.0, 400), "a": (3.0, 800), "c": (1.0, 250)}])[0] == "b"
    assert best_arm([equal])[0] is None
    assert best_arm([{"a": (1.0, 1000)}])[0] is None


def test_the_best_arm_through_changing_weights() -> None:
    stages = [{"a": (9.0, 900), "b": (1.0, 130)}, {"a": (1.0, 100), "b": (9.0, 1170)}]
    winner, least = best_arm(stages)
    assert winner == "b" and least["a"] < 0.0


@given(st.lists(st.floats(-5.0, 20.0), max_size=12))
def test_e_bh_rejects_the_largest_and_more_with_a_larger_alpha(logs: list[float]) -> None:
    strict, loose = e_benjamini_hochberg(logs, 0.01), e_benjamini_hochberg(logs, 0.2)
    assert all(two for one, two in zip(strict, loose, strict=True) if one)
    kept = [log for log, rejected in zip(logs, loose, strict=True) if not rejected]
    assert all(
        log >= max(kept, default=-math.inf) for log, rejected in zip(logs, loose, strict=True) if rejected
    )
    bonferroni = [log >= math.log(len(logs) / 0.2) for log in logs]
    assert all(two for one, two in zip(bonferroni, loose, strict=True) if one)


def test_the_chance_of_being_best_is_the_integral() -> None:
    successes, trials = (30, 45, 10), (200, 260, 40)
    draws = np.random.default_rng(1)
    samples = np.stack(
        [draws.beta(s + 1, n - s + 1, 200_000) for s, n in zip(successes, trials, strict=True)]
    )
    sampled = np.bincount(samples.argmax(axis=0), minlength=3) / 200_000
    assert probabilities_of_best(successes, trials) == pytest.approx(tuple(sampled), abs=0.005)
    two = probabilities_of_best((5, 9), (20, 30))
    x = np.linspace(0, 1, 20_001)[1:-1]
    exact = np.trapezoid(stats.beta.pdf(x, 6, 16) * stats.beta.cdf(x, 10, 22), x)
    assert two[0] == pytest.approx(float(exact), abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=6))
def test_shares_add_up_and_keep_the_floor(some: list[tuple[int, int]]) -> None:
    successes, trials = [won for won, _ in some], [won + lost for won, lost in some]
    shares = top_two_shares(successes, trials)
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) >= min(0.10, 0.5 / len(some)) - 1e-12


def test_losers_get_the_floor_and_the_two_best_the_rest() -> None:
    shares = top_two_shares([1000, 1100, 500, 500, 500], [10_000] * 5)
    assert shares[2:] == pytest.approx((0.1, 0.1, 0.1), abs=1e-6)
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    certain = top_two_shares([0, 100_000, 0], [100_000, 100_000, 100_000])
    assert sum(certain) == pytest.approx(1.0) and certain[1] == max(certain)


@pytest.mark.parametrize(
    ("successes", "trials"), [([1], [2]), ([3, 1], [2, 2]), ([1, 1], [2, 2, 2]), ([0] * 11, [1] * 11)]
)
def test_what_is_no_bandit_is_refused(successes: list[int], trials: list[int]) -> None:
    with pytest.raises(ValueError, match=r"variants|between"):
        top_two_shares(successes, trials)
