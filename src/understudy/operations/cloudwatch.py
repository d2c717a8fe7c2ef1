"""CloudWatch: publishing, reading and listing metrics.

Owns PutMetricData, GetMetricStatistics and ListMetrics; ``metric_data`` has GetMetricData.  Refuses what
would poison an alarm: NaN and infinities, times outside CloudWatch's window, and the namespaces that only
the server itself writes.
Main value: :data:`OPERATIONS`.

Differs from AWS: what is published can be read at once.
Source: CloudWatch API Reference; botocore's ``cloudwatch`` model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.core.metrics import Datum, SeriesKey, Summary, dimensions_of
from understudy.core.statistics import parse_statistic, statistic
from understudy.operations.metric_data import get_metric_data
from understudy.operations.metric_requests import (
    aligned_range,
    check_period,
    invalid_combination,
    invalid_value,
    key_of,
    missing,
    seconds_of,
)
from understudy.operations.page_tokens import page_token, parse_page_token
from understudy.operations.services import Operation, Services

RESERVED_PREFIXES = ("AWS/", "/aws/")
MAX_METRICS = 1000
MAX_VALUES = 150
MAX_MAGNITUDE = 2.0**360
MAX_DATAPOINTS = 1440
PAST_S, FUTURE_S = 14 * 86_400, 2 * 3600
LISTED_S, RECENT_S = 14 * 86_400, 3 * 3600
LIST_PAGE = 500


# --- PutMetricData -------------------------------------------------------------------------------------


def put_metric_data(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Record samples; all of them or, when one is wrong, none.

    The entities of EntityMetricData are not kept, their metrics are.

    Raises:
        ApiError: InvalidParameterValue, InvalidParameterCombination or
            MissingParameter, 400.
    """
    namespace = request["Namespace"]
    for prefix in RESERVED_PREFIXES:
        if namespace.startswith(prefix):
            raise invalid_value(f"The value {prefix} for parameter Namespace is invalid.")
    named = [("MetricData", request.get("MetricData") or [])]
    for at, entity in enumerate(request.get("EntityMetricData") or [], start=1):
        named.append((f"EntityMetricData.member.{at}.MetricData", entity.get("MetricData") or []))
    total = sum(len(metrics) for _, metrics in named)
    if total == 0:
        raise missing("The parameter MetricData is required.")
    if total > MAX_METRICS:
        raise invalid_value(f"The collection MetricData must not have a size greater than {MAX_METRICS}.")
    now_s = services.clock.now_s()
    data = [
        _datum(namespace, metric, f"{name}.member.{at}", now_s)
        for name, metrics in named
        for at, metric in enumerate(metrics, start=1)
    ]
    services.series.record(data)
    return {}


def _datum(namespace: str, metric: Mapping[str, Any], name: str, now_s: float) -> Datum:
    """Check one MetricDatum; ``name`` is where it stands in the request."""
    at_s = now_s if metric.get("Timestamp") is None else seconds_of(metric["Timestamp"])
    if at_s > now_s + FUTURE_S:
        raise invalid_value(
            f"The parameter {name}.Timestamp must specify a time no more than two hours in the future."
        )
    if at_s < now_s - PAST_S:
        raise invalid_value(f"The parameter {name}.Timestamp must specify a time within the past two weeks.")
    resolution_s = metric.get("StorageResolution", 60)
    if resolution_s not in (1, 60):
        raise invalid_value(f"The value {resolution_s} for parameter {name}.StorageResolution is invalid.")
    dimensions: dict[str, str] = {}
    for at, dimension in enumerate(metric.get("Dimensions") or [], start=1):
        _check_text(dimension["Name"], f"{name}.Dimensions.member.{at}.Name")
        _check_text(dimension["Value"], f"{name}.Dimensions.member.{at}.Value")
        if dimension["Name"].startswith(":"):
            raise invalid_value(f"The parameter {name}.Dimensions.member.{at}.Name must not start with ':'.")
        if dimension["Name"] in dimensions:
            raise invalid_value(f"The parameter {name}.Dimensions contains a duplicate dimension name.")
        dimensions[dimension["Name"]] = dimension["Value"]
    key = SeriesKey(namespace, metric["MetricName"], dimensions_of(dimensions))
    whole_s = math.floor(at_s)
    return Datum(key, whole_s - whole_s % resolution_s, metric.get("Unit", "None"), _summary(metric, name))


def _check_text(text: str, name: str) -> None:
    if not text.isascii() or not text.isprintable() or not text.strip():
        raise invalid_value(
            f"The parameter {name} must contain only printable ASCII characters, not all blank."
        )


def _number(value: Any, name: str, *, least: float = -MAX_MAGNITUDE) -> float:
    if not math.isfinite(value) or not least <= value <= MAX_MAGNITUDE:
        shown = "NaN" if math.isnan(value) else str(value)
        raise invalid_value(f"The value {shown} for parameter {name} is invalid.")
    return float(value)


def _summary(metric: Mapping[str, Any], name: str) -> Summary:
    """Read the one of Value, Values with Counts, and StatisticValues that a MetricDatum has."""
    given = [form for form in ("Value", "Values", "StatisticValues") if metric.get(form) is not None]
    if len(given) > 1:
        raise invalid_combination(
            f"The parameters {name}.{given[0]} and {name}.{given[1]} are mutually exclusive and you have "
            "specified both."
        )
    if metric.get("Counts") is not None and given != ["Values"]:
        raise invalid_combination(f"The parameter {name}.Counts needs the parameter {name}.Values.")
    if not given:
        raise invalid_combination("At least one of the parameters must be specified.")
    if given == ["Value"]:
        return Summary.repeated(_number(metric["Value"], f"{name}.Value"), 1.0)
    if given == ["Values"]:
        return _counted(metric["Values"], metric.get("Counts"), name)
    return _statistic_set(metric["StatisticValues"], f"{name}.StatisticValues")


def _counted(values: Sequence[float], counts: Sequence[float] | None, name: str) -> Summary:
    if not values or len(values) > MAX_VALUES:
        raise invalid_value(f"The parameter {name}.Values must have 1 to {MAX_VALUES} members.")
    if counts is None:
        counts = [1.0] * len(values)
    if len(counts) != len(values):
        raise invalid_value(f"The parameters {name}.Values and {name}.Counts must be of the same size.")
    summary = Summary()
    for value, count in zip(values, counts, strict=True):
        summary += Summary.repeated(
            _number(value, f"{name}.Values"), _number(count, f"{name}.Counts", least=0.0)
        )
    if summary.count == 0.0:
        raise invalid_value(f"The parameter {name}.Counts counts no sample.")
    return summary


def _statistic_set(given: Mapping[str, float], name: str) -> Summary:
    """Read a statistic set; percentiles are known where all its samples must be equal."""
    count = _number(given["SampleCount"], f"{name}.SampleCount", least=0.0)
    total, low, high = (
        _number(given[member], f"{name}.{member}") for member in ("Sum", "Minimum", "Maximum")
    )
    if count == 0.0:
        raise invalid_value(f"The value 0 for parameter {name}.SampleCount is invalid.")
    if low > high:
        raise invalid_value(f"The parameter {name}.Minimum must not be greater than {name}.Maximum.")
    if low == high and math.isclose(total, low * count):
        return Summary(count, total, low, high, Summary.repeated(low, count).buckets)
    return Summary(count, total, low, high)


# --- GetMetricStatistics -------------------------------------------------------------------------------


def get_metric_statistics(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return statistics of one metric, period by period and unit by unit, in order of time.

    Raises:
        ApiError: InvalidParameterValue, InvalidParameterCombination or
            MissingParameter, 400.
    """
    plain, extended = request.get("Statistics") or [], request.get("ExtendedStatistics") or []
    if not plain and not extended:
        raise invalid_combination("Must specify either Statistics or ExtendedStatistics")
    if plain and extended:
        raise invalid_combination("Must specify either Statistics or ExtendedStatistics, but not both")
    for at, name in enumerate(extended, start=1):
        try:
            parse_statistic(name)
        except ValueError:
            raise invalid_value(
                f"The value {name} for parameter ExtendedStatistics.member.{at} is invalid."
            ) from None
    period_s = request["Period"]
    check_period(period_s, invalid_value)
    start_s, end_s = seconds_of(request["StartTime"]), seconds_of(request["EndTime"])
    if start_s >= end_s:
        raise invalid_value("The parameter StartTime must be less than the parameter EndTime.")
    first_s, last_s = aligned_range(start_s, end_s, period_s)
    points = -(-(last_s - first_s) // period_s)
    if points > MAX_DATAPOINTS:
        raise invalid_combination(
            f"You have requested up to {points:,} datapoints, which exceeds the limit of {MAX_DATAPOINTS:,}. "
            "You may reduce the datapoints requested by increasing Period, or decreasing the time range."
        )
    found: list[dict[str, Any]] = []
    for bucket in services.series.read(key_of(request), first_s, last_s, period_s):
        if request.get("Unit") not in (None, bucket.unit):
            continue
        values = {name: statistic(bucket.summary, name) for name in (*plain, *extended)}
        known = {name: value for name, value in values.items() if value is not None}
        if known:
            datapoint: dict[str, Any] = {"Timestamp": float(bucket.start_s), "Unit": bucket.unit}
            found.append(datapoint | ({"ExtendedStatistics": known} if extended else known))
    return {"Label": request["MetricName"], "Datapoints": found}


# --- ListMetrics ---------------------------------------------------------------------------------------


def list_metrics(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List metrics with samples of the last two weeks (or three hours), 500 a page.

    Raises:
        ApiError: InvalidParameterValue, 400: a bad NextToken.
    """
    after: SeriesKey | None = None
    if request.get("NextToken") is not None:
        after = _listed_after(request["NextToken"])
    age_s = RECENT_S if request.get("RecentlyActive") == "PT3H" else LISTED_S
    oldest_s = services.clock.now_s() - age_s
    wanted = [(each["Name"], each.get("Value")) for each in request.get("Dimensions") or []]
    found = [
        key
        for key, newest_s in services.series.keys(request.get("Namespace"), request.get("MetricName"))
        if newest_s >= oldest_s and (after is None or key > after) and _has(key, wanted)
    ]
    page = sorted(found)[:LIST_PAGE]
    answer: dict[str, Any] = {
        "Metrics": [
            {
                "Namespace": key.namespace,
                "MetricName": key.metric_name,
                "Dimensions": [{"Name": name, "Value": value} for name, value in key.dimensions],
            }
            for key in page
        ]
    }
    if len(found) > LIST_PAGE:
        answer["NextToken"] = page_token([page[-1].namespace, page[-1].metric_name, page[-1].dimensions])
    return answer


def _has(key: SeriesKey, wanted: Sequence[tuple[str, str | None]]) -> bool:
    dimensions = dict(key.dimensions)
    return all(name in dimensions and value in (None, dimensions[name]) for name, value in wanted)


def _listed_after(token: str) -> SeriesKey:
    try:
        namespace, metric_name, dimensions = parse_page_token(token, str, str, list)
        return SeriesKey(str(namespace), str(metric_name), tuple((str(n), str(v)) for n, v in dimensions))
    except (TypeError, ValueError):
        raise invalid_value("Request parameter NextToken is invalid") from None


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("cloudwatch", "PutMetricData"): put_metric_data,
    ("cloudwatch", "GetMetricStatistics"): get_metric_statistics,
    ("cloudwatch", "GetMetricData"): get_metric_data,
    ("cloudwatch", "ListMetrics"): list_metrics,
}
