"""CloudWatch's GetMetricData: many metrics and expressions over them, in pages.

Main function: :func:`get_metric_data`.  Refuses expressions that CloudWatch would refuse, and requests that
compute more than ``MAX_WORK`` points.

Source: CloudWatch API Reference, GetMetricData.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from understudy.core.errors import ApiError
from understudy.core.metric_math import Node, evaluate, parse_expression, references
from understudy.core.metric_values import MathError, Scope, TimeSeries, Value, Work
from understudy.core.metrics import Bucket, Summary
from understudy.core.statistics import parse_statistic, statistic
from understudy.operations.metric_requests import (
    aligned_range,
    check_period,
    key_of,
    seconds_of,
    validation_error,
)
from understudy.operations.page_tokens import page_token, parse_page_token
from understudy.operations.services import Services

MAX_QUERIES = 500
MAX_DATAPOINTS = 100_800
MAX_WORK = 3_000_000  # points read and computed by one request; some seconds
_ID = re.compile(r"[a-z][a-zA-Z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class _Result:
    """One entry of MetricDataResults before paging; points in the order asked for."""

    query_id: str
    label: str
    points: list[tuple[int, float]]


def get_metric_data(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return the values of metrics and expressions.

    Raises:
        ApiError: ValidationError or InvalidNextToken, 400.
    """
    queries = request["MetricDataQueries"]
    start_s, end_s = seconds_of(request["StartTime"]), seconds_of(request["EndTime"])
    if start_s > end_s:
        raise validation_error("The parameter EndTime must be greater than StartTime.")
    if start_s == end_s:
        raise validation_error("The parameter StartTime must not equal parameter EndTime.")
    most = request.get("MaxDatapoints", MAX_DATAPOINTS)
    if not 1 <= most <= MAX_DATAPOINTS:
        raise validation_error(
            f"The value {most} for parameter MaxDatapoints is invalid: 1 to {MAX_DATAPOINTS}."
        )
    check_queries(queries, "MetricDataQueries")
    at, after_s = _position(request.get("NextToken"))

    values = _evaluated(services, queries, start_s, end_s)
    descending = request.get("ScanBy", "TimestampDescending") == "TimestampDescending"
    results = [
        result
        for query in queries
        if query.get("ReturnData", True)
        for result in _results(query, values[query["Id"]], descending)
    ]
    return _page(results, at, after_s, most, descending)


# --- checking ------------------------------------------------------------------------------------------


def check_queries(queries: list[dict[str, Any]], collection: str) -> None:
    """Refuse metrics and expressions that are none, each by itself; alarms have such a list too.

    Args:
        collection: The parameter that holds them.
    Raises:
        ApiError: ValidationError, 400.
    """
    if len(queries) > MAX_QUERIES:
        raise validation_error(
            f"The collection {collection} must not have a size greater than {MAX_QUERIES}."
        )
    if len({query["Id"] for query in queries}) < len(queries):
        raise validation_error(f"The values for parameter id in {collection} are not unique.")
    if queries and not any(query.get("ReturnData", True) for query in queries):
        raise validation_error(f"At least one of the {collection} must have ReturnData true.")
    for at, query in enumerate(queries, start=1):
        name = f"{collection}.member.{at}"
        if not _ID.fullmatch(query["Id"]):
            raise validation_error(
                f"The value {query['Id']} for parameter {name}.Id is not matching the expected pattern "
                "^[a-z][a-zA-Z0-9_]*$."
            )
        metric_stat, expression = query.get("MetricStat"), query.get("Expression")
        if metric_stat is not None and expression is not None:
            raise validation_error(
                f"The parameters {name}.MetricStat and {name}.Expression are mutually exclusive and you have "
                "specified both."
            )
        if metric_stat is None and expression is None:
            raise validation_error(f"The parameter {name}.MetricStat is required.")
        if metric_stat is not None:
            _check_metric_stat(metric_stat, f"{name}.MetricStat")
        elif query.get("Period") is not None:
            check_period(query["Period"], validation_error)


def _check_metric_stat(metric_stat: Mapping[str, Any], name: str) -> None:
    for member in ("Namespace", "MetricName"):
        if metric_stat["Metric"].get(member) is None:
            raise validation_error(f"The parameter {name}.Metric.{member} is required.")
    check_period(metric_stat["Period"], validation_error)
    try:
        parse_statistic(metric_stat["Stat"])
    except ValueError:
        raise validation_error(
            f"The value {metric_stat['Stat']} for parameter {name}.Stat is not supported."
        ) from None


def _position(token: str | None) -> tuple[int, int | None]:
    """Return which result goes on, and after which of its times."""
    if token is None:
        return 0, None
    try:
        at, after_s = parse_page_token(token, int, int)
        if at is None or at < 0:
            raise ValueError("not a place")
    except ValueError:
        raise ApiError("The NextToken is not valid.", code="InvalidNextToken", status=400) from None
    return at, after_s


# --- computing -----------------------------------------------------------------------------------------


def _evaluated(
    services: Services, queries: list[dict[str, Any]], start_s: float, end_s: float
) -> dict[str, Value]:
    """Read the metrics, then compute the expressions in an order in which each finds what it reads."""
    work = Work(MAX_WORK)
    values: dict[str, Value] = {}
    trees: dict[str, Node] = {}
    # Several statistics of one metric are common (p50 and p99): its samples are read once.
    read = cache(lambda key, first_s, last_s, period_s: services.series.read(key, first_s, last_s, period_s))
    for query in queries:
        try:
            if query.get("Expression") is not None:
                trees[query["Id"]] = parse_expression(query["Expression"])
            else:
                values[query["Id"]] = _read(read, query, start_s, end_s, work)
        except MathError as error:
            raise _expression_error(query, error) from None
    metric_ids = tuple(values)
    by_id = {query["Id"]: query for query in queries}
    shortest_s = min((v.period_s for v in values.values() if isinstance(v, TimeSeries)), default=60)
    for query_id in _in_order(trees, by_id):
        query = by_id[query_id]
        period_s = query.get("Period", shortest_s)
        first_s, last_s = aligned_range(start_s, end_s, period_s)
        scope = Scope(values, metric_ids, first_s, last_s, period_s, work)
        try:
            values[query_id] = evaluate(trees[query_id], scope)
        except MathError as error:
            raise _expression_error(query, error) from None
    return values


def _expression_error(query: Mapping[str, Any], error: MathError) -> ApiError:
    return validation_error(f"Error in expression '{query['Id']}': {error}.")


def _in_order(trees: Mapping[str, Node], by_id: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Order expressions so that each comes after those it reads; without recursion, chains may be long."""
    waiting = {query_id: references(tree) & trees.keys() for query_id, tree in trees.items()}
    order: list[str] = []
    while waiting:
        ready = [query_id for query_id, needed in waiting.items() if not needed]
        if not ready:
            query_id = min(waiting)
            raise _expression_error(by_id[query_id], MathError("expressions refer to each other in a circle"))
        order += ready
        for query_id in ready:
            del waiting[query_id]
        for needed in waiting.values():
            needed.difference_update(ready)
    return order


def _read(
    read: Callable[..., list[Bucket]], query: Mapping[str, Any], start_s: float, end_s: float, work: Work
) -> TimeSeries:
    """Read one metric; where no Unit is asked for, all units together."""
    metric_stat = query["MetricStat"]
    period_s = metric_stat["Period"]
    first_s, last_s = aligned_range(start_s, end_s, period_s)
    summaries: dict[int, Summary] = {}
    for bucket in read(key_of(metric_stat["Metric"]), first_s, last_s, period_s):
        work.spend(1)
        if metric_stat.get("Unit") in (None, bucket.unit):
            before = summaries.get(bucket.start_s)
            summaries[bucket.start_s] = bucket.summary if before is None else before + bucket.summary
    values = ((at_s, statistic(summary, metric_stat["Stat"])) for at_s, summary in summaries.items())
    label = query.get("Label") or metric_stat["Metric"]["MetricName"]
    return TimeSeries({at_s: value for at_s, value in values if value is not None}, period_s, label)


def _results(query: Mapping[str, Any], value: Value, descending: bool) -> list[_Result]:
    if isinstance(value, float):
        raise _expression_error(query, MathError("the result is a number, it must be a time series"))
    label = query.get("Label") or ""
    results: list[_Result] = []
    for series in value if isinstance(value, list) else [value]:
        if query.get("MetricStat") is not None:
            shown = series.label
        elif isinstance(value, list):
            shown = f"{label} {series.label}".strip() or query["Id"]
        else:
            shown = label or query["Id"]
        points = list(series.points.items())
        results.append(_Result(query["Id"], shown, points[::-1] if descending else points))
    return results


# --- paging --------------------------------------------------------------------------------------------


def _page(
    results: list[_Result], first: int, after_s: int | None, most: int, descending: bool
) -> dict[str, Any]:
    """Cut a page of at most ``most`` points, from result ``first`` behind its time ``after_s``.

    The token names a time, so that samples which come in between two pages shift nothing.
    """
    entries: list[dict[str, Any]] = []
    left = most
    token: str | None = None
    for at in range(first, len(results)):
        points = results[at].points
        if at == first and after_s is not None:
            points = [point for point in points if (point[0] < after_s if descending else point[0] > after_s)]
        if left == 0 and points:
            token = page_token([at, None])
            break
        taken = points[:left]
        left -= len(taken)
        complete = len(taken) == len(points)
        entries.append(
            {
                "Id": results[at].query_id,
                "Label": results[at].label,
                "Timestamps": [float(at_s) for at_s, _ in taken],
                "Values": [value for _, value in taken],
                "StatusCode": "Complete" if complete else "PartialData",
            }
        )
        if not complete:
            token = page_token([at, taken[-1][0]])
            break
    answer: dict[str, Any] = {"MetricDataResults": entries}
    if token is not None:
        answer["NextToken"] = token
    return answer
