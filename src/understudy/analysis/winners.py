"""Many hypotheses at once: several metrics or segments, and the best of several variants.

Source: Wang and Ramdas, "False discovery rate control with e-values", JRSS-B 2022 (e-BH).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from understudy.analysis.shares import Tally, bets_above, log_evidence


def e_benjamini_hochberg(log_e_values: Sequence[float], alpha: float = 0.05) -> tuple[bool, ...]:
    """Say which hypotheses are rejected; the share of wrong ones among them is alpha on average, at most.

    Needs no independence.

    >>> e_benjamini_hochberg([math.log(100.0), math.log(30.0), 0.0])
    (True, True, False)
    """
    count = len(log_e_values)
    order = sorted(range(count), key=lambda at: -log_e_values[at])
    rejected = 0
    for rank, at in enumerate(order, start=1):
        if log_e_values[at] >= math.log(count / (alpha * rank)):
            rejected = rank
    chosen = set(order[:rejected])
    return tuple(at in chosen for at in range(count))


def best_arm(
    stages: Sequence[Mapping[str, tuple[float, int]]], *, mde: float = 1.1, alpha: float = 0.05
) -> tuple[str | None, dict[str, float]]:
    """Name the variant that is proven to have more successes than every other.

    Args:
        stages: Per stage, by variant: its weight, and its successes.  Weights need not add up to 1; a variant
            that
            has none in a stage is not compared there.
        mde: Ratio of success rates worth finding, > 1.

    Returns:
        The winner, or None; and per variant the natural logarithm of its least evidence against any other.

    A wrong winner has a probability of alpha at most: each comparison is made at alpha / (variants - 1).
    """
    variants = sorted({name for stage in stages for name in stage})
    least = {
        one: min((_against(stages, one, other, mde) for other in variants if other != one), default=0.0)
        for one in variants
    }
    needed = math.log(max(1, len(variants) - 1) / alpha)
    winners = [name for name, log_e in least.items() if len(variants) > 1 and log_e >= needed]
    return (winners[0] if winners else None), least


def _against(stages: Sequence[Mapping[str, tuple[float, int]]], one: str, other: str, mde: float) -> float:
    tallies = []
    for at, stage in enumerate(stages):
        (weight, won), (other_weight, other_won) = stage.get(one, (0.0, 0)), stage.get(other, (0.0, 0))
        if weight > 0.0 and other_weight > 0.0:
            tallies.append(Tally(at, weight / (weight + other_weight), other_won, won))
    return log_evidence(tallies, bets_above(1.0, mde))
