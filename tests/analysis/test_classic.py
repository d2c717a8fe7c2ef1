"""Classic tests, tails and quality against SciPy and scikit-learn."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from understudy.analysis.asymptotic import log_evidence_of_z
from understudy.analysis.classic import chi_square, delong, mann_whitney, two_proportions, welch
from understudy.analysis.distributions import chi_square_above, incomplete_beta, student_two_sided
from understudy.analysis.influence import METRICS, Answers, difference_of_quality, influence_of
from understudy.analysis.second_opinions import two_proportions_p


@pytest.mark.parametrize("seed", range(5))
def test_welch(seed: int) -> None:
    dice = np.random.default_rng(seed)
    control, treatment = dice.normal(0, 1, 7 + seed), dice.normal(0.5, 3, 15)
    ours = welch(control.tolist(), treatment.tolist())
    theirs = stats.ttest_ind(treatment, control, equal_var=False)
    assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)


def test_two_proportions_is_the_chi_square_of_its_table() -> None:
    ours = two_proportions(91, 9000, 31, 1000)
    theirs = stats.chi2_contingency([[91, 8909], [31, 969]], correction=False)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert two_proportions_p(91, 9000, 31, 1000) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert two_proportions(0, 10, 0, 10).p_value == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_mann_whitney_with_ties(seed: int) -> None:
    dice = np.random.default_rng(seed)
    control, treatment = dice.integers(0, 8, 40), dice.integers(0, 10, 30)
    ours = mann_whitney(control.tolist(), treatment.tolist())
    theirs = stats.mannwhitneyu(treatment, control, method="asymptotic")
    assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)


def test_chi_square() -> None:
    table = [[10, 20, 30], [25, 20, 15]]
    theirs = stats.chi2_contingency(table, correction=False)
    ours = chi_square(table)
    assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)


@pytest.mark.parametrize("x", [0.01, 0.5, 3.0, 30.0, 200.0])
def test_tails(x: float) -> None:
    for degrees in (1, 2, 7, 150):
        assert chi_square_above(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), rel=1e-9, abs=1e-15)
        assert student_two_sided(x, degrees) == pytest.approx(2 * stats.t.sf(x, degrees), rel=1e-9)
    assert incomplete_beta(2.0, 3.0, 0.0) == 0.0
    assert incomplete_beta(2.0, 3.0, 1.0) == 1.0


def test_the_asymptotic_evidence_is_its_formula() -> None:
    for z in (-3.0, 0.0, 2.0, 5.0):
        a, n, tuned = 0.05, 1234, 5000
        rho_2 = (-2 * np.log(2 * a) + np.log(-2 * np.log(2 * a) + 1)) / tuned
        spread = n * rho_2 + 1
        q = z * np.sqrt(n * rho_2 / spread)
        expected = q**2 / 2 - np.log(spread) / 2 + np.log(2) + stats.norm.logcdf(q)
        assert log_evidence_of_z(z, n, a) == pytest.approx(expected, rel=1e-9)
    assert log_evidence_of_z(-60.0, 10**6, 0.05) < -7.0  # the tail does not underflow


def answers(seed: int, count: int = 400) -> Answers:
    dice = random.Random(seed)
    truths = [float(dice.random() < 0.3) for _ in range(count)]
    scores = [round(min(0.99, max(0.01, dice.gauss(0.35 + 0.25 * y, 0.2))), 2) for y in truths]
    return Answers(truths, [float(score >= 0.5) for score in scores], scores)


def of_sklearn(metric: str, some: Answers) -> float:
    given = some.scores if metric in ("auc", "log_loss") else some.predictions
    return float(
        {
            "accuracy": sklearn_metrics.accuracy_score,
            "precision": sklearn_metrics.precision_score,
            "recall": sklearn_metrics.recall_score,
            "f1": sklearn_metrics.f1_score,
            "auc": sklearn_metrics.roc_auc_score,
            "log_loss": sklearn_metrics.log_loss,
            "squared_error": sklearn_metrics.mean_squared_error,
        }[metric](some.truths, given)
    )


@pytest.mark.parametrize("metric", METRICS)
def test_quality_is_scikit_learns_and_its_error_the_bootstraps(metric: str) -> None:
    some = answers(1)
    ours = influence_of(metric, some)
    assert ours is not None
    assert ours.value == pytest.approx(of_sklearn(metric, some), abs=1e-12)
    assert sum(ours.influences) == pytest.approx(0.0, abs=1e-9)
    dice = np.random.default_rng(2)
    again = []
    for _ in range(400):
        rows = dice.integers(0, len(some.truths), len(some.truths))
        drawn = Answers(
            *([values[at] for at in rows] for values in (some.truths, some.predictions, some.scores))
        )
        again.append(of_sklearn(metric, drawn))
    assert ours.variance**0.5 == pytest.approx(float(np.std(again)), rel=0.15)


def test_pairs_of_equal_models_differ_by_nothing() -> None:
    some = answers(3)
    for metric in METRICS:
        found = difference_of_quality(metric, some, some, paired=True)
        assert found is not None and (found.difference, found.standard_error) == (0.0, 0.0)
        assert not found.enough


def test_delong_agrees_with_the_paired_influences() -> None:
    one, other = answers(4), answers(4)
    noisy = Answers(
        other.truths, other.predictions, [s if at % 3 else 1 - s for at, s in enumerate(other.scores)]
    )
    test = delong(one.truths, one.scores, noisy.scores)
    pair = difference_of_quality("auc", one, noisy, paired=True)
    assert pair is not None and test.effect == pytest.approx(pair.difference)
    assert test.statistic == pytest.approx(pair.difference / pair.standard_error, rel=0.01)


def test_quality_without_an_example_of_a_class_is_not_defined() -> None:
    assert influence_of("auc", Answers([1.0, 1.0], scores=[0.1, 0.2])) is None
    assert influence_of("precision", Answers([1.0, 0.0], [0.0, 0.0])) is None
    with pytest.raises(ValueError, match="none of"):
        influence_of("gini", Answers([1.0], [1.0]))
    with pytest.raises(ValueError, match="2 truths and 1 answers"):
        influence_of("accuracy", Answers([1.0, 0.0], [1.0]))
