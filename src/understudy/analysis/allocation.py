"""Traffic for a bandit: top-two Thompson sampling, as shares.

Main function: :func:`top_two_shares`.  The shares are computed, not drawn: they are the weights of the next
stage, so that every request's share is known and the evidence stays valid.

Source: Russo, "Simple Bayesian algorithms for best arm identification", COLT 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_POINTS = 2_000
MOST_VARIANTS = 10


class StageCounts(NamedTuple):
    """One variant's counts of a stretch of time in which its share stood still.

    Attributes:
        share: Of all requests, in (0, 1].
    """

    share: float
    events: int
    requests: int


def pooled_counts(stages: Sequence[StageCounts], *, better: str = "higher") -> tuple[int, int]:
    """Bring the counts of all stages to as many successes and trials as they are worth together.

    Each request weighs 1 / share, so that a stage weighs by its traffic for every variant alike: were they
    just added up, whoever had most of the good hours would look best.

    Args:
        better: ``higher`` when events are successes, ``lower`` when they are failures.

    Returns:
        Successes and trials; the trials are Kish's effective number.

    >>> pooled_counts([StageCounts(0.5, 50, 500), StageCounts(0.1, 20, 100)])
    (52, 346)
    """
    weight = sum(one.requests / one.share for one in stages)
    if not weight > 0.0:
        return 0, 0
    rate = sum(one.events / one.share for one in stages) / weight
    trials = round(weight * weight / sum(one.requests / one.share**2 for one in stages))
    won = rate if better == "higher" else 1.0 - rate
    return min(trials, round(won * trials)), trials


def top_two_shares(
    successes: Sequence[int], trials: Sequence[int], *, floor: float = 0.10, leader: float = 0.5
) -> tuple[float, ...]:
    """Share the traffic among variants by how likely each is the best, or the best but one.

    Args:
        successes, trials: Per variant so far, from 2 to 10 variants; rates have a uniform prior.
        floor: Least share of every variant; at most half of an equal share.
        leader: How often the likeliest best is taken; else the best of the others.

    Returns:
        Shares that add up to 1.

    Raises:
        ValueError: numbers that don't fit.

    >>> [round(one, 2) for one in top_two_shares([10, 30, 10], [100, 100, 100])]
    [0.28, 0.45, 0.28]
    """
    count = len(trials)
    if not 2 <= count <= MOST_VARIANTS or len(successes) != count:
        raise ValueError(f"from 2 to {MOST_VARIANTS} variants, with successes and trials each")
    if any(not 0 <= won <= all_ for won, all_ in zip(successes, trials, strict=True)):
        raise ValueError("successes are between 0 and the trials")
    if not 0.0 <= floor < 1.0 or not 0.0 < leader <= 1.0:
        raise ValueError("floor is in [0, 1) and leader in (0, 1]")
    best = probabilities_of_best(successes, trials)
    # Of the second draw: the best of the others, given who was best.
    second = [
        sum(other * best[at] / max(1.0 - other, 1e-300) for to, other in enumerate(best) if to != at)
        if max(best) < 1.0
        else 1.0 / (count - 1) * (best[at] == 0.0)
        for at in range(count)
    ]
    raw = [leader * first + (1.0 - leader) * then for first, then in zip(best, second, strict=True)]
    total = sum(raw)
    least = min(floor, 0.5 / count)
    return tuple(least + (1.0 - count * least) * one / total for one in raw)


def probabilities_of_best(successes: Sequence[int], trials: Sequence[int]) -> tuple[float, ...]:
    """Return how likely each variant has the largest rate, with uniform priors.

    Integrates each posterior's density times the others' distribution functions over a grid that covers every
    posterior.
    """
    shapes = [(won + 1.0, all_ - won + 1.0) for won, all_ in zip(successes, trials, strict=True)]
    means = [a / (a + b) for a, b in shapes]
    spreads = [math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1.0))) for a, b in shapes]
    low = max(0.0, min(mean - 8.0 * spread for mean, spread in zip(means, spreads, strict=True)))
    high = min(1.0, max(mean + 8.0 * spread for mean, spread in zip(means, spreads, strict=True)))
    # Fine where the narrowest posterior is: a grid of its own quantile-like points would do no better.
    points = max(_POINTS, min(40_000, math.ceil((high - low) / min(spreads) * 20.0)))
    width = (high - low) / points
    at = [low + (step + 0.5) * width for step in range(points)]
    masses = [_masses(a, b, at, width) for a, b in shapes]
    below = []
    for mass in masses:
        running, cumulated = 0.0, []
        for one in mass:
            cumulated.append(running + one / 2.0)
            running += one
        below.append(cumulated)
    chances = [
        sum(
            mass * math.prod(below[other][step] for other in range(len(shapes)) if other != arm)
            for step, mass in enumerate(masses[arm])
        )
        for arm in range(len(shapes))
    ]
    total = sum(chances)
    return tuple(chance / total for chance in chances)


def _masses(a: float, b: float, at: Sequence[float], width: float) -> list[float]:
    constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    masses = [width * math.exp(constant + (a - 1.0) * math.log(x) + (b - 1.0) * math.log1p(-x)) for x in at]
    total = sum(masses)
    return [mass / total for mass in masses]
