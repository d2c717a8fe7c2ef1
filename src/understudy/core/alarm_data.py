"""From a metric alarm's request to the rule it is judged by and the datapoints it is judged on.

Owns which metrics are read over which windows; the reading itself is handed in.  Windows slide: the
newest one ends at the evaluation, which is every minute (every ten seconds for periods below a minute),
as CloudWatch's default evaluation window does.
Main functions: :func:`rule_of`, :func:`read_datapoints`.

Source: PutMetricAlarm, Amazon CloudWatch API Reference; "Alarm evaluation windows", User Guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from understudy.core.alarm_evaluation import AlarmRule, Datapoint, fewest_samples_of
from understudy.core.metric_math import evaluate as evaluate_expression
from understudy.core.metric_math import parse_expression, references
from understudy.core.metric_values import MathError, Scope, TimeSeries, Value, Work
from understudy.core.metrics import Bucket, SeriesKey, Summary, dimensions_of
from understudy.core.statistics import PLAIN_STATISTICS, statistic

Read = Callable[[SeriesKey, int, int, int], Sequence[Bucket]]
"""``core.ports.Series.read``: (key, start_s, end_s, period_s)."""

MAX_WORK = 1_000_000  # points computed by one alarm; its evaluation range is a week of minutes at most


def period_s_of(request: Mapping[str, Any]) -> int:
    """Return the period of a metric alarm; all its metrics have the same.

    >>> period_s_of({"Metrics": [{"Id": "m", "MetricStat": {"Period": 300}}, {"Id": "e", "Expression": "m"}]})
    300
    """
    if request.get("Period") is not None:
        return int(request["Period"])
    periods = [
        query["MetricStat"]["Period"] if query.get("MetricStat") else query.get("Period")
        for query in request.get("Metrics", [])
    ]
    return int(next(period for period in periods if period is not None))


def step_s_of(period_s: int) -> int:
    """Return how often an alarm of that period is evaluated.

    Source: "High-resolution alarms": every ten seconds; others every minute.
    """
    return 10 if period_s < 60 else 60


def rule_of(request: Mapping[str, Any]) -> AlarmRule:
    """Read what a metric alarm holds its datapoints against."""
    given = request.get("DatapointsToAlarm")
    name = request.get("ExtendedStatistic")
    cautious = request.get("EvaluateLowSampleCountPercentile") == "ignore"
    return AlarmRule(
        comparison=request["ComparisonOperator"],
        threshold=float(request["Threshold"]),
        period_s=period_s_of(request),
        evaluation_periods=request["EvaluationPeriods"],
        datapoints_to_alarm=request["EvaluationPeriods"] if given is None else given,
        m_was_given=given is not None,
        treat_missing=request.get("TreatMissingData", "missing"),
        fewest_samples=fewest_samples_of(name) if cautious and name is not None else 0.0,
    )


def metrics_of(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the metrics an alarm reads: Namespace, MetricName, Dimensions, Stat and Unit of each."""
    if request.get("MetricName") is not None:
        return [
            {
                "Namespace": request["Namespace"],
                "MetricName": request["MetricName"],
                "Dimensions": request.get("Dimensions", []),
                "Stat": request.get("Statistic") or request["ExtendedStatistic"],
                "Unit": request.get("Unit"),
            }
        ]
    return [
        {
            "Dimensions": [],
            **query["MetricStat"]["Metric"],
            "Stat": query["MetricStat"]["Stat"],
            "Unit": query["MetricStat"].get("Unit"),
        }
        for query in request.get("Metrics", [])
        if query.get("MetricStat")
    ]


def read_datapoints(request: Mapping[str, Any], read: Read, end_s: int) -> list[Datapoint]:
    """Read an alarm's evaluation range.

    Args:
        end_s: Exclusive end of the newest window; a multiple of :func:`step_s_of`.
    Raises:
        MathError: an expression can't be computed on what the metrics hold now.
    """
    rule = rule_of(request)
    windows = [end_s - rule.period_s * back for back in range(rule.range_periods, 0, -1)]
    if request.get("MetricName") is not None:
        (metric,) = metrics_of(request)
        return [
            Datapoint(start_s, value, summary.count)
            for start_s, summary in _windows(metric, read, windows, rule.period_s).items()
            if (value := statistic(summary, metric["Stat"])) is not None
        ]
    return _computed(request, read, windows, rule.period_s)


def _windows(
    metric: Mapping[str, Any], read: Read, windows: Sequence[int], period_s: int
) -> dict[int, Summary]:
    """Merge what was measured into the windows; empty ones are left out."""
    first_s, end_s = windows[0], windows[-1] + period_s
    dimensions = dimensions_of({each["Name"]: each["Value"] for each in metric["Dimensions"]})
    key = SeriesKey(metric["Namespace"], metric["MetricName"], dimensions)
    # Aligned windows are read as they are; others in the largest pieces that fit them.
    piece_s = period_s if first_s % period_s == 0 else step_s_of(period_s)
    plain = metric["Stat"] in PLAIN_STATISTICS
    found: dict[int, Summary] = {}
    for bucket in read(key, first_s, end_s, piece_s):
        if metric["Unit"] not in (None, bucket.unit):
            continue
        start_s = first_s + (bucket.start_s - first_s) // period_s * period_s
        before = found.get(start_s)
        if before is None:
            found[start_s] = bucket.summary
        else:
            found[start_s] = _totals(before, bucket.summary) if plain else before + bucket.summary
    return found


def _totals(one: Summary, other: Summary) -> Summary:
    """Merge all but the sketches, which only percentiles need."""
    return Summary(
        one.count + other.count,
        one.sum + other.sum,
        min(one.minimum, other.minimum),
        max(one.maximum, other.maximum),
    )


# --- metric math ---------------------------------------------------------------------------------------


def _computed(
    request: Mapping[str, Any], read: Read, windows: Sequence[int], period_s: int
) -> list[Datapoint]:
    """Compute the one expression (or metric) that returns data."""
    queries = request["Metrics"]
    # Metric math knows periods that are aligned to their length; sliding windows are moved onto them.
    shift_s = windows[0] % period_s
    work = Work(MAX_WORK)
    values: dict[str, Value] = {}
    for query, metric in zip((q for q in queries if q.get("MetricStat")), metrics_of(request), strict=True):
        summaries = _windows(metric, read, windows, period_s)
        points = ((at_s - shift_s, statistic(summary, metric["Stat"])) for at_s, summary in summaries.items())
        known = {at_s: value for at_s, value in points if value is not None}
        values[query["Id"]] = TimeSeries(known, period_s, query.get("Label") or metric["MetricName"])
    metric_ids = tuple(values)
    scope = Scope(values, metric_ids, windows[0] - shift_s, windows[-1] + period_s - shift_s, period_s, work)
    for query_id, expression in in_order(queries):
        values[query_id] = evaluate_expression(parse_expression(expression), scope)
    (watched,) = (query["Id"] for query in queries if query.get("ReturnData", True))
    value = values[watched]
    if not isinstance(value, TimeSeries):
        raise MathError("the result is no single time series")
    return [Datapoint(at_s + shift_s, number) for at_s, number in value.points.items()]


def in_order(queries: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Order the expressions (Id, text) so that each comes after those it reads.

    Raises:
        MathError: one is no expression, or they go round in a circle.
    """
    waiting = {query["Id"]: query["Expression"] for query in queries if query.get("Expression") is not None}
    needs = {query_id: references(parse_expression(text)) for query_id, text in waiting.items()}
    order: list[tuple[str, str]] = []
    while waiting:
        ready = [query_id for query_id in waiting if not needs[query_id] & waiting.keys()]
        if not ready:
            raise MathError("expressions refer to each other in a circle")
        order += [(query_id, waiting.pop(query_id)) for query_id in ready]
    return order
