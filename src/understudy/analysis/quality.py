"""How right a model is on labelled requests: the usual measures, each with an interval.

Owns :func:`measure_binary`, :func:`measure_classes` and :func:`measure_numbers`; values equal scikit-learn's
on the same predictions.  A measure that is not defined (precision without a positive prediction) is None,
not 0.  Intervals hold at every look: exact for shares (accuracy, precision, recall, F1), asymptotic
otherwise.

Sources: Fawcett 2006 (ROC); DeLong, DeLong, Clarke-Pearson 1988 (variance of the AUC); Sun & Xu 2014 (by
midranks, O(n log n)); influence functions of F1 and R² by the delta method.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from understudy.analysis.intervals import Interval, mean_sequence, share_sequence

LARGE = 200  # examples, and
LARGE_CLASS = 20  # of the smaller class, from which the asymptotic intervals are near what they promise
_TINY = sys.float_info.epsilon  # scores of log loss are kept this far from 0 and 1, as by scikit-learn


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        value: None: not defined on these examples.
        count: What it is a share or mean of.
        approximate: Too few examples for the interval to hold what it promises.
    """

    value: float | None
    count: int
    low: float | None = None
    high: float | None = None
    approximate: bool = False

    def to_json(self) -> dict[str, Any]:
        """Render it."""
        told: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "count": self.count}
        return {**told, "approximate": True} if self.approximate else told


# --- two classes -------------------------------------------------------------------------------------


def measure_binary(
    labels: Sequence[bool], scores: Sequence[float] | None, decided: Sequence[bool]
) -> dict[str, Any]:
    """Measure a model of two classes.

    Args:
        scores: Larger is more positive; None: the model gives none, so there is no AUC, log loss and ROC.
        decided: What was predicted.
    Returns:
        ``{"metrics": {name: Measure}, "confusion_matrix": {...}, "roc": {...} | None}``.
    """
    cells = Counter(zip(labels, decided, strict=True))
    tp, fn = cells[True, True], cells[True, False]
    fp, tn = cells[False, True], cells[False, False]
    metrics = {
        "accuracy": _share(tp + tn, tp + tn + fp + fn),
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
        "f1": _f1(tp, fp, fn),
        "true_negative_rate": _share(tn, tn + fp),
        "false_positive_rate": _share(fp, tn + fp),
    }
    roc = None
    if scores is not None:
        metrics["auc"] = _auc(labels, scores)
        if all(0.0 <= score <= 1.0 for score in scores):
            metrics["log_loss"] = _log_loss(labels, scores)
        roc = roc_points(labels, scores)
    return {
        "metrics": metrics,
        "confusion_matrix": {
            "true_negative": tn,
            "false_positive": fp,
            "false_negative": fn,
            "true_positive": tp,
        },
        "roc": roc,
    }


def _share(successes: int, trials: int) -> Measure:
    if trials == 0:
        return Measure(None, 0)
    return _with(successes / trials, trials, share_sequence(successes, trials))


def _f1(tp: int, fp: int, fn: int) -> Measure:
    """F1 is 2J/(1+J) of the share J = tp/(tp+fp+fn), rising with it: J's exact bounds are F1's."""
    trials = tp + fp + fn
    if trials == 0:
        return Measure(None, 0)
    bounds = share_sequence(tp, trials)
    low, high = 2 * bounds.low / (1 + bounds.low), 2 * bounds.high / (1 + bounds.high)
    return Measure(2 * tp / (2 * tp + fp + fn), trials, low, high)


def _with(value: float, count: int, interval: Interval, approximate: bool = False) -> Measure:
    return Measure(value, count, interval.low, interval.high, approximate)


def _auc(labels: Sequence[bool], scores: Sequence[float]) -> Measure:
    """Area under the ROC curve with DeLong's variance."""
    positives = [score for score, label in zip(scores, labels, strict=True) if label]
    negatives = [score for score, label in zip(scores, labels, strict=True) if not label]
    m, n = len(positives), len(negatives)
    if not m or not n:
        return Measure(None, m + n)
    joint = dict(_midranks([*positives, *negatives]))
    own, other = dict(_midranks(positives)), dict(_midranks(negatives))
    above = [(joint[score] - own[score]) / n for score in positives]
    below = [1.0 - (joint[score] - other[score]) / m for score in negatives]
    value = math.fsum(above) / m
    # Per example of all m + n, so that a sequence over examples can be drawn.
    variance = (m + n) * (_variance(above) / m + _variance(below) / n)
    interval = mean_sequence(value, variance, m + n)
    clipped = Interval(max(interval.low, 0.0), min(interval.high, 1.0), False)
    return _with(value, m + n, clipped, m + n < LARGE or min(m, n) < LARGE_CLASS)


def _midranks(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return (value, mean of its ranks from 1), each value once."""
    ranks, before = [], 0
    for value, equal in groupby(sorted(values)):
        count = sum(1 for _ in equal)
        ranks.append((value, before + (count + 1) / 2.0))
        before += count
    return ranks


def _log_loss(labels: Sequence[bool], scores: Sequence[float]) -> Measure:
    losses = []
    for label, score in zip(labels, scores, strict=True):
        kept = min(max(score, _TINY), 1.0 - _TINY)
        losses.append(-math.log(kept) if label else -math.log1p(-kept))
    return _mean(losses)


def _mean(values: Sequence[float], bottom: float = 0.0) -> Measure:
    count = len(values)
    if not count:
        return Measure(None, 0)
    mean = math.fsum(values) / count
    interval = mean_sequence(mean, _variance(values), count)
    return Measure(mean, count, max(interval.low, bottom), interval.high, count < LARGE)


def _variance(values: Sequence[float]) -> float:
    count = len(values)
    if count < 2:
        return 0.25  # of one score between 0 and 1 nothing is known
    mean = math.fsum(values) / count
    return math.fsum((value - mean) ** 2 for value in values) / (count - 1)


def roc_points(labels: Sequence[bool], scores: Sequence[float]) -> dict[str, list[float | None]] | None:
    """Draw the ROC curve without points on a straight line between two others; None without both classes."""
    positives = sum(labels)
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    corners: list[tuple[int, int, float]] = []
    fps = tps = 0
    ordered = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])
    for score, equal in groupby(ordered, key=lambda pair: pair[0]):
        for _, label in equal:
            tps, fps = tps + label, fps + (not label)
        corners.append((fps, tps, score))
    kept = [
        corner
        for at, corner in enumerate(corners)
        if at in (0, len(corners) - 1)
        or corners[at + 1][0] - corner[0] != corner[0] - corners[at - 1][0]
        or corners[at + 1][1] - corner[1] != corner[1] - corners[at - 1][1]
    ]
    return {
        "false_positive_rates": [0.0, *(corner[0] / negatives for corner in kept)],
        "true_positive_rates": [0.0, *(corner[1] / positives for corner in kept)],
        "thresholds": [None, *(corner[2] for corner in kept)],
    }


# --- any number of classes ---------------------------------------------------------------------------


def measure_classes(
    labels: Sequence[str],
    decided: Sequence[str],
    probabilities: Sequence[Sequence[float]] | None = None,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a model of several classes; precision, recall and F1 are means over classes (macro).

    Args:
        probabilities: Per example, in the order of ``classes``; None: no log loss.
    """
    cells = Counter(zip(labels, decided, strict=True))
    names = sorted({*labels, *decided})
    right = sum(cells[name, name] for name in names)
    metrics = {"accuracy": _share(right, len(labels))}
    per_class: dict[str, dict[str, Measure]] = {}
    for name in names:
        tp = cells[name, name]
        fp = sum(cells[other, name] for other in names) - tp
        fn = sum(cells[name, other] for other in names) - tp
        per_class[name] = {
            "precision": _share(tp, tp + fp),
            "recall": _share(tp, tp + fn),
            "f1": _f1(tp, fp, fn),
        }
    for measure in ("precision", "recall", "f1"):
        metrics[measure] = _macro(cells, names, measure)
    if probabilities is not None and classes:
        place = {name: at for at, name in enumerate(classes)}
        losses = [
            -math.log(max(one[place[label]] / math.fsum(one), _TINY))
            for label, one in zip(labels, probabilities, strict=True)
            if label in place and math.fsum(one) > 0.0
        ]
        if len(losses) == len(labels):
            metrics["log_loss"] = _mean(losses)
    return {
        "metrics": metrics,
        "classes": per_class,
        "confusion_matrix": {
            "labels": names,
            "counts": [[cells[label, decision] for decision in names] for label in names],
        },
    }


def _macro(cells: Counter[tuple[str, str]], names: Sequence[str], measure: str) -> Measure:
    """Average a measure over classes, undefined ones as 0 (scikit-learn), with the delta method's bounds."""
    total = sum(cells.values())
    if not total:
        return Measure(None, 0)
    values, parts = [], []
    for name in names:
        tp = cells[name, name]
        predicted = sum(cells[other, name] for other in names)
        actual = sum(cells[name, other] for other in names)
        weights = {"precision": (1, 0), "recall": (0, 1), "f1": (1, 1)}[measure]
        bottom = weights[0] * predicted + weights[1] * actual
        top = (weights[0] + weights[1]) * tp
        values.append(top / bottom if bottom else 0.0)
        parts.append((name, weights, values[-1], bottom / total))
    value = math.fsum(values) / len(names)
    squares = 0.0
    for (label, decision), count in cells.items():
        influence = 0.0
        for name, (by_predicted, by_actual), of_class, scale in parts:
            if not scale:
                continue
            hit = (by_predicted + by_actual) * (label == decision == name)
            seen = by_predicted * (decision == name) + by_actual * (label == name)
            influence += (hit - of_class * seen) / scale
        squares += count * (influence / len(names)) ** 2
    interval = mean_sequence(value, squares / total, total)
    smallest = min(sum(cells[name, other] for other in names) for name in names)
    return Measure(
        value,
        total,
        max(interval.low, 0.0),
        min(interval.high, 1.0),
        total < LARGE or smallest < LARGE_CLASS,
    )


# --- numbers -----------------------------------------------------------------------------------------


def measure_numbers(labels: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """Measure a model of numbers: MSE, RMSE, MAE, R²."""
    errors = [value - label for label, value in zip(labels, values, strict=True)]
    squares = _mean([error * error for error in errors])
    root = [None if one is None else math.sqrt(one) for one in (squares.value, squares.low, squares.high)]
    return {
        "metrics": {
            "mse": squares,
            "rmse": Measure(root[0], squares.count, root[1], root[2], squares.approximate),
            "mae": _mean([abs(error) for error in errors]),
            "r2": _r2(labels, errors),
        }
    }


def _r2(labels: Sequence[float], errors: Sequence[float]) -> Measure:
    count = len(labels)
    if count < 2:
        return Measure(None, count)
    mean = math.fsum(labels) / count
    around = [(label - mean) ** 2 for label in labels]
    total = math.fsum(around)
    if total == 0.0:
        return Measure(None, count)
    value = 1.0 - math.fsum(error * error for error in errors) / total
    scale = total / count
    influences = [
        -(error * error - (1.0 - value) * spread) / scale
        for error, spread in zip(errors, around, strict=True)
    ]
    interval = mean_sequence(value, _variance(influences), count)
    return Measure(value, count, interval.low, min(interval.high, 1.0), count < LARGE)
