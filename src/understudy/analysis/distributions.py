"""Tails of Student's t and the chi-square distribution, for the classic tests; the normal's are in ``math``.

Source: Press et al., Numerical Recipes, 3rd edition, sections 6.2 (incomplete gamma) and 6.4 (incomplete
beta): continued fractions by Lentz's method.
"""

from __future__ import annotations

import math

_TINY = 1e-300
_EPSILON = 1e-15
_MOST_TERMS = 10_000


def normal_two_sided(z: float) -> float:
    """Return the probability that a standard normal is further from 0 than ``z``."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def student_two_sided(t: float, degrees: float) -> float:
    """Return the probability that Student's t is further from 0 than ``t``.

    >>> round(student_two_sided(2.228, 10.0), 4)
    0.05
    """
    return incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t))


def chi_square_above(statistic: float, degrees: int) -> float:
    """Return the probability that a chi-square variable exceeds ``statistic``.

    >>> round(chi_square_above(3.841, 1), 3)
    0.05
    """
    if statistic <= 0.0:
        return 1.0
    a, x = degrees / 2.0, statistic / 2.0
    front = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1.0:
        term = total = 1.0 / a
        for step in range(1, _MOST_TERMS):
            term *= x / (a + step)
            total += term
            if term < total * _EPSILON:
                break
        return 1.0 - front * total
    b = x + 1.0 - a
    c, d = 1.0 / _TINY, 1.0 / b
    fraction = d
    for step in range(1, _MOST_TERMS):
        an = -step * (step - a)
        b += 2.0
        d = 1.0 / _away(an * d + b)
        c = _away(b + an / c)
        fraction *= d * c
        if abs(d * c - 1.0) < _EPSILON:
            break
    return front * fraction


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, 1.0 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for step in range(1, _MOST_TERMS):
        for factor in (
            step * (b - step) * x / ((a + 2 * step - 1.0) * (a + 2 * step)),
            -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1.0)),
        ):
            d = 1.0 / _away(1.0 + factor * d)
            c = _away(1.0 + factor / c)
            fraction *= d * c
        if abs(d * c - 1.0) < _EPSILON:
            break
    return fraction


def _away(value: float) -> float:
    """Keep a denominator from zero."""
    return value if abs(value) > _TINY else _TINY
