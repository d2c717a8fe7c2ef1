"""How far one example moves a model's quality: influence values, and the standard errors that follow.

Main functions: :func:`difference_of_quality`, for ``evidence.Batch.qualities``, and :func:`auc_components`.
Metrics: accuracy, precision, recall, F1, ROC AUC (DeLong), log loss, squared error; paired (both models
answered the same requests) or not.

Source: DeLong, DeLong and Clarke-Pearson 1988; Sun and Xu 2014 for O(n log n).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.analysis.asymptotic import Difference

METRICS = ("accuracy", "precision", "recall", "f1", "auc", "log_loss", "squared_error")
_LEAST_PROBABILITY = 2.0**-52  # scikit-learn's clip of float64 probabilities


@dataclass(frozen=True)
class Answers:
    """One model's answers with what was true.

    Attributes:
        truths: 0 or 1; for squared error any numbers.
        predictions: 0 or 1; for squared error any numbers.
        scores: Probability of 1 (for AUC anything that ranks); empty when a model gives none.
    """

    truths: Sequence[float]
    predictions: Sequence[float] = ()
    scores: Sequence[float] = ()


@dataclass(frozen=True)
class Influence:
    """A metric's value and every example's influence on it: they average to 0."""

    value: float
    influences: tuple[float, ...]

    @property
    def variance(self) -> float:
        """Of the value."""
        count = len(self.influences)
        return sum(one * one for one in self.influences) / (count * count)


def influence_of(metric: str, answers: Answers) -> Influence | None:
    """Return a metric with its influence values; None when it is not defined (no example of a class).

    Raises:
        ValueError: an unknown metric, or answers that don't fit.
    """
    if metric not in METRICS:
        raise ValueError(f"{metric} is none of {', '.join(METRICS)}")
    given = answers.scores if metric in ("auc", "log_loss") else answers.predictions
    if len(given) != len(answers.truths):
        raise ValueError(f"{metric}: {len(answers.truths)} truths and {len(given)} answers")
    if not given:
        return None
    truths = answers.truths
    if metric == "auc":
        return _auc(truths, given)
    if metric == "accuracy":
        return _mean([float(y == h) for y, h in zip(truths, given, strict=True)])
    if metric == "squared_error":
        return _mean([(y - h) ** 2 for y, h in zip(truths, given, strict=True)])
    if metric == "log_loss":
        return _mean([_log_loss(y, p) for y, p in zip(truths, given, strict=True)])
    return _of_confusion(metric, truths, given)


def _mean(values: list[float]) -> Influence:
    mean = sum(values) / len(values)
    return Influence(mean, tuple(value - mean for value in values))


def _log_loss(truth: float, probability: float) -> float:
    p = min(max(probability, _LEAST_PROBABILITY), 1.0 - _LEAST_PROBABILITY)
    return -math.log(p) if truth == 1 else -math.log1p(-p)


def _of_confusion(metric: str, truths: Sequence[float], predictions: Sequence[float]) -> Influence | None:
    """Precision, recall and F1: ratios ``a*tp / (a*tp + b*fp + c*fn)`` of means."""
    a, b, c = {"precision": (1, 1, 0), "recall": (1, 0, 1), "f1": (2, 1, 1)}[metric]
    tops, bottoms = [], []
    for y, h in zip(truths, predictions, strict=True):
        tp, fp, fn = y == 1 and h == 1, y != 1 and h == 1, y == 1 and h != 1
        tops.append(float(a * tp))
        bottoms.append(float(a * tp + b * fp + c * fn))
    bottom = sum(bottoms) / len(bottoms)
    if bottom == 0.0:
        return None
    value = sum(tops) / len(tops) / bottom
    return Influence(
        value, tuple((top - value * one) / bottom for top, one in zip(tops, bottoms, strict=True))
    )


def auc_components(
    truths: Sequence[float], scores: Sequence[float]
) -> tuple[list[float], float, float] | None:
    """Return every example's share of the other class that it is ranked right against, the AUC, and P(1).

    None when a class has no example.
    """
    ones = sorted(score for score, truth in zip(scores, truths, strict=True) if truth == 1)
    zeros = sorted(score for score, truth in zip(scores, truths, strict=True) if truth != 1)
    if not ones or not zeros:
        return None
    components = []
    for score, truth in zip(scores, truths, strict=True):
        others = zeros if truth == 1 else ones
        below, upto = bisect_left(others, score), bisect_right(others, score)
        right = below + (upto - below) / 2.0 if truth == 1 else len(ones) - upto + (upto - below) / 2.0
        components.append(right / len(others))
    auc = sum(c for c, truth in zip(components, truths, strict=True) if truth == 1) / len(ones)
    return components, auc, len(ones) / len(truths)


def _auc(truths: Sequence[float], scores: Sequence[float]) -> Influence | None:
    found = auc_components(truths, scores)
    if found is None:
        return None
    components, auc, part = found
    return Influence(
        auc,
        tuple(
            (component - auc) / (part if truth == 1 else 1.0 - part)
            for component, truth in zip(components, truths, strict=True)
        ),
    )


def difference_of_quality(
    metric: str, control: Answers, treatment: Answers, *, paired: bool = False
) -> Difference | None:
    """Compare two models' quality.

    Args:
        paired: Both answered the same requests, in the same order.

    Returns:
        Treatment minus control; None where the metric is not defined for one of them.

    Raises:
        ValueError: an unknown metric, or answers that don't fit.
    """
    c, t = influence_of(metric, control), influence_of(metric, treatment)
    if c is None or t is None:
        return None
    if paired:
        if list(control.truths) != list(treatment.truths):
            raise ValueError("pairs have the same truths in the same order")
        gaps = [b - a for a, b in zip(c.influences, t.influences, strict=True)]
        error = math.sqrt(sum(gap * gap for gap in gaps)) / len(gaps)
        examples = len(gaps)
    else:
        error = math.sqrt(c.variance + t.variance)
        examples = len(c.influences) + len(t.influences)
    fewest = (
        None
        if metric == "squared_error"
        else min(_rarest(answers.truths) for answers in (control, treatment))
    )
    return Difference(examples, t.value - c.value, error, fewest, c.value, t.value)


def _rarest(truths: Sequence[float]) -> int:
    ones = sum(1 for truth in truths if truth == 1)
    return min(ones, len(truths) - ones)
