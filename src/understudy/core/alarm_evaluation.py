"""From datapoints to an alarm's state: which ones count, what is missing, M out of N.

Owns the judgement; reads nothing and keeps nothing.  Refuses to decide on what is not there: what a
missing datapoint means is the alarm's TreatMissingData.  Main function: :func:`evaluate`.

How: more periods are looked at than are evaluated (the evaluation range).  With at least as many
datapoints in the range as EvaluationPeriods, the newest ones decide and TreatMissingData plays no part.
With fewer, all of them count and the rest is filled in.

Source: "Evaluating an alarm", "Configuring how CloudWatch alarms treat missing data" (its two tables) and
"Percentile-based alarms and low data samples", Amazon CloudWatch User Guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.core.alarms import AlarmState
from understudy.core.statistics import parse_statistic

EXTRA_PERIODS = 2  # the guide's tables: 5 datapoints are retrieved for 3 evaluation periods

COMPARISONS = {
    "GreaterThanOrEqualToThreshold": "greater than or equal to",
    "GreaterThanThreshold": "greater than",
    "LessThanThreshold": "less than",
    "LessThanOrEqualToThreshold": "less than or equal to",
}


@dataclass(frozen=True)
class Datapoint:
    """One period of what an alarm watches.

    Attributes:
        start_s: When the period begins; Unix seconds.
        sample_count: Samples behind the value; None for a result of metric math.
    """

    start_s: int
    value: float
    sample_count: float | None = None


@dataclass(frozen=True)
class AlarmRule:
    """What an alarm holds datapoints against.

    Attributes:
        datapoints_to_alarm: M of M out of N; N is ``evaluation_periods``.
        m_was_given: The request named M: CloudWatch words its reasons differently then.
        treat_missing: ``missing``, ``ignore``, ``breaching`` or ``notBreaching``.
        fewest_samples: Periods with fewer samples leave the state as it is
            (EvaluateLowSampleCountPercentile ``ignore``); 0 for none.
    """

    comparison: str
    threshold: float
    period_s: int
    evaluation_periods: int
    datapoints_to_alarm: int
    m_was_given: bool = False
    treat_missing: str = "missing"
    fewest_samples: float = 0.0

    @property
    def range_periods(self) -> int:
        """Length of the evaluation range."""
        return self.evaluation_periods + EXTRA_PERIODS

    def is_breaching(self, value: float) -> bool:
        """Compare one value; it is the left operand."""
        if self.comparison == "GreaterThanOrEqualToThreshold":
            return value >= self.threshold
        if self.comparison == "GreaterThanThreshold":
            return value > self.threshold
        if self.comparison == "LessThanThreshold":
            return value < self.threshold
        return value <= self.threshold


@dataclass(frozen=True)
class Judgement:
    """What an evaluation says.

    Attributes:
        state: The state the alarm should be in; None: keep the one it is in.
        evaluated: The datapoints that decided, oldest first.
        filled: Missing datapoints that were taken as TreatMissingData says.
    """

    state: AlarmState | None
    evaluated: tuple[Datapoint, ...] = ()
    filled: int = 0


def evaluate(rule: AlarmRule, datapoints: Sequence[Datapoint], end_s: int) -> Judgement:
    """Judge one alarm.

    Args:
        datapoints: Of the evaluation range, in any order; a missing period has none.
        end_s: End of the newest period, exclusive.

    >>> rule = AlarmRule("GreaterThanThreshold", 1.0, 60, 3, 3)
    >>> evaluate(rule, [Datapoint(60 * k, 5.0) for k in (2, 3, 4)], 300).state
    <AlarmState.ALARM: 'ALARM'>
    >>> evaluate(rule, [], 300).state
    <AlarmState.INSUFFICIENT_DATA: 'INSUFFICIENT_DATA'>
    """
    first_s = end_s - rule.range_periods * rule.period_s
    present = sorted(
        (point for point in datapoints if first_s <= point.start_s < end_s), key=lambda point: point.start_s
    )
    evaluated = tuple(present[-rule.evaluation_periods :])
    filled = rule.evaluation_periods - len(evaluated)
    if any((point.sample_count or 0.0) < rule.fewest_samples for point in evaluated):
        return Judgement(None, evaluated, filled)
    state = _state(rule, evaluated, filled, end_s)
    return Judgement(state, evaluated, filled)


def _state(rule: AlarmRule, evaluated: Sequence[Datapoint], filled: int, end_s: int) -> AlarmState | None:
    breaching = [point for point in evaluated if rule.is_breaching(point.value)]
    enough = rule.datapoints_to_alarm
    if len(breaching) + (filled if rule.treat_missing == "breaching" else 0) >= enough:
        return AlarmState.ALARM
    if filled == 0 or rule.treat_missing in ("breaching", "notBreaching"):
        return AlarmState.OK
    if len(breaching) < len(evaluated):
        return AlarmState.OK
    # Nothing but breaching datapoints, and too few of them.
    if rule.treat_missing == "ignore":
        return None
    if breaching and _age_periods(rule, breaching[0], end_s) >= enough:
        # The oldest is as old as M and nothing since was good: no later datapoint can make up for it.
        return AlarmState.ALARM
    return AlarmState.INSUFFICIENT_DATA


def _age_periods(rule: AlarmRule, point: Datapoint, end_s: int) -> int:
    """Count the newest period as 1."""
    return -(-(end_s - point.start_s) // rule.period_s)


def fewest_samples_of(statistic: str) -> float:
    """Say how many samples make a percentile worth judging; 0 for other statistics.

    >>> fewest_samples_of("p99"), fewest_samples_of("p10"), fewest_samples_of("Average")
    (1000.0, 100.0, 0.0)
    """
    parsed = parse_statistic(statistic)
    if parsed.kind != "p" or parsed.high is None:
        return 0.0
    rarer = min(parsed.high, 100.0 - parsed.high)
    return 0.0 if rarer <= 0.0 else round(1000.0 / rarer, 6)
