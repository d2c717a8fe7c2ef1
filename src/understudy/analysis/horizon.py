"""A declared horizon: a few planned looks, O'Brien and Fleming's boundary.

Who can say beforehand how many requests a test may take needs fewer of them: at most the horizon, where a
fixed-horizon test needs about as many.  The statistic is the score test of the share, given how many events
each
stage had: valid through ramps and drift as the e-process is, but only at the planned looks.

Owns :func:`boundary`, :func:`looks_after` and :func:`crossed`.
Source: O'Brien and Fleming 1979; Mantel and Haenszel 1959; Armitage, McPherson and Rowe 1969 for the
recursive integration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from understudy.analysis.shares import Tallies

_POINTS = 96  # of Simpson's rule per look: constants are right to 1e-4


@dataclass(frozen=True)
class Look:
    """What was seen at a planned look.

    Attributes:
        fraction: Of the horizon's requests, in (0, 1].
        z: Of the score test that bad things are not fewer with the treatment; large when they are fewer.
    """

    fraction: float
    z: float


@lru_cache(maxsize=64)
def boundary(looks: int, alpha: float) -> float:
    """Return O'Brien and Fleming's constant: reject at a look where ``z * sqrt(fraction)`` reaches it.

    Args:
        looks: Equally spaced, from 1 to 20.
        alpha: One-sided.

    >>> round(boundary(5, 0.025), 3), round(boundary(1, 0.05), 3)
    (2.04, 1.645)
    """
    low, high = 0.5, 6.0
    for _ in range(40):
        middle = (low + high) / 2.0
        if _crossing_probability(looks, middle) > alpha:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _crossing_probability(looks: int, constant: float) -> float:
    """Return how likely a Brownian motion is at or above ``constant`` at any of the looks' times.

    The density of staying below is carried from look to look on a grid from -6 to the constant.
    """
    step_s = math.sqrt(1.0 / looks)
    bottom = -6.0
    width = (constant - bottom) / _POINTS
    points = [bottom + at * width for at in range(_POINTS + 1)]
    simpson = [
        width / 3.0 * (1.0 if at in (0, _POINTS) else 4.0 if at % 2 else 2.0) for at in range(_POINTS + 1)
    ]
    scale = 1.0 / (step_s * math.sqrt(2.0 * math.pi))
    density = [scale * math.exp(-0.5 * (point / step_s) ** 2) for point in points]
    crossed_at = _above(constant / step_s)
    # Kernels depend on the difference of two points only.
    kernel = [scale * math.exp(-0.5 * (at * width / step_s) ** 2) for at in range(_POINTS + 1)]
    leaving = [_above((constant - point) / step_s) for point in points]
    for _ in range(looks - 1):
        mass = [weight * one for weight, one in zip(simpson, density, strict=True)]
        crossed_at += sum(one * out for one, out in zip(mass, leaving, strict=True))
        density = [
            sum(one * kernel[abs(at - to)] for at, one in enumerate(mass)) for to in range(_POINTS + 1)
        ]
    return crossed_at


def _above(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def score_z(counts: Tallies) -> float:
    """Return the score statistic of "not fewer in the treatment", stage by stage (Cochran, Mantel and
    Haenszel)."""
    expected = variance = seen = 0.0
    for one in counts:
        events = one.control_events + one.treatment_events
        requests = one.control_requests + one.treatment_requests
        if requests < 2:
            continue
        seen += one.treatment_events
        expected += events * one.treatment_requests / requests
        arms = one.control_requests * one.treatment_requests
        variance += events * (requests - events) * arms / (requests**2 * (requests - 1.0))
    return (expected - seen) / math.sqrt(variance) if variance else 0.0


def looks_after(
    looks: tuple[Look, ...], counts: Tallies, horizon_requests: int, planned: int
) -> tuple[Look, ...]:
    """Add a look if its time has come; what comes after the horizon is not looked at."""
    requests = sum(one.control_requests + one.treatment_requests for one in counts)
    fraction = min(1.0, requests / horizon_requests)
    due = math.floor(fraction * planned + 1e-9)
    done = math.floor(looks[-1].fraction * planned + 1e-9) if looks else 0
    return (*looks, Look(fraction, score_z(counts))) if due > done else looks


def crossed(looks: tuple[Look, ...], planned: int, alpha: float) -> bool:
    """Say whether any look reached the boundary."""
    constant = boundary(planned, alpha)
    return any(look.z * math.sqrt(look.fraction) >= constant for look in looks)
