"""From rounds to figures: medians, ratios of neighbours in time, their spread.

Main function: :func:`paired_ratio`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How many times one figure is the other.

    Attributes:
        median: Of the rounds' ratios.
        low, high: The smallest and the largest of them.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """Divide round by round, so that what slows the machine for a while slows both.

    Returns:
        None without rounds, or when a divisor is 0.

    >>> paired_ratio([10.0, 20.0, 30.0], [5.0, 5.0, 10.0])
    Ratio(median=3.0, low=2.0, high=4.0)
    """
    if not ours or len(ours) != len(theirs) or 0.0 in theirs:
        return None
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def median(values: Sequence[float]) -> float | None:
    """Return the median; None of nothing."""
    return statistics.median(values) if values else None
