"""Rates of errors that are computed by metric math: from which number of errors on does a period breach?

Owns :func:`boundary_of`: it tries an alarm's own expressions on made-up periods, so that ``m1 / m2``,
``100 * errors / FILL(calls, 1)`` and ``IF(calls > 10, errors / calls, 0)`` are judged as they are evaluated.
Refuses (None) what one number of errors does not decide: latencies, several fleets or variants, functions
that look at other periods, and expressions that breach in the middle only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from understudy.core.alarm_data import metrics_of, read_datapoints, rule_of
from understudy.core.guardrail_metrics import FLAGS
from understudy.core.guardrail_odds import BoundaryOf
from understudy.core.metric_math import functions_of, parse_expression
from understudy.core.metric_values import MathError
from understudy.core.metrics import ENDPOINT_NAMESPACE, Bucket, SeriesKey, Summary
from understudy.core.statistics import PLAIN_STATISTICS

# Functions whose value at a time depends on that time alone, or on nothing that changes here.
_OF_ONE_PERIOD = frozenset({"IF", "FILL", "METRICS", "SUM", "AVG", "MIN", "MAX", "ABS", "CEIL", "FLOOR"})
_TRIALS = 48  # numbers of errors that are tried before an end is taken for the only one


def rate_metric_of(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Name the metric of errors that an alarm on metric math turns on.

    Returns:
        The metric as ``core.alarm_data.metrics_of`` lists it; None: it is no matter of one rate.
    """
    metrics = metrics_of(request)
    places = {tuple(sorted((each["Name"], each["Value"]) for each in one["Dimensions"])) for one in metrics}
    names = {one["MetricName"] for one in metrics}
    used = {
        function
        for query in request.get("Metrics", [])
        if query.get("Expression") is not None
        for function in functions_of(parse_expression(query["Expression"]))
    }
    if (
        len(places) != 1
        or len(names & FLAGS) != 1
        or not names <= FLAGS | {"Invocations"}
        or any(one["Namespace"] != ENDPOINT_NAMESPACE for one in metrics)
        or any(one["Stat"] not in PLAIN_STATISTICS for one in metrics)
        or not used <= _OF_ONE_PERIOD
    ):
        return None
    return next(one for one in metrics if one["MetricName"] in FLAGS)


def boundary_of(request: Mapping[str, Any]) -> BoundaryOf:
    """Return what says, for a number of requests, which numbers of errors breach.

    It returns whether many errors breach (else few), and the first number of errors on the far side; None
    where not just one end breaches.
    """
    rule = rule_of(request)
    end_s = rule.period_s * (rule.range_periods + 1)

    def breaches(calls: int, errors: int) -> bool:
        def read(key: SeriesKey, start_s: int, until_s: int, every_s: int) -> list[Bucket]:
            flags = Summary.repeated(1.0, errors) + Summary.repeated(0.0, calls - errors)
            summary = flags if key.metric_name in FLAGS else Summary.repeated(1.0, calls)
            return [Bucket(at_s, "Count", summary) for at_s in range(start_s, until_s, every_s)]

        try:
            points = read_datapoints(_of_one_period(request), read, end_s)
        except MathError:
            return False
        return bool(points) and rule.is_breaching(points[-1].value)

    @lru_cache(maxsize=64)
    def boundary(calls: int) -> tuple[bool, int] | None:
        tried = sorted({round(calls * at / _TRIALS) for at in range(_TRIALS + 1)})
        found = [breaches(calls, errors) for errors in tried]
        turns = [at for at in range(1, len(found)) if found[at] is not found[at - 1]]
        if len(turns) > 1:
            return None
        if not turns:
            return (True, 0) if found[0] else (True, calls + 1)
        low, high = tried[turns[0] - 1], tried[turns[0]]
        while high - low > 1:
            middle = (low + high) // 2
            if breaches(calls, middle) is found[-1]:
                high = middle
            else:
                low = middle
        return found[-1], high

    return boundary


def _of_one_period(request: Mapping[str, Any]) -> dict[str, Any]:
    queries = [
        {**query, "MetricStat": {**query["MetricStat"], "Unit": None}} if query.get("MetricStat") else query
        for query in request["Metrics"]
    ]
    return {**request, "Metrics": queries, "EvaluationPeriods": 1, "DatapointsToAlarm": 1}
