"""Intervals that hold at every look: confidence sequences for shares and for means.

Owns :func:`share_sequence` (exact for independent yes-or-no events) and :func:`mean_sequence` (asymptotic).
However often a report is read, the true value is in all its intervals with the stated probability.

Sources: Robbins 1970, beta-binomial mixture (as in Howard et al. 2021, arXiv 1810.08240, section 3.2);
Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, arXiv 2103.06476, equation 9 and its choice of rho.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

ALPHA = 0.05
_TUNED_FOR = 1000.0  # examples at which mean_sequence is narrowest
_STEPS = 60  # of a bisection: to 1e-18 of the interval's width


@dataclass(frozen=True)
class Interval:
    """A value between two bounds.

    Attributes:
        exact: The coverage needs no large numbers.
    """

    low: float
    high: float
    exact: bool


def share_sequence(successes: int, trials: int, alpha: float = ALPHA) -> Interval:
    """Bound a probability by its successes, valid at every number of trials.

    The set of p at which a Jeffreys mixture's likelihood is less than ``1/alpha`` times p's (Ville).

    >>> found = share_sequence(90, 100)
    >>> round(found.low, 3), round(found.high, 3)
    (0.772, 0.971)
    """
    if trials == 0:
        return Interval(0.0, 1.0, True)
    failures = trials - successes
    mixture = (
        math.lgamma(successes + 0.5)
        + math.lgamma(failures + 0.5)
        - math.lgamma(trials + 1.0)
        - math.log(math.pi)  # B(1/2, 1/2)
    )

    def inside(p: float) -> bool:
        fit = successes * math.log(p) if successes else 0.0
        fit += failures * math.log1p(-p) if failures else 0.0
        return mixture - fit < -math.log(alpha)

    best = successes / trials
    low = 0.0 if successes == 0 else _edge(inside, best if failures else 1.0 - 1e-16, 1e-300)
    high = 1.0 if failures == 0 else _edge(inside, best if successes else 1e-300, 1.0 - 1e-16)
    return Interval(low, high, True)


def _edge(inside: Callable[[float], bool], within: float, without: float) -> float:
    """Find where ``inside`` ends between a point that is and one that is not."""
    for _ in range(_STEPS):
        middle = (within + without) / 2.0
        if inside(middle):
            within = middle
        else:
            without = middle
    return without


def mean_sequence(mean: float, variance: float, count: int, alpha: float = ALPHA) -> Interval:
    """Bound a mean by its estimate, valid at every count once the count is large.

    Args:
        variance: Of one value (or of one influence value of an estimate that is about a mean).

    >>> found = mean_sequence(1.0, 4.0, 1000)
    >>> round(found.low, 2), round(found.high, 2)
    (0.81, 1.19)
    """
    if count == 0:
        return Interval(-math.inf, math.inf, False)
    rho_squared = (-2.0 * math.log(alpha) + math.log(-2.0 * math.log(alpha) + 1.0)) / _TUNED_FOR
    spread = count * rho_squared + 1.0
    width = math.sqrt(
        max(variance, 0.0)
        * 2.0
        * spread
        / (count * count * rho_squared)
        * math.log(math.sqrt(spread) / alpha)
    )
    return Interval(mean - width, mean + width, False)
