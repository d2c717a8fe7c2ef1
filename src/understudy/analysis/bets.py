"""Betting on means: the linear bet, for numbers per unit, ratios of sums, and users with many requests.

A unit's score is multiplied by ``A/pi - (1-A)/(1-pi)``: its expectation is then the difference of the arms'
means, whatever the score.  A stake on it that was chosen before the unit came is a fair bet if there is no
difference. The score is the value less what was expected of it (from the units before: their mean, or a
regression on a covariate from before the exposure), which changes no expectation and takes variance away.

Owns :class:`Unit`, :class:`Bankroll` (the state: mergeable, frozen) and :func:`after_units`.
Refuses scores beyond the clip: they are cut, and the share of those that were is told.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024; Deng,
Xu, Kohavi and Walker, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment
data" (CUPED), WSDM 2013.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from understudy.analysis.shares import STEPS, WEIGHTS, log_mixture

_MOST_STAKED = 0.9  # of what a unit can lose at worst: a bet never loses everything
# A value this many clips from what was expected is remembered as no farther: one absurd number must neither
# overflow what is expected of all later units nor rule it.
_FARTHEST_CLIPS = 10.0
_WEIGHTS = tuple(weight / sum(WEIGHTS) for weight in WEIGHTS)


@dataclass(frozen=True)
class Unit:
    """One user, or one matured window of one user.

    Attributes:
        pi: The treatment's share when the unit was assigned.
        treated: It got the treatment.
        value: Of the metric; of a ratio metric, the numerator.
        denominator: Of a ratio metric, e.g. the unit's requests; None for a mean.
        covariate: Something known before the exposure that goes with the value; None for nothing.
    """

    pi: float
    treated: bool
    value: float
    denominator: float | None = None
    covariate: float | None = None


@dataclass(frozen=True)
class Moments:
    """What past units say about the next one: running sums."""

    units: int = 0
    value: float = 0.0
    denominator: float = 0.0
    covariate: float = 0.0
    value_covariate: float = 0.0
    covariate_squared: float = 0.0
    value_squared: float = 0.0
    x_squared: float = 0.0

    def expected(self, unit: Unit) -> float:
        """Return what is expected of a unit's value."""
        if unit.denominator is not None:
            return self.value / self.denominator * unit.denominator if self.denominator else 0.0
        if self.units == 0:
            return 0.0
        mean = self.value / self.units
        if unit.covariate is None or self.units < 3:
            return mean
        covariate = self.covariate / self.units
        spread = self.covariate_squared - self.units * covariate**2
        if spread <= 1e-12 * max(1.0, self.covariate_squared):
            return mean
        slope = (self.value_covariate - self.units * mean * covariate) / spread
        return mean + slope * (unit.covariate - covariate)

    def after(self, unit: Unit, x: float) -> Moments:
        """Add a unit."""
        covariate = 0.0 if unit.covariate is None else unit.covariate
        return Moments(
            self.units + 1,
            self.value + unit.value,
            self.denominator + (0.0 if unit.denominator is None else unit.denominator),
            self.covariate + covariate,
            self.value_covariate + unit.value * covariate,
            self.covariate_squared + covariate**2,
            self.value_squared + unit.value**2,
            self.x_squared + x * x,
        )


@dataclass(frozen=True)
class Bankroll:
    """What the bets on one metric won so far.

    Attributes:
        nulls: Per question, the largest effect under the null, of the sign that the question asks about.
        signs: Per question, +1 when it asks whether the treatment's mean is larger, -1 smaller.
        won: Per question and alternative, logarithm of the wealth.
        moments: Of past units.
        clip, mde: Fixed before use.
        control_units, treatment_units, clipped: Counts.
        x_sum: Of the weighted scores: over the units, the estimated effect.
    """

    nulls: tuple[float, ...]
    signs: tuple[float, ...]
    clip: float
    mde: float
    won: tuple[tuple[float, ...], ...]
    moments: Moments = Moments()
    control_units: int = 0
    treatment_units: int = 0
    clipped: int = 0
    x_sum: float = 0.0

    @classmethod
    def start(cls, nulls: Sequence[float], signs: Sequence[float], *, clip: float, mde: float) -> Bankroll:
        """Begin with nothing won."""
        won = ((0.0,) * len(STEPS),) * len(nulls)
        return cls(tuple(nulls), tuple(signs), clip, mde, won)

    @property
    def units(self) -> int:
        """Both arms' units."""
        return self.moments.units

    @property
    def effect(self) -> float | None:
        """The estimated difference of means, treatment minus control, clipped; None without units."""
        return self.x_sum / self.units if self.units else None

    @property
    def standard_error(self) -> float | None:
        """Of the effect."""
        if self.units < 2 or self.effect is None:
            return None
        variance = max(0.0, self.moments.x_squared / self.units - self.effect**2)
        return math.sqrt(variance / self.units)

    def log_evidence(self, question: int) -> float:
        """Return the natural logarithm of the e-value of one question."""
        return log_mixture(self.won[question], _WEIGHTS)

    def __add__(self, other: Bankroll) -> Bankroll:
        """Merge what was won from different units: the product of two fair bets is one."""
        mine = (self.nulls, self.signs, self.clip, self.mde)
        if mine != (other.nulls, other.signs, other.clip, other.mde):
            raise ValueError("bets on different questions can't be merged")
        moments = Moments(
            *(getattr(self.moments, one.name) + getattr(other.moments, one.name) for one in fields(Moments))
        )
        won = tuple(
            tuple(a + b for a, b in zip(left, right, strict=True))
            for left, right in zip(self.won, other.won, strict=True)
        )
        return replace(
            self,
            won=won,
            moments=moments,
            control_units=self.control_units + other.control_units,
            treatment_units=self.treatment_units + other.treatment_units,
            clipped=self.clipped + other.clipped,
            x_sum=self.x_sum + other.x_sum,
        )

    def to_json(self) -> dict[str, Any]:
        """Render all of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Bankroll:
        """Read what :meth:`to_json` wrote."""
        return cls(
            **{
                **data,
                "nulls": tuple(data["nulls"]),
                "signs": tuple(data["signs"]),
                "won": tuple(tuple(one) for one in data["won"]),
                "moments": Moments(**data["moments"]),
            }
        )


def after_units(bankroll: Bankroll, units: Iterable[Unit]) -> Bankroll:
    """Settle the bets on units, in the order of their exposure.

    Every stake is fixed before its unit: what was expected of it and the variance come from the units before.

    Raises:
        ValueError: a share is not between 0 and 1, or a value is not finite.
    """
    won = [list(one) for one in bankroll.won]
    moments = bankroll.moments
    control_units, treatment_units = bankroll.control_units, bankroll.treatment_units
    clipped, x_sum = bankroll.clipped, bankroll.x_sum
    for unit in units:
        if not 0.0 < unit.pi < 1.0:
            raise ValueError(f"a unit's share is between 0 and 1, not {unit.pi!r}")
        expected = moments.expected(unit)
        score = unit.value - expected
        if not math.isfinite(score):
            raise ValueError("a unit's value is finite")
        cut = min(max(score, -bankroll.clip), bankroll.clip)
        clipped += cut != score
        x = cut / unit.pi if unit.treated else -cut / (1.0 - unit.pi)
        largest = bankroll.clip * max(1.0 / unit.pi, 1.0 / (1.0 - unit.pi))
        # Before there are units, their variance is taken to be a quarter of what the clip allows.
        prior = bankroll.clip**2 / 4.0 * (1.0 / unit.pi + 1.0 / (1.0 - unit.pi))
        variance = (prior + moments.x_squared) / (1.0 + moments.units)
        for wealth, null, sign in zip(won, bankroll.nulls, bankroll.signs, strict=True):
            gain = sign * x - null
            most = _MOST_STAKED / (largest + abs(null))
            # With a null aside of zero, a unit is worth what lies between no effect and the null.
            worth = bankroll.mde if null >= 0.0 else min(bankroll.mde, -null)
            for at, step in enumerate(STEPS):
                wealth[at] += math.log1p(min(step * worth / variance, most) * gain)
        if abs(score) > _FARTHEST_CLIPS * bankroll.clip:
            unit = replace(unit, value=expected + math.copysign(_FARTHEST_CLIPS * bankroll.clip, score))
        moments = moments.after(unit, x)
        control_units += not unit.treated
        treatment_units += unit.treated
        x_sum += x
    return replace(
        bankroll,
        won=tuple(tuple(one) for one in won),
        moments=moments,
        control_units=control_units,
        treatment_units=treatment_units,
        clipped=clipped,
        x_sum=x_sum,
    )
