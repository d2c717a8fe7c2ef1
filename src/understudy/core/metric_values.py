"""What metric math computes with: time series, numbers, arrays, and the operators on them.

Owns missing points: an operation on two series has points where both have one, and a result that is no
finite number (a division by zero) is missing too.  Refuses more work than the request's budget.
Main function: :func:`combine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class MathError(ValueError):
    """An expression that cannot be understood or computed; the text says why, for the caller."""


@dataclass(frozen=True)
class TimeSeries:
    """Values by time.

    Attributes:
        points: Unix seconds -> value, in rising order; what is missing is absent.
        period_s: Seconds between points.
        label: How a result made of several series tells them apart.
    """

    points: Mapping[int, float]
    period_s: int
    label: str = ""


Value = float | TimeSeries | list[TimeSeries]


@dataclass(frozen=True)
class Word:
    """An argument that is no value: a text, or one of REPEAT and LINEAR."""

    text: str
    quoted: bool


Argument = Value | Word


class Work:
    """A budget of points, so that a short expression can't occupy the server for minutes."""

    def __init__(self, points: int) -> None:
        self._left = points

    def spend(self, points: int) -> None:
        """Use some up.

        Raises:
            MathError: nothing is left.
        """
        self._left -= points
        if self._left < 0:
            raise MathError("the request computes too many data points: ask for less time or longer periods")


@dataclass(frozen=True)
class Scope:
    """What an expression can see.

    Attributes:
        values: Results by Id, of metrics and of expressions.
        metric_ids: The Ids that are metrics: METRICS() is these.
        start_s: First whole second asked for.
        end_s: End of the range, exclusive.
        period_s: Of TIME_SERIES.
    """

    values: Mapping[str, Value]
    metric_ids: tuple[str, ...]
    start_s: int
    end_s: int
    period_s: int
    work: Work


def apply(operator: str, one: float, other: float) -> float | None:
    """Compute with two numbers; None where there is no finite result."""
    try:
        value = float(_APPLY[operator](one, other))
    except (ZeroDivisionError, OverflowError, TypeError):  # TypeError: a root of a negative is complex
        return None
    return value if -float("inf") < value < float("inf") else None


_APPLY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": lambda a, b: a**b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "AND": lambda a, b: a != 0.0 and b != 0.0,
    "OR": lambda a, b: a != 0.0 or b != 0.0,
}


def combine(operator: str, one: Value, other: Value, work: Work) -> Value:
    """Apply an operator to numbers, series (where both have a point) and arrays (to each member)."""
    if isinstance(one, list):
        if isinstance(other, list):
            raise MathError(f"{operator} takes an array on one side only")
        return [_combine(operator, member, other, work) for member in one]
    if isinstance(other, list):
        return [_combine(operator, one, member, work) for member in other]
    if isinstance(one, float) and isinstance(other, float):
        value = apply(operator, one, other)
        if value is None:
            raise MathError(f"{one:g} {operator} {other:g} is no number")
        return value
    return _combine(operator, one, other, work)


def _combine(operator: str, one: float | TimeSeries, other: float | TimeSeries, work: Work) -> TimeSeries:
    lead = one if isinstance(one, TimeSeries) else other
    assert isinstance(lead, TimeSeries)
    work.spend(len(lead.points) + 1)
    points: dict[int, float] = {}
    for at_s in lead.points:
        left = one.points[at_s] if isinstance(one, TimeSeries) else one
        right = other.points.get(at_s) if isinstance(other, TimeSeries) else other
        if right is not None and (value := apply(operator, left, right)) is not None:
            points[at_s] = value
    period_s = max(side.period_s for side in (one, other) if isinstance(side, TimeSeries))
    return TimeSeries(points, period_s, lead.label)
