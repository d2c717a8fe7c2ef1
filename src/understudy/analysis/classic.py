"""Classic tests with a sample size fixed beforehand, for those who ask: right at one look, and only there.

Owns Welch's t, two proportions, Mann-Whitney, DeLong and chi-square, all two-sided.
A verdict never rests on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.analysis.distributions import chi_square_above, normal_two_sided, student_two_sided
from understudy.analysis.influence import auc_components


@dataclass(frozen=True)
class TestResult:
    """A test's outcome.

    Attributes:
        statistic: z, t, U or chi-square.
        p_value: Two-sided.
        effect: Treatment minus control, in the test's own unit; None where there is no such thing.
    """

    __test__ = False  # pytest would collect it

    statistic: float
    p_value: float
    effect: float | None = None


def welch(control: Sequence[float], treatment: Sequence[float]) -> TestResult:
    """Compare means without assuming equal variances (Welch 1947).

    Raises:
        ValueError: fewer than two values in an arm, or no variance in either.
    """
    (n_c, mean_c, var_c), (n_t, mean_t, var_t) = _moments(control), _moments(treatment)
    error_c, error_t = var_c / n_c, var_t / n_t
    if error_c + error_t == 0.0:
        raise ValueError("the values of both arms are constant")
    t = (mean_t - mean_c) / math.sqrt(error_c + error_t)
    degrees = (error_c + error_t) ** 2 / (error_c**2 / (n_c - 1) + error_t**2 / (n_t - 1))
    return TestResult(t, student_two_sided(t, degrees), mean_t - mean_c)


def _moments(values: Sequence[float]) -> tuple[int, float, float]:
    count = len(values)
    if count < 2:
        raise ValueError("each arm needs two values at least")
    mean = math.fsum(values) / count
    return count, mean, math.fsum((value - mean) ** 2 for value in values) / (count - 1)


def two_proportions(
    control_events: int, control_requests: int, treatment_events: int, treatment_requests: int
) -> TestResult:
    """Compare two rates by the z-test with pooled variance.

    Raises:
        ValueError: an arm without requests.
    """
    if control_requests <= 0 or treatment_requests <= 0:
        raise ValueError("each arm needs requests")
    effect = treatment_events / treatment_requests - control_events / control_requests
    pooled = (control_events + treatment_events) / (control_requests + treatment_requests)
    variance = pooled * (1.0 - pooled) * (1.0 / control_requests + 1.0 / treatment_requests)
    if variance == 0.0:
        return TestResult(0.0, 1.0, effect)
    z = effect / math.sqrt(variance)
    return TestResult(z, normal_two_sided(z), effect)


def mann_whitney(control: Sequence[float], treatment: Sequence[float]) -> TestResult:
    """Compare ranks, with corrections for ties and continuity (normal approximation; Mann and Whitney 1947).

    Returns:
        U of the treatment; the effect is P(treatment > control) + P(equal)/2 less a half.

    Raises:
        ValueError: an arm without values.
    """
    n, m = len(treatment), len(control)
    if not n or not m:
        raise ValueError("each arm needs values")
    ordered = sorted([(value, True) for value in treatment] + [(value, False) for value in control])
    rank_sum = ties = 0.0
    at = 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        size = end - at
        ties += size**3 - size
        rank_sum += sum(treated for _, treated in ordered[at:end]) * (at + 1 + end) / 2.0
        at = end
    u = rank_sum - n * (n + 1) / 2.0
    total = n + m
    variance = n * m / 12.0 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0.0:
        return TestResult(u, 1.0, 0.0)
    away = max(0.0, abs(u - n * m / 2.0) - 0.5)
    return TestResult(u, normal_two_sided(away / math.sqrt(variance)), u / (n * m) - 0.5)


def delong(
    truths: Sequence[float], control_scores: Sequence[float], treatment_scores: Sequence[float]
) -> TestResult:
    """Compare two models' ROC AUC on the same examples (DeLong 1988).

    Raises:
        ValueError: a class has fewer than two examples.
    """
    control, treatment = auc_components(truths, control_scores), auc_components(truths, treatment_scores)
    if control is None or treatment is None:
        raise ValueError("both classes need examples")
    gaps = [b - a for a, b in zip(control[0], treatment[0], strict=True)]
    variance = 0.0
    for label in (True, False):
        count, _, spread = _moments(
            [gap for gap, truth in zip(gaps, truths, strict=True) if (truth == 1) == label]
        )
        variance += spread / count
    effect = treatment[1] - control[1]
    if variance == 0.0:
        return TestResult(0.0, 1.0, effect)
    z = effect / math.sqrt(variance)
    return TestResult(z, normal_two_sided(z), effect)


def chi_square(table: Sequence[Sequence[int]]) -> TestResult:
    """Test that rows and columns of a table of counts are independent (Pearson; no continuity correction).

    Raises:
        ValueError: fewer than two rows or columns, or one of them is empty.
    """
    rows = [sum(row) for row in table]
    columns = [sum(column) for column in zip(*table, strict=True)]
    if len(rows) < 2 or len(columns) < 2 or min(rows) <= 0 or min(columns) <= 0:
        raise ValueError("a table of at least two rows and columns, none of them empty, is expected")
    total = sum(rows)
    statistic = math.fsum(
        (count - row * column / total) ** 2 / (row * column / total)
        for line, row in zip(table, rows, strict=True)
        for count, column in zip(line, columns, strict=True)
    )
    return TestResult(statistic, chi_square_above(statistic, (len(rows) - 1) * (len(columns) - 1)))
