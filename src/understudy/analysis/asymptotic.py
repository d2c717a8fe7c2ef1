"""Looking at any time at what has a standard error only: asymptotic confidence sequences.

For metrics without a bound or that are no means (log loss, F1, AUC): a half-normal mixture over the drift of
a
Brownian motion, which a sum of influence values is like when there are many.  Not exact: use it from 200
examples and 20 events per class on.

Owns :class:`Difference` (what was measured) and :func:`log_evidence_of_z`, :func:`difference_interval`.
Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
confidence sequences", Ann. Stat. 2024, equations 9, 155 and 161 (GrowthBook's ``gbstats`` uses the same).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from understudy.analysis.shares import Tallies

TUNED_FOR = 5000  # examples at which the sequence is tightest; GrowthBook's default
FEWEST_EXAMPLES = 200
FEWEST_PER_CLASS = 20
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Difference:
    """A difference of quality, treatment minus control, over all examples so far.

    Attributes:
        examples: Of both arms; of pairs when both models answered the same requests.
        difference: Treatment minus control.
        standard_error: Of the difference.
        fewest_per_class: Examples of the rarest class in either arm; None for metrics without classes.
        control, treatment: Both arms' values, to be shown.
        labelled: Examples by stage, to check that labels come equally for both arms; empty for pairs.
    """

    examples: int
    difference: float
    standard_error: float
    fewest_per_class: int | None = None
    control: float | None = None
    treatment: float | None = None
    labelled: Tallies = ()

    @property
    def enough(self) -> bool:
        """Whether there are so many examples that the normal approximation may be used."""
        return (
            self.examples >= FEWEST_EXAMPLES
            and self.standard_error > 0.0
            and (self.fewest_per_class is None or self.fewest_per_class >= FEWEST_PER_CLASS)
        )

    def to_json(self) -> dict[str, Any]:
        """Render all of it."""
        return {**asdict(self), "labelled": [one.to_json() for one in self.labelled]}


def _mixing(alpha: float, tuned_for: int) -> float:
    """Return rho squared, the precision of the mixture."""
    spent = -2.0 * math.log(2.0 * alpha)
    return (spent + math.log(spent + 1.0)) / tuned_for


def log_evidence_of_z(z: float, examples: int, alpha: float, tuned_for: int = TUNED_FOR) -> float:
    """Weigh that an effect is not positive.

    Args:
        z: The effect over its standard error.
        examples: How many it is from.
        alpha: Level at which the mixture is tuned; the evidence is for any.

    Returns:
        Natural logarithm of the (asymptotic) e-value.
    """
    if examples <= 0:
        return 0.0
    spread = examples * _mixing(alpha, tuned_for) + 1.0
    q = z * math.sqrt((spread - 1.0) / spread)
    return q * q / 2.0 - math.log(spread) / 2.0 + _log_twice_normal(q)


def _log_twice_normal(q: float) -> float:
    """Return log(2 * Phi(q)), far into the tail too."""
    if q > -30.0:
        return math.log(math.erfc(-q / math.sqrt(2.0)))
    return -q * q / 2.0 - math.log(-q * math.sqrt(math.pi / 2.0))


def difference_interval(
    difference: float, standard_error: float, examples: int, alpha: float = 0.05, tuned_for: int = TUNED_FOR
) -> tuple[float, float]:
    """Return a two-sided interval that covers at all looks together (equation 9).

    >>> low, high = difference_interval(0.01, 0.002, 10_000)
    >>> round(low, 4), round(high, 4)
    (0.0039, 0.0161)
    """
    spent = -2.0 * math.log(alpha)
    mixing = (spent + math.log(spent + 1.0)) / tuned_for
    spread = examples * mixing + 1.0
    width = standard_error * math.sqrt(spread / (spread - 1.0) * 2.0 * math.log(math.sqrt(spread) / alpha))
    return difference - width, difference + width


def normal_quantile(probability: float) -> float:
    """Return the standard normal's quantile."""
    return _NORMAL.inv_cdf(probability)
