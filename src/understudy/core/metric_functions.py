"""The functions of metric math.

Owns one entry per function; refuses arguments that don't fit, with a text that names the function.
Main value: :data:`FUNCTIONS`, used by ``core.metric_math``.

Source: "Metric math syntax and functions", Amazon CloudWatch User Guide.  ``COUNT`` is this project's short
name for ``DATAPOINT_COUNT``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from understudy.core.metric_values import Argument, MathError, Scope, TimeSeries, Value, Word

Arguments = Sequence[Argument]
Function = Callable[[Arguments, Scope], Value]

# What CloudWatch has and this version has not: it reads other services or trains models.
UNSUPPORTED = frozenset(
    (
        "ANOMALY_DETECTION_BAND",
        "DB_PERF_INSIGHTS",
        "INSIGHT_RULE_METRIC",
        "LAMBDA",
        "SEARCH",
        "SERVICE_QUOTA",
        "SORT",
    )
)


def _values(function: str, arguments: Arguments, least: int, most: int) -> list[Value]:
    if not least <= len(arguments) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise MathError(f"{function} takes {wanted} argument(s), not {len(arguments)}")
    return [_value(function, argument) for argument in arguments]


def _value(function: str, argument: Argument) -> Value:
    if isinstance(argument, Word):
        raise MathError(f"{function} takes no {argument.text!r} here")
    return argument


def _number(function: str, value: Value) -> float:
    if not isinstance(value, float):
        raise MathError(f"{function} takes a number here")
    return value


def _array(function: str, value: Value) -> list[TimeSeries]:
    if not isinstance(value, list):
        raise MathError(f"{function} takes an array of time series")
    return value


def _finite(pairs: Iterable[tuple[int, float | None]]) -> dict[int, float]:
    return {at_s: value for at_s, value in pairs if value is not None and math.isfinite(value)}


# --- from many values to one ---------------------------------------------------------------------------


def _aggregate(function: str, reduce: Callable[[list[float]], float]) -> Function:
    """Make a function that reduces a series to a number, and an array to a series, time by time."""

    def call(arguments: Arguments, scope: Scope) -> Value:
        (value,) = _values(function, arguments, 1, 1)
        if isinstance(value, float):
            raise MathError(f"{function} takes a time series or an array of them")
        if isinstance(value, TimeSeries):
            scope.work.spend(len(value.points))
            if not value.points:
                # Nothing to reduce: whatever is computed with it has no points either.
                return TimeSeries({}, value.period_s, value.label)
            return float(reduce(list(value.points.values())))
        by_time: dict[int, list[float]] = {}
        for series in value:
            scope.work.spend(len(series.points) + 1)
            for at_s, point in series.points.items():
                by_time.setdefault(at_s, []).append(point)
        period_s = max((series.period_s for series in value), default=scope.period_s)
        return TimeSeries(_finite((at_s, float(reduce(by_time[at_s]))) for at_s in sorted(by_time)), period_s)

    return call


def _sum(values: list[float]) -> float:
    return math.fsum(values)


def _average(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: list[float]) -> float:
    """Return the population's standard deviation, as hypot so that large values don't overflow early."""
    mean = _average(values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values))


# --- from one value to another -------------------------------------------------------------------------


def _pointwise(function: str, change: Callable[[float], float]) -> Function:
    """Make a function that changes each value; where it has none (log of 0) the point is missing."""

    def changed(value: float) -> float | None:
        try:
            return float(change(value))
        except (ValueError, OverflowError):
            return None

    def call(arguments: Arguments, scope: Scope) -> Value:
        (value,) = _values(function, arguments, 1, 1)
        if isinstance(value, float):
            found = changed(value)
            if found is None:
                raise MathError(f"{function} of {value:g} is no number")
            return found
        return _each(value, scope, lambda series: _finite((t, changed(v)) for t, v in series.points.items()))

    return call


def _each(value: Value, scope: Scope, change: Callable[[TimeSeries], dict[int, float]]) -> Value:
    """Change a series, or each of an array."""
    if isinstance(value, list):
        return [_changed(series, scope, change) for series in value]
    assert isinstance(value, TimeSeries)
    return _changed(value, scope, change)


def _changed(
    series: TimeSeries, scope: Scope, change: Callable[[TimeSeries], dict[int, float]]
) -> TimeSeries:
    scope.work.spend(len(series.points) + 1)
    return TimeSeries(change(series), series.period_s, series.label)


def _over_time(function: str, change: Callable[[TimeSeries], dict[int, float]]) -> Function:
    """Make a function of a whole series."""

    def call(arguments: Arguments, scope: Scope) -> Value:
        (value,) = _values(function, arguments, 1, 1)
        if isinstance(value, float):
            raise MathError(f"{function} takes a time series or an array of them")
        return _each(value, scope, change)

    return call


def _steps(series: TimeSeries) -> list[tuple[int, float, int]]:
    """List (time, growth since the point before, seconds since the point before)."""
    points = list(series.points.items())
    return [(at_s, value - before, at_s - before_s) for (before_s, before), (at_s, value) in pairwise(points)]


def _running_sum(series: TimeSeries) -> dict[int, float]:
    total, sums = 0.0, {}
    for at_s, value in series.points.items():
        total += value
        sums[at_s] = total
    return _finite(sums.items())


# --- the odd ones --------------------------------------------------------------------------------------


def _metrics(arguments: Arguments, scope: Scope) -> Value:
    """METRICS() or METRICS("part of an Id"): the metrics of the request, expressions left out."""
    wanted = ""
    if arguments:
        if len(arguments) > 1 or not isinstance(arguments[0], Word) or not arguments[0].quoted:
            raise MathError("METRICS takes nothing or one text")
        wanted = arguments[0].text
    found: list[TimeSeries] = []
    for metric_id in scope.metric_ids:
        series = scope.values.get(metric_id)
        if wanted in metric_id and isinstance(series, TimeSeries):
            found.append(series)
    return found


def _period(arguments: Arguments, scope: Scope) -> Value:
    (value,) = _values("PERIOD", arguments, 1, 1)
    if not isinstance(value, TimeSeries):
        raise MathError("PERIOD takes a time series")
    return float(value.period_s)


def _slots(period_s: int, scope: Scope) -> range:
    slots = range(scope.start_s + -scope.start_s % period_s, scope.end_s, period_s)
    scope.work.spend(len(slots))
    return slots


def _time_series(arguments: Arguments, scope: Scope) -> Value:
    (value,) = _values("TIME_SERIES", arguments, 1, 1)
    number = _number("TIME_SERIES", value)
    return TimeSeries(dict.fromkeys(_slots(scope.period_s, scope), number), scope.period_s)


def _fill(arguments: Arguments, scope: Scope) -> Value:
    """FILL(m, number | REPEAT | LINEAR | series): give missing periods a value."""
    if len(arguments) != 2:
        raise MathError(f"FILL takes 2 argument(s), not {len(arguments)}")
    value = _value("FILL", arguments[0])
    if isinstance(value, float):
        raise MathError("FILL takes a time series or an array of them first")
    way = arguments[1]
    if way == Word("REPEAT", quoted=False):
        return _each(value, scope, lambda series: _repeated(series, scope))
    if way == Word("LINEAR", quoted=False):
        return _each(value, scope, lambda series: _linear(series, scope))
    other = _value("FILL", way)
    if isinstance(other, list):
        raise MathError("FILL takes a number, REPEAT, LINEAR or a time series second")

    def filled(series: TimeSeries) -> dict[int, float]:
        filling = other.points.get if isinstance(other, TimeSeries) else lambda _at_s: other
        slots = _slots(series.period_s, scope)
        pairs = ((at_s, series.points.get(at_s, filling(at_s))) for at_s in sorted({*slots, *series.points}))
        return _finite(pairs)

    return _each(value, scope, filled)


def _repeated(series: TimeSeries, scope: Scope) -> dict[int, float]:
    """Give a missing period the value before it; before the first value there is none."""
    found: dict[int, float] = {}
    latest: float | None = None
    for at_s in sorted({*_slots(series.period_s, scope), *series.points}):
        latest = series.points.get(at_s, latest)
        if latest is not None:
            found[at_s] = latest
    return found


def _linear(series: TimeSeries, scope: Scope) -> dict[int, float]:
    """Give missing periods between two values the line between them."""
    _slots(series.period_s, scope)  # what it costs at most
    found: dict[int, float] = {}
    points = list(series.points.items())
    for (at_s, value), (next_s, following) in pairwise(points):
        for between_s in range(at_s, next_s, series.period_s):
            found[between_s] = value + (following - value) * (between_s - at_s) / (next_s - at_s)
    found.update(points[-1:])
    return _finite(found.items())


def _if(arguments: Arguments, scope: Scope) -> Value:
    """IF(condition, then[, otherwise]): point by point; without ``otherwise`` a false point is missing."""
    condition, *branches = _values("IF", arguments, 2, 3)
    if isinstance(condition, list) or any(isinstance(branch, list) for branch in branches):
        raise MathError("IF takes numbers and time series, not arrays")
    if isinstance(condition, float):
        if condition != 0.0:
            return branches[0]
        return branches[1] if len(branches) == 2 else TimeSeries({}, scope.period_s)
    scope.work.spend(len(condition.points) + 1)

    def chosen(at_s: int, true: bool) -> float | None:
        if not true and len(branches) == 1:
            return None
        branch = branches[0 if true else 1]
        if isinstance(branch, TimeSeries):
            return branch.points.get(at_s)
        assert isinstance(branch, float)
        return branch

    points = _finite((at_s, chosen(at_s, value != 0.0)) for at_s, value in condition.points.items())
    return TimeSeries(points, condition.period_s, condition.label)


def _metric_count(arguments: Arguments, scope: Scope) -> Value:
    (value,) = _values("METRIC_COUNT", arguments, 1, 1)
    return float(len(_array("METRIC_COUNT", value)))


def _member(function: str, at: int) -> Function:
    """Make FIRST and LAST of an array."""

    def call(arguments: Arguments, scope: Scope) -> Value:
        (value,) = _values(function, arguments, 1, 1)
        array = _array(function, value)
        return array[at] if array else TimeSeries({}, scope.period_s)

    return call


def _remove_empty(arguments: Arguments, scope: Scope) -> Value:
    (value,) = _values("REMOVE_EMPTY", arguments, 1, 1)
    return [series for series in _array("REMOVE_EMPTY", value) if series.points]


def _slice(arguments: Arguments, scope: Scope) -> Value:
    """SLICE(array, from[, to]): members from..to-1, counted from 0; one member without ``to``."""
    value, *bounds = _values("SLICE", arguments, 2, 3)
    array = _array("SLICE", value)
    numbers = [_number("SLICE", bound) for bound in bounds]
    if any(number < 0.0 or not number.is_integer() for number in numbers):
        raise MathError("SLICE counts members with whole numbers from 0")
    places = [int(number) for number in numbers]
    return array[places[0] : places[1] if len(places) == 2 else places[0] + 1]


def _calendar(function: str, part: Callable[[datetime], int]) -> Function:
    """Make a function of a point's time, in UTC."""
    return _over_time(
        function,
        lambda series: {at_s: float(part(datetime.fromtimestamp(at_s, UTC))) for at_s in series.points},
    )


FUNCTIONS: dict[str, Function] = {
    "SUM": _aggregate("SUM", _sum),
    "AVG": _aggregate("AVG", _average),
    "MIN": _aggregate("MIN", min),
    "MAX": _aggregate("MAX", max),
    "STDDEV": _aggregate("STDDEV", _deviation),
    "COUNT": _aggregate("COUNT", len),
    "DATAPOINT_COUNT": _aggregate("DATAPOINT_COUNT", len),
    "METRIC_COUNT": _metric_count,
    "ABS": _pointwise("ABS", abs),
    "CEIL": _pointwise("CEIL", math.ceil),
    "FLOOR": _pointwise("FLOOR", math.floor),
    "LOG": _pointwise("LOG", math.log),
    "LOG10": _pointwise("LOG10", math.log10),
    "DIFF": _over_time("DIFF", lambda series: _finite((t, grown) for t, grown, _ in _steps(series))),
    "DIFF_TIME": _over_time(
        "DIFF_TIME", lambda series: {t: float(seconds) for t, _, seconds in _steps(series)}
    ),
    "RATE": _over_time(
        "RATE", lambda series: _finite((t, grown / seconds) for t, grown, seconds in _steps(series))
    ),
    "RUNNING_SUM": _over_time("RUNNING_SUM", _running_sum),
    "EPOCH": _over_time("EPOCH", lambda series: {at_s: float(at_s) for at_s in series.points}),
    "MINUTE": _calendar("MINUTE", lambda time: time.minute),
    "HOUR": _calendar("HOUR", lambda time: time.hour),
    "DAY": _calendar("DAY", lambda time: time.isoweekday()),
    "DATE": _calendar("DATE", lambda time: time.day),
    "MONTH": _calendar("MONTH", lambda time: time.month),
    "YEAR": _calendar("YEAR", lambda time: time.year),
    "METRICS": _metrics,
    "PERIOD": _period,
    "TIME_SERIES": _time_series,
    "FILL": _fill,
    "IF": _if,
    "FIRST": _member("FIRST", 0),
    "LAST": _member("LAST", -1),
    "REMOVE_EMPTY": _remove_empty,
    "SLICE": _slice,
}
