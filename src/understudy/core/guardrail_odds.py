"""How likely an alarm fires while a new fleet bakes, and how bad a model must be for it.

Owns the arithmetic: exact binomial tails for rates and percentiles, a normal approximation for means and
counts of requests, and an exact chain over periods for M out of N.  Knows nothing of alarms' names.
Main functions: :func:`breach_probability`, :func:`firing_probability`.

Source: statistics of 0/1 samples (k errors of n requests is binomial); a percentile exceeds a threshold when
more than (1 - q) n samples do, which is binomial too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from understudy.core.alarm_evaluation import AlarmRule
from understudy.core.metrics import Summary, value_of
from understudy.core.statistics import Statistic, cut, parse_statistic

LONGEST_CHAIN = 7  # periods whose every history is followed; beyond it windows are taken as independent


@dataclass(frozen=True)
class Step:
    """A stretch of a deployment in which the new fleet has one share of the traffic.

    Attributes:
        share: Of the requests, in (0, 1].
        duration_s: How long it is watched.
    """

    share: float
    duration_s: float


@dataclass(frozen=True)
class Samples:
    """What one period of a watched metric holds.

    Attributes:
        count: Expected samples.
        exceed: Probability that one sample is greater than a number; of 0/1 metrics at 0: the rate.
        mean, deviation: Of one sample.
        is_flag: A sample is 0 or 1.
        trimmed: Mean and deviation of one sample of a trimmed or winsorized mean, as if none were cut away.
    """

    count: float
    exceed: Callable[[float], float]
    mean: float
    deviation: float
    is_flag: bool = False
    trimmed: Callable[[Statistic], tuple[float, float] | None] | None = None


BoundaryOf = Callable[[int], tuple[bool, int] | None]
"""See :mod:`understudy.core.guardrail_math`."""


# --- kinds of samples ----------------------------------------------------------------------------------


def flags(count: float, rate: float) -> Samples:
    """Describe 0/1 samples: errors."""
    return Samples(
        count,
        lambda threshold: 1.0 if threshold < 0.0 else rate if threshold < 1.0 else 0.0,
        rate,
        math.sqrt(max(0.0, rate * (1.0 - rate))),
        is_flag=True,
    )


def measured(count: float, summary: Summary, factor: float = 1.0) -> Samples:
    """Describe samples like those that were measured, each multiplied by a factor."""
    total = sum(summary.buckets.values())
    pairs = sorted((value_of(bucket), held) for bucket, held in summary.buckets.items())
    mean = summary.sum / summary.count
    variance = sum(held * (value - mean) ** 2 for value, held in pairs) / total

    def exceed(threshold: float) -> float:
        return sum(held for value, held in pairs if value * factor > threshold) / total

    def trimmed(wanted: Statistic) -> tuple[float, float] | None:
        inside, below, above = cut(wanted, [(value * factor, held) for value, held in pairs])
        if not inside:
            return None
        clamped = [*inside, (inside[0][0], below), (inside[-1][0], above)]
        if wanted.kind == "WM":  # what lies outside counts as the bound it lies beyond
            return _moments(clamped)
        middle, deviation = _moments(inside)
        kept = sum(held for _, held in inside) / total
        if not wanted.ranked:
            return middle, deviation / math.sqrt(kept)
        # Where samples decide the bounds, too, the winsorized deviation tells (Tukey and McLaughlin, 1963).
        return middle, _moments(clamped)[1] / kept

    return Samples(count, exceed, mean * factor, math.sqrt(variance) * factor, trimmed=trimmed)


def _moments(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return mean and deviation of (value, how often)."""
    total = sum(held for _, held in samples)
    mean = sum(held * value for value, held in samples) / total
    return mean, math.sqrt(sum(held * (value - mean) ** 2 for value, held in samples) / total)


def mixed(old: Samples, new: Samples) -> Samples:
    """Describe what an alarm sees that watches two fleets at once."""
    count = old.count + new.count
    if count <= 0.0:
        return new
    share = new.count / count
    mean = (1 - share) * old.mean + share * new.mean
    square = (1 - share) * (old.deviation**2 + old.mean**2) + share * (new.deviation**2 + new.mean**2)
    return Samples(
        count,
        lambda threshold: (1 - share) * old.exceed(threshold) + share * new.exceed(threshold),
        mean,
        math.sqrt(max(0.0, square - mean**2)),
        new.is_flag,
    )


# --- one period ----------------------------------------------------------------------------------------


def breach_probability(
    rule: AlarmRule, statistic: str, samples: Samples, boundary: BoundaryOf | None = None
) -> float | None:
    """Return how likely one period breaches; missing periods count as TreatMissingData says.

    Args:
        boundary: Of metric math on 0/1 samples: which numbers of errors breach; instead of the statistic.
    Returns:
        None for a statistic that is not judged (trimmed counts and their kin).
    """
    if samples.count <= 0.0:
        return 1.0 if rule.treat_missing == "breaching" else 0.0
    if boundary is None:
        present = _present_breach(rule, statistic, samples)
    else:
        present = _bounded_breach(boundary, samples)
    if present is None:
        return None
    empty = math.exp(-samples.count)  # requests come as they come: Poisson
    return (1 - empty) * present + (empty if rule.treat_missing == "breaching" else 0.0)


def _bounded_breach(boundary: BoundaryOf, samples: Samples) -> float | None:
    number = max(1, round(samples.count))
    found = boundary(number)
    if found is None:
        return None
    many_breach, first = found
    above = tail(number, samples.mean, first)
    return above if many_breach else 1.0 - above


def _present_breach(rule: AlarmRule, statistic: str, samples: Samples) -> float | None:
    """Return how likely a period breaches that has samples."""
    greater = rule.comparison.startswith("GreaterThan")
    threshold = rule.threshold
    number = max(1, round(samples.count))
    kind = parse_statistic(statistic)
    if kind.kind == "Average" and samples.is_flag:
        return _binomial_breach(rule, number, samples.mean, lambda k: k / number)
    if kind.kind == "Sum" and samples.is_flag:
        return _binomial_breach(rule, number, samples.mean, float)
    if kind.kind == "Average":
        return _normal_breach(greater, threshold, samples.mean, samples.deviation / math.sqrt(number))
    if kind.kind == "Sum":
        spread = math.sqrt(samples.count * (samples.deviation**2 + samples.mean**2))
        return _normal_breach(greater, threshold, samples.count * samples.mean, spread)
    if kind.kind in ("TM", "WM") and samples.trimmed is not None:
        found = samples.trimmed(kind)
        if found is None:
            return None
        mean, deviation = found
        return _normal_breach(greater, threshold, mean, deviation / math.sqrt(number))
    if kind.kind == "SampleCount":
        return _normal_breach(greater, threshold, samples.count, math.sqrt(samples.count))
    share = {"Maximum": 1.0, "Minimum": 0.0}.get(kind.kind)
    if share is None:
        if kind.kind != "p" or kind.high is None:
            return None
        share = kind.high / 100.0
    # The nearest rank exceeds a threshold when so many samples do.
    needed = number - max(1, math.ceil(share * number * (1 - 1e-12))) + 1
    inclusive = rule.comparison in ("GreaterThanOrEqualToThreshold", "LessThanThreshold")
    exceeding = samples.exceed(_just_below(threshold) if inclusive else threshold)
    above = tail(number, exceeding, needed)
    return above if greater else 1.0 - above


def _just_below(threshold: float) -> float:
    return math.nextafter(threshold, -math.inf)


def _binomial_breach(rule: AlarmRule, number: int, rate: float, value: Callable[[int], float]) -> float:
    """Sum the outcomes 0..number that breach; ``value`` rises with the outcome, so they are one end."""
    greater = rule.comparison.startswith("GreaterThan")
    low, high = 0, number + 1  # the first outcome on the far side of the threshold
    while low < high:
        middle = (low + high) // 2
        if rule.is_breaching(value(middle)) is greater:
            high = middle
        else:
            low = middle + 1
    above = tail(number, rate, low)
    return above if greater else 1.0 - above


def tail(number: int, rate: float, least: int) -> float:
    """Return P(Binomial(number, rate) >= least), exactly but for rounding.

    >>> round(tail(60, 0.01, 2), 4), tail(5, 0.5, 0), tail(5, 0.5, 6)
    (0.1212, 1.0, 0.0)
    """
    if least <= 0:
        return 1.0
    if least > number or rate <= 0.0:
        return 0.0
    if rate >= 1.0:
        return 1.0
    if least <= number * rate:
        return 1.0 - _sum_terms(number, 1.0 - rate, number - least + 1)
    return _sum_terms(number, rate, least)


def _sum_terms(number: int, rate: float, least: int) -> float:
    """Add the terms of a tail beyond the mean: they fall from the first on."""
    term = math.exp(
        math.lgamma(number + 1)
        - math.lgamma(least + 1)
        - math.lgamma(number - least + 1)
        + least * math.log(rate)
        + (number - least) * math.log1p(-rate)
    )
    total, odds = 0.0, rate / (1.0 - rate)
    for k in range(least, number + 1):
        total += term
        if term < total * 1e-17:
            break
        term *= (number - k) / (k + 1) * odds
    return min(1.0, total)


def _normal_breach(greater: bool, threshold: float, mean: float, deviation: float) -> float:
    if deviation <= 0.0:
        above = 1.0 if mean > threshold else 0.0
    else:
        above = 0.5 * math.erfc((threshold - mean) / deviation / math.sqrt(2.0))
    return above if greater else 1.0 - above


# --- a whole bake --------------------------------------------------------------------------------------


def periods_of(rule: AlarmRule, steps: Iterable[Step]) -> list[int]:
    """Return how many whole periods of an alarm fit into each step."""
    return [int(step.duration_s // rule.period_s) for step in steps]


def firing_probability(rule: AlarmRule, breaches: Sequence[float], periods: Sequence[int]) -> float:
    """Return how likely an alarm fires at least once.

    Args:
        breaches: Per step, how likely one period breaches; periods are independent.
        periods: Per step, how many there are.

    >>> rule = AlarmRule("GreaterThanThreshold", 1.0, 60, 1, 1)
    >>> round(firing_probability(rule, [0.1], [10]), 4)
    0.6513
    """
    window, enough = rule.evaluation_periods, rule.datapoints_to_alarm
    if window > LONGEST_CHAIN:
        quiet = 1.0
        for breach, count in zip(breaches, periods, strict=True):
            fires = tail(window, breach, enough)
            quiet *= (1.0 - fires) ** max(0, count - enough + 1)
        return 1.0 - quiet
    # Follow every history of the last periods, as bits; before the first there was none that breached.
    chances: Mapping[int, float] = {0: 1.0}
    fired = 0.0
    mask = (1 << (window - 1)) - 1
    for breach, count in zip(breaches, periods, strict=True):
        for _ in range(count):
            following: dict[int, float] = {}
            for history, chance in chances.items():
                for bit, weight in ((1, breach), (0, 1.0 - breach)):
                    if weight == 0.0:
                        continue
                    if bit + history.bit_count() >= enough:
                        fired += chance * weight
                    else:
                        after = ((history << 1) | bit) & mask
                        following[after] = following.get(after, 0.0) + chance * weight
            chances = following
    return min(1.0, fired)
