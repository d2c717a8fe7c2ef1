"""Measures of quality against scikit-learn on the same predictions, and intervals by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from understudy.analysis.intervals import mean_sequence, share_sequence
from understudy.analysis.quality import Measure, measure_binary, measure_classes, measure_numbers

SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.500001, 0.75, 0.9, 1.0])


def values(report: dict[str, Any]) -> dict[str, float | None]:
    return {name: measure.value for name, measure in report["metrics"].items()}


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(st.booleans(), SCORES), min_size=1, max_size=60))
def test_two_classes_equal_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    labels, scores = [label for label, _ in rows], [score for _, score in rows]
    decided = [score >= 0.5 for score in scores]
    report = measure_binary(labels, scores, decided)
    ours = values(report)
    undefined: Any = np.nan
    expected = {
        "accuracy": sk.accuracy_score(labels, decided),
        "precision": sk.precision_score(labels, decided, zero_division=undefined),
        "recall": sk.recall_score(labels, decided, zero_division=undefined),
        "f1": sk.f1_score(labels, decided, zero_division=undefined),
        "log_loss": sk.log_loss(labels, scores, labels=[False, True]),
    }
    for name, value in expected.items():
        got = ours[name]
        if math.isnan(value):
            assert got is None, name
        else:
            assert got == pytest.approx(value, rel=1e-12, abs=1e-12), name
    (tn, fp), (fn, tp) = sk.confusion_matrix(labels, decided, labels=[False, True])
    assert report["confusion_matrix"] == {
        "true_negative": tn,
        "false_positive": fp,
        "false_negative": fn,
        "true_positive": tp,
    }
    if len(set(labels)) < 2:
        assert ours["auc"] is None and report["roc"] is None
        return
    assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, scores), rel=1e-12, abs=1e-12)
    fpr, tpr, thresholds = sk.roc_curve(labels, scores)
    assert report["roc"]["false_positive_rates"] == pytest.approx(list(fpr))
    assert report["roc"]["true_positive_rates"] == pytest.approx(list(tpr))
    assert report["roc"]["thresholds"][1:] == list(thresholds[1:])


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_several_classes_equal_scikit_learn(rows: list[tuple[str, str]]) -> None:
    labels, decided = [label for label, _ in rows], [decision for _, decision in rows]
    report = measure_classes(labels, decided)
    ours = values(report)
    options: Any = {"average": "macro", "zero_division": 0}
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, decided))
    assert ours["precision"] == pytest.approx(sk.precision_score(labels, decided, **options))
    assert ours["recall"] == pytest.approx(sk.recall_score(labels, decided, **options))
    assert ours["f1"] == pytest.approx(sk.f1_score(labels, decided, **options))
    names = report["confusion_matrix"]["labels"]
    assert report["confusion_matrix"]["counts"] == sk.confusion_matrix(labels, decided, labels=names).tolist()


def test_log_loss_of_several_classes_equals_scikit_learn() -> None:
    dice = np.random.default_rng(3)
    probabilities = dice.dirichlet([1.0, 2.0, 3.0], 500)
    labels = [str(at) for at in dice.integers(0, 3, 500)]
    decided = [str(at) for at in probabilities.argmax(axis=1)]
    report = measure_classes(labels, decided, probabilities.tolist(), ["0", "1", "2"])
    assert values(report)["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=40).filter(
        lambda rows: np.var([label for label, _ in rows]) > 1e-3
    )
)
def test_numbers_equal_scikit_learn(rows: list[tuple[float, float]]) -> None:
    labels, predicted = [label for label, _ in rows], [value for _, value in rows]
    ours = values(measure_numbers(labels, predicted))
    assert ours["mse"] == pytest.approx(sk.mean_squared_error(labels, predicted))
    assert ours["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(labels, predicted)))
    assert ours["mae"] == pytest.approx(sk.mean_absolute_error(labels, predicted))
    assert ours["r2"] == pytest.approx(sk.r2_score(labels, predicted), rel=1e-9, abs=1e-6)


def test_what_is_not_defined_is_none() -> None:
    report = measure_binary([False, False], [0.1, 0.2], [False, False])
    assert {name for name, value in values(report).items() if value is None} == {
        "precision",
        "recall",
        "f1",
        "auc",
    }
    assert values(report)["accuracy"] == 1.0
    assert values(measure_numbers([1.0, 1.0], [1.0, 2.0]))["r2"] is None
    assert values(measure_binary([], [], []))["accuracy"] is None


def test_every_interval_holds_its_value_and_small_samples_say_so() -> None:
    dice = np.random.default_rng(1)
    for count in (5, 120, 3000):
        labels = (dice.random(count) < 0.3).tolist()
        labels[:2] = [True, False]
        scores = np.clip(dice.normal(0.4, 0.2, count) + 0.2 * np.array(labels), 0, 1).tolist()
        report = measure_binary(labels, scores, [score >= 0.5 for score in scores])
        for name, measure in report["metrics"].items():
            assert isinstance(measure, Measure)
            assert measure.value is not None and measure.low is not None and measure.high is not None
            assert measure.low <= measure.value <= measure.high, (count, name)
            if name in ("auc", "log_loss"):
                assert measure.approximate is (count < 200), name
            else:
                assert not measure.approximate


@pytest.mark.parametrize("p", [0.02, 0.5, 0.9])
def test_share_sequences_hold_at_every_look(p: float) -> None:
    """True shares leave their exact sequences in at most 5 % of runs with a look after every trial."""
    runs, looks = 300, 400
    missed = 0
    for seed in range(runs):
        hits = np.cumsum(np.random.default_rng(seed).random(looks) < p)
        for at in range(9, looks, 10):
            interval = share_sequence(int(hits[at]), at + 1)
            if not interval.low <= p <= interval.high:
                missed += 1
                break
    assert missed <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)


def test_mean_sequences_hold_at_every_look() -> None:
    runs, missed = 300, 0
    for seed in range(runs):
        values = np.random.default_rng(seed).exponential(1.0, 3000)
        for at in range(200, 3000, 100):
            some = values[:at]
            interval = mean_sequence(float(some.mean()), float(some.var(ddof=1)), at)
            if not interval.low <= 1.0 <= interval.high:
                missed += 1
                break
    assert missed <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)


@given(successes=st.integers(0, 300), failures=st.integers(0, 300))
def test_share_sequences_are_ordered(successes: int, failures: int) -> None:
    trials = successes + failures
    interval = share_sequence(successes, trials)
    assert 0.0 <= interval.low <= interval.high <= 1.0
    if trials:
        assert interval.low <= successes / trials <= interval.high
