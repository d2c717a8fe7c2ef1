"""Betting on which arm an event came from: the share e-process.

When requests are assigned at random, the treatment's share pi of them is known, and the treatment has rho
times the control's rate, then an event is the treatment's with probability ``pi*rho / (1 - pi + pi*rho)``,
whatever the rate itself is and however it drifts.  So errors, conversions, slow answers, sample ratio and the
disagreements of two models are one test: exact, valid at every look and through every ramp (a stage per
share), with two integers per stage as its whole state.

Owns the counts (:class:`Tally`), their merging, the e-values (:func:`log_evidence`), the bets on requests
without an event (:func:`log_without_event`) and the confidence sequence of the ratio
(:func:`ratio_interval`).
Refuses to look at time: what is counted, and when, is the caller's.

Source: Ville 1939 (P(sup E >= 1/alpha) <= alpha); Lindon and Malek, "Anytime-valid inference for multinomial
count data", NeurIPS 2022 ("only two integers"); Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", JRSS-B 2024, for mixtures of bets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

# Multiples of log(MDE), and their weights: near the best at the MDE, and at half and twice of it.
STEPS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
WEIGHTS = (0.5, 1.0, 2.0, 4.0, 2.0, 1.0, 0.5, 0.5)
# For pairs, whose disagreements are few and dear: nearly as few at the MDE as a bet on it alone needs (median
# 117 and 117, 80 % 224 and 219 at an MDE of 1.5), which at half of it would fail in a fifth of tests.
CLOSE_STEPS = (0.6, 1.0, 1.4)
CLOSE_WEIGHTS = (1.0, 6.0, 1.0)
# A bet that a request will hardly have no event could lose nearly everything on one: it is not made.
_MOST_LIKELY = 0.98
# The prior of the confidence sequence: standard normal on log(rho), at 141 points.
_PRIOR = tuple((at / 20.0, math.exp(-((at / 20.0) ** 2) / 2.0)) for at in range(-70, 71))
_PRIOR_TOTAL = sum(weight for _, weight in _PRIOR)


@dataclass(frozen=True)
class Tally:
    """What was counted while the shares stayed the same.

    Attributes:
        stage: Id; the assignment log's.
        pi: The treatment's share of what both arms get, in (0, 1): w_t / (w_c + w_t).
        control_events, treatment_events: Requests (or units) with the event.
        control_requests, treatment_requests: All of them.
    """

    stage: int
    pi: float
    control_events: int = 0
    treatment_events: int = 0
    control_requests: int = 0
    treatment_requests: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.pi < 1.0:
            raise ValueError(f"a stage's share is between 0 and 1, not {self.pi!r}")
        for count in (
            self.control_events,
            self.treatment_events,
            self.control_requests,
            self.treatment_requests,
        ):
            if type(count) is not int or count < 0:
                raise ValueError("a stage's counts are whole numbers and not negative")

    def __add__(self, other: Tally) -> Tally:
        if (self.stage, self.pi) != (other.stage, other.pi):
            raise ValueError(f"stage {self.stage} has two shares: {self.pi} and {other.pi}")
        return Tally(
            self.stage,
            self.pi,
            self.control_events + other.control_events,
            self.treatment_events + other.treatment_events,
            self.control_requests + other.control_requests,
            self.treatment_requests + other.treatment_requests,
        )

    def swapped(self) -> Tally:
        """Exchange the arms: the ratio becomes its inverse."""
        return Tally(
            self.stage,
            1.0 - self.pi,
            self.treatment_events,
            self.control_events,
            self.treatment_requests,
            self.control_requests,
        )

    def to_json(self) -> list[Any]:
        """Render as ``[stage, pi, c, t, control requests, treatment requests]``."""
        return [
            self.stage,
            self.pi,
            self.control_events,
            self.treatment_events,
            self.control_requests,
            self.treatment_requests,
        ]


Tallies = tuple[Tally, ...]


class Split(NamedTuple):
    """How many of something each arm got; as events of :func:`log_evidence`, they are held against the
    share."""

    pi: float
    control_events: int
    treatment_events: int


class Events(Protocol):
    """What an e-value is computed from; expected events, to plan with, need not be whole."""

    @property
    def pi(self) -> float: ...
    @property
    def control_events(self) -> float: ...
    @property
    def treatment_events(self) -> float: ...


class Chances(Events, Protocol):
    """Events and what they are of."""

    @property
    def treatment_requests(self) -> float: ...


def tallies_of(stages: Iterable[Tally]) -> Tallies:
    """Merge counts, in any order: one stage per id, in the ids' order.

    Raises:
        ValueError: a stage has two shares.

    >>> tallies_of([Tally(1, 0.5, 1), Tally(1, 0.5, 2)])[0].control_events
    3
    """
    merged: dict[int, Tally] = {}
    for one in stages:
        before = merged.get(one.stage)
        merged[one.stage] = one if before is None else before + one
    return tuple([merged[stage] for stage in sorted(merged)])


def merged(before: Tallies, new: Tallies) -> Tallies:
    """Merge two that are merged in themselves; nearly always new counts are of the last stage."""
    if len(new) == 1 and before and before[-1].stage == new[0].stage:
        return (*before[:-1], before[-1] + new[0])
    return tallies_of((*before, *new))


def tallies_from_json(data: Any) -> Tallies:
    """Read a list of what :meth:`Tally.to_json` wrote."""
    return tallies_of(Tally(*one) for one in data)


def swapped(counts: Tallies) -> Tallies:
    """Exchange the arms in every stage."""
    return tuple(one.swapped() for one in counts)


# Compared by identity: made once and cached, and hashing its tuples would cost as much as the e-value.
@dataclass(frozen=True, eq=False)
class Bets:
    """A null hypothesis about the ratio, and what is bet on instead.

    Attributes:
        null: The ratio at the border of the null.
        ratios: Alternatives, all on one side of the null.
        weights: Of the alternatives; they add up to 1.
    """

    null: float
    ratios: tuple[float, ...]
    weights: tuple[float, ...]


@lru_cache(maxsize=512)
def bets_above(null: float, mde: float, *, close: bool = False) -> Bets:
    """Bet that the ratio is above ``null``; ``mde`` > 1 is worth finding.

    Args:
        close: Keep the alternatives near the MDE, for pairs.
    """
    steps, weights = (CLOSE_STEPS, CLOSE_WEIGHTS) if close else (STEPS, WEIGHTS)
    ratios = tuple(null * mde**step for step in steps)
    return Bets(null, ratios, tuple(weight / sum(weights) for weight in weights))


@lru_cache(maxsize=512)
def bets_below(null: float, mde: float, *, close: bool = False) -> Bets:
    """Bet that the ratio is below ``null``; a ratio of ``1 / mde`` is worth finding."""
    above = bets_above(1.0, mde, close=close)
    return Bets(null, tuple(null / ratio for ratio in above.ratios), above.weights)


@lru_cache(maxsize=512)
def bets_within(margin: float, points: int = 9) -> Bets:
    """Bet that the ratio is below ``margin`` > 1 because nothing changed: from half to just below it."""
    low, high = 0.5, margin * math.exp(-0.05)
    ratios = tuple(low * (high / low) ** (at / (points - 1)) for at in range(points))
    return Bets(margin, ratios, (1.0 / points,) * points)


@lru_cache(maxsize=512)
def bets_both(deviations: tuple[float, ...]) -> Bets:
    """Bet that the ratio is not 1, by the given logarithms to either side."""
    ratios = tuple(math.exp(sign * one) for one in deviations for sign in (-1.0, 1.0))
    return Bets(1.0, ratios, (1.0 / len(ratios),) * len(ratios))


@lru_cache(maxsize=4096)
def _steps(bets: Bets, pi: float) -> tuple[tuple[float, float], ...]:
    """Return per alternative what an event of the treatment, and of the control, adds to the logarithm."""
    null_stake = math.log(1.0 - pi + pi * bets.null)
    steps = []
    for ratio in bets.ratios:
        control = null_stake - math.log(1.0 - pi + pi * ratio)
        steps.append((math.log(ratio / bets.null) + control, control))
    return tuple(steps)


def log_evidence(counts: Sequence[Events], bets: Bets, without_event: Sequence[float] | None = None) -> float:
    """Weigh the null hypothesis of some bets.

    Args:
        without_event: Logarithms won on requests without an event, per alternative: see
            :func:`log_without_event`.

    Returns:
        Natural logarithm of the e-value.

    >>> round(math.exp(log_evidence([Tally(1, 0.1, 0, 4)], bets_above(1.0, 3.0))))
    488
    """
    logs = [0.0] * len(bets.ratios) if without_event is None else list(without_event)
    for one in counts:
        control, treatment = one.control_events, one.treatment_events
        if control or treatment:
            logs = [
                log + (treatment * won_treatment + control * won_control)
                for log, (won_treatment, won_control) in zip(logs, _steps(bets, one.pi), strict=True)
            ]
    return log_mixture(logs, bets.weights)


def log_mixture(logs: Sequence[float], weights: Sequence[float]) -> float:
    """Return log(sum of weight * exp(log)) without overflow."""
    largest = max(logs)
    if largest == -math.inf:
        return -math.inf
    exp, total = math.exp, 0.0
    for one, weight in zip(logs, weights, strict=True):
        total += weight * exp(one - largest)
    return largest + math.log(total)


def log_without_event(batch: Sequence[Tally], bets: Bets, rate: float) -> tuple[float, ...]:
    """Return what a batch's requests without an event add to the logarithm, per alternative.

    The null must be a ratio of 1: then the expected factor of a request is 1 + c*(p_t - p_c) with c >= 0 for
    bets above 1 (c <= 0 below), whatever ``rate`` is; for other ratios it is not.

    Args:
        rate: Both arms' rate together, known before the batch, in (0, 1).

    Raises:
        ValueError: the null is not 1.
    """
    if bets.null != 1.0:
        raise ValueError("requests without an event can be bet on only against a ratio of 1")
    won = [0.0] * len(bets.ratios)
    for one in batch:
        control = one.control_requests - one.control_events
        treatment = one.treatment_requests - one.treatment_events
        for at, ratio in enumerate(bets.ratios):
            control_rate = rate / (1.0 - one.pi + one.pi * ratio)
            treatment_rate = ratio * control_rate
            if max(control_rate, treatment_rate) < _MOST_LIKELY:
                won[at] += control * math.log((1.0 - control_rate) / (1.0 - rate))
                won[at] += treatment * math.log((1.0 - treatment_rate) / (1.0 - rate))
    return tuple(won)


def log_rate_below(counts: Sequence[Chances], limit: float) -> float:
    """Weigh that the treatment's own rate is at or above ``limit``; large when it is far below.

    Bets on rates of 0, a half and nine tenths of the limit.  The rate may change with time as long as it
    stays at or above the limit under the null.

    Returns:
        Natural logarithm of the e-value.

    >>> round(math.exp(log_rate_below([Tally(1, 0.5, 0, 0, 0, 3000)], 0.001)), 1)
    10.1
    """
    events = sum(one.treatment_events for one in counts)
    without = sum(one.treatment_requests for one in counts) - events
    logs = []
    for part in (0.0, 0.5, 0.9):
        won = without * (math.log1p(-part * limit) - math.log1p(-limit))
        logs.append(won + events * math.log(part) if part else (won if events == 0 else -math.inf))
    return log_mixture(logs, (0.4, 0.4, 0.2))


def log_likelihood(counts: Sequence[Events], log_ratio: float) -> float:
    """Return the log likelihood of a ratio, given how many events there were in each stage."""
    ratio = math.exp(log_ratio)
    total = 0.0
    for one in counts:
        events = one.control_events + one.treatment_events
        if events:
            total += one.treatment_events * log_ratio - events * math.log(1.0 - one.pi + one.pi * ratio)
    return total


def estimate_ratio(counts: Sequence[Events]) -> float | None:
    """Return the most likely ratio; None without events in both arms."""
    if not any(one.control_events for one in counts) or not any(one.treatment_events for one in counts):
        return None
    return math.exp(_most_likely(counts))


def ratio_interval(counts: Sequence[Events], alpha: float = 0.05) -> tuple[float, float]:
    """Return a confidence sequence's interval for the ratio: it covers at all looks together.

    Assumes one ratio in all stages; if it changes, the interval is of an average.

    >>> [round(one, 2) for one in ratio_interval([Tally(1, 0.1, 91, 11)])]
    [0.38, 2.49]
    """
    mixture = log_mixture(
        [log_likelihood(counts, log_ratio) for log_ratio, _ in _PRIOR],
        [weight / _PRIOR_TOTAL for _, weight in _PRIOR],
    )
    needed = mixture + math.log(alpha)
    peak = _most_likely(counts)
    low = _crossing(counts, needed, peak, -20.0)
    high = _crossing(counts, needed, peak, 20.0)
    return (0.0 if low is None else math.exp(low)), (math.inf if high is None else math.exp(high))


def _most_likely(counts: Sequence[Events]) -> float:
    """Return the logarithm of the ratio with the largest likelihood, which is concave in it."""

    def slope(log_ratio: float) -> float:
        ratio = math.exp(log_ratio)
        return sum(
            one.treatment_events
            - (one.control_events + one.treatment_events) * one.pi * ratio / (1.0 - one.pi + one.pi * ratio)
            for one in counts
        )

    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if slope(middle) > 0.0:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _crossing(counts: Sequence[Events], needed: float, inside: float, outside: float) -> float | None:
    """Find where the likelihood falls to ``needed`` between two points; None when it does not."""
    if log_likelihood(counts, outside) >= needed:
        return None
    for _ in range(60):
        middle = (inside + outside) / 2.0
        if log_likelihood(counts, middle) >= needed:
            inside = middle
        else:
            outside = middle
    return (inside + outside) / 2.0


def excess_evidence(
    events: int, control_events: int, share: float = 0.5, smallest_ratio: float = 1.5
) -> float:
    """Weigh the hypothesis that events are not more frequent than in the control.

    Args:
        events: Events seen, of all chances looked at.
        control_events: Events seen of the control's chances.
        share: Chances of ``events`` among all chances, in (0, 1); a half for pairs.
        smallest_ratio: Ratio of frequencies that is worth finding, > 1.

    Returns:
        Natural logarithm of the e-value.

    Valid for pairs at every look.  For two sets of independent chances it is valid at one look: given how
    many events there were, ``events`` is spread less than a binomial, and the e-value is convex in it
    (Hoeffding 1963, theorem 4).

    >>> round(excess_evidence(0, 0), 6), excess_evidence(20, 2) > math.log(20) > excess_evidence(20, 18)
    (0.0, True)
    """
    return log_evidence((Tally(0, share, control_events, events),), bets_above(1.0, smallest_ratio))
