"""CloudWatch's operations over both series stores, judged by botocore's own output validation."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import botocore.session
import pytest
from botocore.model import Shape

from understudy.core.errors import ApiError
from understudy.core.metrics import Datum, SeriesKey, Summary, router_data
from understudy.core.names import Place
from understudy.core.ports import Series
from understudy.operations.cloudwatch import OPERATIONS
from understudy.operations.services import Services
from understudy.stores.memory_series import MemorySeries
from understudy.stores.series import SqliteSeries

NOW_S = 1_699_999_200 + 1234.5
HOUR_S = 1_699_999_200
MODEL = botocore.session.get_session().get_service_model("cloudwatch")


class FixedClock:
    def now_s(self) -> float:
        return NOW_S

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture(params=["memory", "sqlite"])
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Series]:
    store: Series = MemorySeries() if request.param == "memory" else SqliteSeries(tmp_path / "series.db")
    yield store
    store.close()


@pytest.fixture
def services(series: Series) -> Services:
    unused = cast(Any, None)
    return Services(
        records=unused,
        buckets=unused,
        objects=unused,
        series=series,
        logs=unused,
        stages=unused,
        evidence=unused,
        assignments=unused,
        outcomes=unused,
        clock=FixedClock(),
        entropy=unused,
        place=Place(),
        endpoint_url="http://127.0.0.1:8080",
        nudge=lambda: None,
    )


def check_shape(shape: Shape | None, value: Any) -> None:
    """Every member an answer has is one of the model, of its type."""
    if shape is None:
        assert value == {}
    elif shape.type_name == "structure":
        assert set(value) <= set(shape.members), set(value) - set(shape.members)
        assert set(shape.required_members) <= set(value)
        for name, member in value.items():
            check_shape(shape.members[name], member)
    elif shape.type_name == "list":
        assert isinstance(value, list)
        for member in value:
            check_shape(shape.member, member)
    elif shape.type_name == "map":
        assert isinstance(value, dict)
    else:
        kinds: dict[str, type | tuple[type, ...]] = {"string": str, "double": float, "timestamp": float}
        assert isinstance(value, kinds[shape.type_name]), (shape.name, value)
        assert not getattr(shape, "enum", None) or value in shape.enum


def call(services: Services, operation: str, **request: Any) -> dict[str, Any]:
    answer = OPERATIONS["cloudwatch", operation](services, request)
    check_shape(MODEL.operation_model(operation).output_shape, answer)
    return answer


def put(services: Services, *metrics: dict[str, Any], namespace: str = "Mine") -> None:
    call(services, "PutMetricData", Namespace=namespace, MetricData=list(metrics))


def at(offset_s: float) -> datetime:
    return datetime.fromtimestamp(HOUR_S + offset_s, UTC)


def refused(services: Services, operation: str, **request: Any) -> tuple[str, str]:
    with pytest.raises(ApiError) as raised:
        call(services, operation, **request)
    assert raised.value.status == 400
    return raised.value.code, raised.value.message


def statistics(services: Services, **more: Any) -> list[dict[str, Any]]:
    request = {
        "Namespace": "Mine",
        "MetricName": "m",
        "StartTime": at(0),
        "EndTime": at(3600),
        "Period": 60,
    } | more
    found = call(services, "GetMetricStatistics", **request)["Datapoints"]
    assert [point["Timestamp"] for point in found] == sorted(point["Timestamp"] for point in found)
    return cast(list[dict[str, Any]], found)


def query(query_id: str, **more: Any) -> dict[str, Any]:
    metric = {
        "Namespace": "Mine",
        "MetricName": more.pop("MetricName", "m"),
        "Dimensions": more.pop("Dimensions", []),
    }
    stat = {"Metric": metric, "Period": more.pop("Period", 60), "Stat": more.pop("Stat", "Sum")}
    if "Unit" in more:
        stat["Unit"] = more.pop("Unit")
    return {"Id": query_id, "MetricStat": stat, **more}


def data(services: Services, *queries: dict[str, Any], **more: Any) -> dict[str, Any]:
    request = {"StartTime": at(0), "EndTime": at(3600), "ScanBy": "TimestampAscending"} | more
    return call(services, "GetMetricData", MetricDataQueries=list(queries), **request)


# --- PutMetricData -------------------------------------------------------------------------------------


def test_what_is_put_is_read_with_every_statistic(services: Services) -> None:
    put(
        services,
        {"MetricName": "m", "Values": [1.0, 2.0, 6.0], "Counts": [1.0, 2.0, 1.0], "Timestamp": at(61)},
    )
    (point,) = statistics(services, Statistics=["SampleCount", "Sum", "Average", "Minimum", "Maximum"])
    assert point == {
        "Timestamp": HOUR_S + 60.0,
        "Unit": "None",
        "SampleCount": 4.0,
        "Sum": 11.0,
        "Average": 2.75,
        "Minimum": 1.0,
        "Maximum": 6.0,
    }
    (point,) = statistics(services, ExtendedStatistics=["p50", "tm50", "PR(:3)"])
    assert point["ExtendedStatistics"] == pytest.approx({"p50": 2.0, "tm50": 1.5, "PR(:3)": 75.0}, rel=0.01)


def test_percentiles_of_values_are_within_one_percent(services: Services) -> None:
    dice = random.Random(7)
    values = [dice.lognormvariate(7, 1) for _ in range(150)]
    put(services, {"MetricName": "m", "Values": values, "Timestamp": at(0), "Unit": "Microseconds"})
    (point,) = statistics(services, ExtendedStatistics=["p90"])
    assert point["ExtendedStatistics"]["p90"] == pytest.approx(sorted(values)[134], rel=0.0101)


def test_a_statistic_set_has_percentiles_only_when_its_samples_are_equal(services: Services) -> None:
    varied = {"SampleCount": 4.0, "Sum": 10.0, "Minimum": 1.0, "Maximum": 4.0}
    equal = {"SampleCount": 4.0, "Sum": 12.0, "Minimum": 3.0, "Maximum": 3.0}
    put(services, {"MetricName": "m", "StatisticValues": varied, "Timestamp": at(0)})
    put(services, {"MetricName": "m", "StatisticValues": equal, "Timestamp": at(60)})
    assert [p["Average"] for p in statistics(services, Statistics=["Average"])] == [2.5, 3.0]
    (point,) = statistics(services, ExtendedStatistics=["p99"])
    assert point["Timestamp"] == HOUR_S + 60 and point["ExtendedStatistics"] == {"p99": 3.0}


def test_standard_resolution_is_a_minute_and_high_resolution_a_second(services: Services) -> None:
    put(services, {"MetricName": "m", "Value": 1.0, "Timestamp": at(61.9)})
    put(services, {"MetricName": "h", "Value": 1.0, "Timestamp": at(61.9), "StorageResolution": 1})
    assert [p["Timestamp"] for p in statistics(services, Statistics=["Sum"], Period=1, EndTime=at(600))] == [
        HOUR_S + 60
    ]
    found = statistics(services, Statistics=["Sum"], Period=1, MetricName="h", EndTime=at(600))
    assert [p["Timestamp"] for p in found] == [HOUR_S + 61]


def test_without_a_timestamp_it_is_now_and_zero_is_a_value(services: Services) -> None:
    put(services, {"MetricName": "m", "Value": 0.0})
    (point,) = statistics(services, Statistics=["Sum", "SampleCount"])
    assert (point["Timestamp"], point["Sum"], point["SampleCount"]) == (HOUR_S + 1200.0, 0.0, 1.0)


def test_metrics_of_entities_are_metrics(services: Services) -> None:
    entity = {"Entity": {}, "MetricData": [{"MetricName": "m", "Value": 2.0, "Timestamp": at(0)}]}
    call(services, "PutMetricData", Namespace="Mine", EntityMetricData=[entity])
    assert [p["Sum"] for p in statistics(services, Statistics=["Sum"])] == [2.0]


@pytest.mark.parametrize("namespace", ["AWS/SageMaker", "AWS/", "/aws/sagemaker/Endpoints"])
def test_reserved_namespaces_are_the_servers(services: Services, namespace: str) -> None:
    code, message = refused(
        services,
        "PutMetricData",
        Namespace=namespace,
        MetricData=[{"MetricName": "Invocations", "Value": 1.0}],
    )
    prefix = "AWS/" if namespace.startswith("AWS/") else "/aws/"
    assert (code, message) == (
        "InvalidParameterValue",
        f"The value {prefix} for parameter Namespace is invalid.",
    )


def test_monitors_namespaces_without_a_slash_can_be_written(services: Services) -> None:
    put(services, {"MetricName": "f2", "Value": 0.8}, namespace="aws/sagemaker/Endpoints/model-metrics")
    assert [m["MetricName"] for m in call(services, "ListMetrics")["Metrics"]] == ["f2"]


VALUE, COMBINATION, MISSING = (
    "InvalidParameterValue",
    "InvalidParameterCombination",
    "MissingParameter",
)
SET = {"SampleCount": 2.0, "Sum": 3.0, "Minimum": 1.0, "Maximum": 2.0}


@pytest.mark.parametrize(
    ("metric", "code", "part"),
    [
        ({}, COMBINATION, "At least one"),
        ({"Value": math.nan}, VALUE, "The value NaN for parameter MetricData.member.2.Value is invalid."),
        ({"Value": math.inf}, VALUE, "is invalid"),
        ({"Value": -math.inf}, VALUE, "is invalid"),
        ({"Value": 2.0**361}, VALUE, "is invalid"),
        ({"Values": [1.0, math.nan]}, VALUE, "NaN"),
        ({"Values": []}, VALUE, "1 to 150"),
        ({"Values": [1.0] * 151}, VALUE, "1 to 150"),
        ({"Values": [1.0], "Counts": [1.0, 2.0]}, VALUE, "must be of the same size"),
        ({"Values": [1.0], "Counts": [-1.0]}, VALUE, "Counts"),
        ({"Values": [1.0], "Counts": [math.nan]}, VALUE, "Counts"),
        ({"Values": [1.0], "Counts": [0.0]}, VALUE, "counts no sample"),
        ({"Value": 1.0, "Counts": [1.0]}, COMBINATION, "Counts"),
        ({"Value": 1.0, "Values": [1.0]}, COMBINATION, "mutually exclusive"),
        ({"Value": 0.0, "StatisticValues": SET}, COMBINATION, "mutually exclusive"),
        ({"StatisticValues": SET | {"Sum": math.nan}}, VALUE, "NaN"),
        ({"StatisticValues": SET | {"SampleCount": 0.0}}, VALUE, "SampleCount"),
        ({"StatisticValues": SET | {"SampleCount": -1.0}}, VALUE, "SampleCount"),
        ({"StatisticValues": SET | {"Minimum": 9.0}}, VALUE, "Minimum"),
        ({"Value": 1.0, "Timestamp": at(1234 - 14 * 86_400)}, VALUE, "within the past two weeks"),
        ({"Value": 1.0, "Timestamp": at(1235 + 7200)}, VALUE, "no more than two hours in the future"),
        ({"Value": 1.0, "StorageResolution": 5}, VALUE, "StorageResolution"),
        ({"Value": 1.0, "Dimensions": [{"Name": "a", "Value": "1"}] * 2}, VALUE, "duplicate"),
        ({"Value": 1.0, "Dimensions": [{"Name": ":a", "Value": "1"}]}, VALUE, "':'"),
        ({"Value": 1.0, "Dimensions": [{"Name": "a", "Value": "é"}]}, VALUE, "ASCII"),
        ({"Value": 1.0, "Dimensions": [{"Name": "a", "Value": "\x00"}]}, VALUE, "ASCII"),
        ({"Value": 1.0, "Dimensions": [{"Name": " ", "Value": "1"}]}, VALUE, "blank"),
    ],
)
def test_bad_metrics_are_refused_and_nothing_of_their_request_is_kept(
    services: Services, metric: dict[str, Any], code: str, part: str
) -> None:
    good = {"MetricName": "m", "Value": 1.0}
    found = refused(
        services, "PutMetricData", Namespace="Mine", MetricData=[good, {"MetricName": "m", **metric}]
    )
    assert found[0] == code and part in found[1]
    assert services.series.keys() == []


def test_the_ends_of_the_time_window_are_inside(services: Services) -> None:
    for offset_s in (1234.5 - 14 * 86_400, 1234.5 + 7200):
        put(services, {"MetricName": "m", "Value": 1.0, "Timestamp": at(offset_s)})


def test_a_request_has_one_to_a_thousand_metrics(services: Services) -> None:
    assert refused(services, "PutMetricData", Namespace="Mine")[0] == MISSING
    metrics = [{"MetricName": f"m{number}", "Value": 1.0} for number in range(1001)]
    code, message = refused(services, "PutMetricData", Namespace="Mine", MetricData=metrics)
    assert code == VALUE and "1000" in message
    put(services, *metrics[:1000])
    assert len(services.series.keys()) == 1000


# --- GetMetricStatistics -------------------------------------------------------------------------------


def test_what_routers_measured_reads_as_the_notebooks_read_it(services: Services) -> None:
    item = {
        "endpoint": "churn",
        "variant": "blue",
        "config": "churn-1",
        "at_s": HOUR_S + 30,
        "invocations": 4,
        "errors_4xx": 1,
        "errors_5xx": 0,
        "model_errors": 1,
        "per_instance": 2.0,
        "model_latency_us": Summary.of([100.0, 200.0, 300.0]).to_json(),
        "overhead_latency_us": Summary.of([10.0] * 4).to_json(),
    }
    services.series.record(router_data([item, {**item, "at_s": HOUR_S + 31}]))
    dimensions = [{"Name": "VariantName", "Value": "blue"}, {"Name": "EndpointName", "Value": "churn"}]
    where = {"Namespace": "AWS/SageMaker", "Dimensions": dimensions}
    (point,) = statistics(services, MetricName="Invocations", Statistics=["Sum", "SampleCount"], **where)
    assert (point["Sum"], point["SampleCount"], point["Unit"]) == (8.0, 8.0, "Count")
    (point,) = statistics(services, MetricName="Invocation4XXErrors", Statistics=["Average", "Sum"], **where)
    assert (point["Average"], point["Sum"]) == (0.25, 2.0)
    (point,) = statistics(services, MetricName="ModelLatency", Statistics=["Average"], **where)
    assert (point["Average"], point["Unit"]) == (200.0, "Microseconds")
    fleet = [*dimensions, {"Name": "EndpointConfigName", "Value": "churn-1"}]
    (point,) = statistics(
        services,
        MetricName="InvocationsPerInstance",
        Statistics=["Sum"],
        Namespace="AWS/SageMaker",
        Dimensions=fleet,
    )
    assert point["Sum"] == 4.0
    assert statistics(services, MetricName="Invocations", Statistics=["Sum"], Namespace="AWS/SageMaker") == []


def test_units_are_separate_datapoints_and_can_be_chosen(services: Services) -> None:
    put(services, {"MetricName": "m", "Value": 1.0, "Unit": "Seconds", "Timestamp": at(0)})
    put(services, {"MetricName": "m", "Value": 2.0, "Unit": "Bytes", "Timestamp": at(0)})
    assert [(p["Unit"], p["Sum"]) for p in statistics(services, Statistics=["Sum"])] == [
        ("Bytes", 2.0),
        ("Seconds", 1.0),
    ]
    assert [p["Sum"] for p in statistics(services, Statistics=["Sum"], Unit="Seconds")] == [1.0]
    assert statistics(services, Statistics=["Sum"], Unit="Percent") == []


def test_the_start_is_rounded_down_to_the_period(services: Services) -> None:
    put(services, *({"MetricName": "m", "Value": 1.0, "Timestamp": at(60 * minute)} for minute in range(10)))
    found = statistics(services, Statistics=["Sum"], Period=300, StartTime=at(299), EndTime=at(301))
    assert [(p["Timestamp"] - HOUR_S, p["Sum"]) for p in found] == [(0, 5.0), (300, 5.0)]
    found = statistics(services, Statistics=["Sum"], Period=300, StartTime=at(299), EndTime=at(300))
    assert [p["Timestamp"] - HOUR_S for p in found] == [0]


@pytest.mark.parametrize("period_s", [1, 5, 10, 30, 60, 120, 300, 3600, 86_400])
def test_periods_of_cloudwatch_are_served(services: Services, period_s: int) -> None:
    put(services, {"MetricName": "m", "Value": 3.0, "StorageResolution": 1, "Timestamp": at(1230)})
    found = statistics(services, Statistics=["Sum"], Period=period_s, StartTime=at(1200), EndTime=at(1235))
    assert [p["Sum"] for p in found] == [3.0]
    assert found[0]["Timestamp"] % period_s == 0


TOO_MANY = (
    "You have requested up to 1,441 datapoints, which exceeds the limit of 1,440. "
    "You may reduce the datapoints requested by increasing Period, or decreasing the time range."
)


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ({}, COMBINATION, "Must specify either Statistics or ExtendedStatistics"),
        ({"Statistics": ["Sum"], "ExtendedStatistics": ["p99"]}, COMBINATION, "not both"),
        (
            {"ExtendedStatistics": ["p99", "q1"]},
            VALUE,
            "The value q1 for parameter ExtendedStatistics.member.2",
        ),
        ({"Statistics": ["Sum"], "Period": 45}, VALUE, "Period"),
        ({"Statistics": ["Sum"], "Period": 90}, VALUE, "Period"),
        ({"Statistics": ["Sum"], "StartTime": at(3600)}, VALUE, "must be less than"),
        ({"Statistics": ["Sum"], "StartTime": at(3601)}, VALUE, "must be less than"),
        (
            {"Statistics": ["Sum"], "EndTime": at(86_401)},
            COMBINATION,
            TOO_MANY,
        ),
    ],
)
def test_bad_questions_are_refused(services: Services, change: dict[str, Any], code: str, part: str) -> None:
    request = {"Namespace": "Mine", "MetricName": "m", "StartTime": at(0), "EndTime": at(3600), "Period": 60}
    found = refused(services, "GetMetricStatistics", **(request | change))
    assert found[0] == code and part in found[1]


def test_a_whole_day_of_minutes_is_allowed(services: Services) -> None:
    assert statistics(services, Statistics=["Sum"], EndTime=at(86_400)) == []


# --- GetMetricData -------------------------------------------------------------------------------------


@pytest.fixture
def filled(services: Services) -> Services:
    put(services, *({"MetricName": "m", "Value": float(n), "Timestamp": at(60 * n)} for n in range(6)))
    put(services, *({"MetricName": "e", "Value": 1.0, "Timestamp": at(60 * n)} for n in (2, 4)))
    return services


def test_metrics_and_expressions_come_back_in_the_order_asked_for(filled: Services) -> None:
    rate = {"Id": "rate", "Expression": "100 * errors / total", "Label": "error rate"}
    answer = data(filled, rate, query("total"), query("errors", MetricName="e", ReturnData=False))
    assert answer == {
        "MetricDataResults": [
            {
                "Id": "rate",
                "Label": "error rate",
                "Timestamps": [HOUR_S + 120.0, HOUR_S + 240.0],
                "Values": [50.0, 25.0],
                "StatusCode": "Complete",
            },
            {
                "Id": "total",
                "Label": "m",
                "Timestamps": [HOUR_S + 60.0 * n for n in range(6)],
                "Values": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
                "StatusCode": "Complete",
            },
        ]
    }


def test_newest_first_is_the_default(filled: Services) -> None:
    request = {"MetricDataQueries": [query("m1")], "StartTime": at(0), "EndTime": at(3600)}
    (result,) = call(filled, "GetMetricData", **request)["MetricDataResults"]
    assert result["Values"] == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_a_missing_metric_is_complete_and_empty(filled: Services) -> None:
    (result,) = data(filled, query("m1", MetricName="none"))["MetricDataResults"]
    assert (result["Values"], result["Timestamps"], result["StatusCode"]) == ([], [], "Complete")


def test_expressions_read_expressions_in_any_order_and_long_chains(filled: Services) -> None:
    chain = [{"Id": f"e{n}", "Expression": f"e{n + 1} + 1", "ReturnData": n == 0} for n in range(498)]
    (result,) = data(
        filled, *chain, {"Id": "e498", "Expression": "m1", "ReturnData": False}, query("m1", ReturnData=False)
    )["MetricDataResults"]
    assert result["Values"][:2] == [498.0, 499.0]


def test_arrays_are_several_results_of_one_id(filled: Services) -> None:
    answer = data(
        filled,
        query("m1", ReturnData=False),
        query("m2", MetricName="e", ReturnData=False),
        {"Id": "e1", "Expression": "METRICS() * 2"},
    )
    assert [(r["Id"], r["Label"], r["Values"][-1]) for r in answer["MetricDataResults"]] == [
        ("e1", "m", 10.0),
        ("e1", "e", 2.0),
    ]


def test_units_merge_unless_one_is_chosen(filled: Services) -> None:
    put(filled, {"MetricName": "m", "Value": 100.0, "Unit": "Bytes", "Timestamp": at(60)})
    both, one = data(filled, query("m1"), query("m2", Unit="Bytes"))["MetricDataResults"]
    assert both["Values"][1] == 101.0
    assert one["Values"] == [100.0]


def test_filling_covers_the_range_asked_for(filled: Services) -> None:
    (result,) = data(
        filled,
        query("m1", MetricName="e", ReturnData=False),
        {"Id": "e1", "Expression": "FILL(m1, 0)"},
        StartTime=at(30),
        EndTime=at(300),
    )["MetricDataResults"]
    assert result["Values"] == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert result["Timestamps"][0] == HOUR_S


@pytest.mark.parametrize("scan_by", ["TimestampAscending", "TimestampDescending"])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 6, 7, 8, 100])
def test_pages_together_are_the_whole(filled: Services, scan_by: str, most: int) -> None:
    queries = [query("m1"), query("none", MetricName="none"), query("m2", MetricName="e")]
    whole = {r["Id"]: r["Values"] for r in data(filled, *queries, ScanBy=scan_by)["MetricDataResults"]}
    found: dict[str, list[float]] = {}
    token: dict[str, str] = {}
    for page in range(20):
        answer = data(filled, *queries, ScanBy=scan_by, MaxDatapoints=most, **token)
        assert 0 < sum(len(r["Values"]) for r in answer["MetricDataResults"]) <= most
        for result in answer["MetricDataResults"]:
            found.setdefault(result["Id"], []).extend(result["Values"])
            assert result["StatusCode"] == (
                "Complete" if found[result["Id"]] == whole[result["Id"]] else "PartialData"
            )
        if "NextToken" not in answer:
            break
        token = {"NextToken": answer["NextToken"]}
        # A sample that arrives between two pages, newer than all, repeats and skips nothing old.
        if page == 0 and scan_by == "TimestampDescending":
            put(filled, {"MetricName": "none2", "Value": 1.0})
    assert found == whole


@pytest.mark.parametrize(
    ("queries", "part"),
    [
        ([query("M1")], "not matching the expected pattern"),
        ([query("1m")], "not matching the expected pattern"),
        ([query("m1"), query("m1")], "not unique"),
        ([query("m1", ReturnData=False)], "ReturnData"),
        ([{"Id": "m1"}], "MetricDataQueries.member.1.MetricStat is required"),
        ([query("m1") | {"Expression": "1"}], "mutually exclusive"),
        (
            [query("m1", Stat="p1000")],
            "The value p1000 for parameter MetricDataQueries.member.1.MetricStat.Stat",
        ),
        ([query("m1", Period=7)], "Period"),
        ([{"Id": "e1", "Expression": "TIME_SERIES(1)", "Period": 7}], "Period"),
        (
            [{"Id": "m1", "MetricStat": {"Metric": {"Namespace": "Mine"}, "Period": 60, "Stat": "Sum"}}],
            "MetricName",
        ),
        ([{"Id": "e1", "Expression": "NOPE(1)"}], "Error in expression 'e1': unknown function NOPE"),
        ([{"Id": "e1", "Expression": "SEARCH('x', 'Sum', 60)"}], "SEARCH is not supported"),
        ([{"Id": "e1", "Expression": "m9"}], "Error in expression 'e1': no query has the Id 'm9'"),
        ([{"Id": "e1", "Expression": "e2"}, {"Id": "e2", "Expression": "e1"}], "in a circle"),
        ([{"Id": "e1", "Expression": "e1"}], "in a circle"),
        ([{"Id": "e1", "Expression": "1 + 1"}], "the result is a number"),
        ([query(f"m{n}") for n in range(501)], "500"),
        ([{"Id": "e1", "Expression": "TIME_SERIES(1)", "Period": 1}] * 1, None),
    ],
)
def test_bad_queries_are_refused(filled: Services, queries: list[dict[str, Any]], part: str | None) -> None:
    if part is None:
        assert len(data(filled, *queries)["MetricDataResults"][0]["Values"]) == 3600
        return
    request = {"StartTime": at(0), "EndTime": at(3600)}
    code, message = refused(filled, "GetMetricData", MetricDataQueries=queries, **request)
    assert code == "ValidationError" and part in message


def test_bad_ranges_pages_and_tokens_are_refused(filled: Services) -> None:
    request = {"MetricDataQueries": [query("m1")], "StartTime": at(0), "EndTime": at(60)}
    assert refused(filled, "GetMetricData", **(request | {"EndTime": at(0)}))[0] == "ValidationError"
    assert refused(filled, "GetMetricData", **(request | {"EndTime": at(-1)}))[0] == "ValidationError"
    for most in (0, -1, 100_801):
        assert refused(filled, "GetMetricData", **request, MaxDatapoints=most)[0] == "ValidationError"
    for token in ("x", "é", "AAAA", "W10", "Wy0xLDFd", "WyJhIiwxXQ", "W" * 9000):
        assert refused(filled, "GetMetricData", **request, NextToken=token)[0] == "InvalidNextToken"


def test_a_request_that_would_compute_for_minutes_is_refused(filled: Services) -> None:
    endless = {"Id": "e1", "Expression": "TIME_SERIES(1)", "Period": 1}
    request = {"MetricDataQueries": [endless], "StartTime": at(-400 * 86_400), "EndTime": at(0)}
    code, message = refused(filled, "GetMetricData", **request)
    assert code == "ValidationError" and "too many data points" in message


# --- ListMetrics ---------------------------------------------------------------------------------------


def test_metrics_are_listed_by_namespace_name_and_dimensions(services: Services) -> None:
    def metric(name: str, **dimensions: str) -> dict[str, Any]:
        return {
            "MetricName": name,
            "Value": 1.0,
            "Dimensions": [{"Name": k, "Value": v} for k, v in dimensions.items()],
        }

    put(services, metric("m", Endpoint="a", Variant="x"), metric("m", Endpoint="b", Variant="x"), metric("n"))
    put(services, metric("m", Endpoint="a"), namespace="Other")

    def listed(**filters: Any) -> list[tuple[str, str, dict[str, str]]]:
        found = call(services, "ListMetrics", **filters)["Metrics"]
        return [
            (m["Namespace"], m["MetricName"], {d["Name"]: d["Value"] for d in m["Dimensions"]}) for m in found
        ]

    assert len(listed()) == 4
    assert listed(Namespace="Other") == [("Other", "m", {"Endpoint": "a"})]
    assert listed(MetricName="n") == [("Mine", "n", {})]
    assert len(listed(Dimensions=[{"Name": "Variant"}])) == 2
    assert listed(Dimensions=[{"Name": "Variant"}, {"Name": "Endpoint", "Value": "b"}]) == [
        ("Mine", "m", {"Endpoint": "b", "Variant": "x"})
    ]
    assert listed(Dimensions=[{"Name": "Nope"}]) == []


def test_only_metrics_with_recent_samples_are_listed(services: Services) -> None:
    def record(name: str, age_s: float) -> None:
        services.series.record(
            [Datum(SeriesKey("Mine", name), int(NOW_S - age_s), "None", Summary.of([1.0]))]
        )

    record("now", 0)
    record("hours", 4 * 3600)
    record("weeks", 15 * 86_400)
    assert [m["MetricName"] for m in call(services, "ListMetrics")["Metrics"]] == ["hours", "now"]
    assert [m["MetricName"] for m in call(services, "ListMetrics", RecentlyActive="PT3H")["Metrics"]] == [
        "now"
    ]


def test_listings_have_pages_of_500(services: Services) -> None:
    for start in (0, 600):
        put(services, *({"MetricName": f"m{n:04d}", "Value": 1.0} for n in range(start, start + 600)))
    names: list[str] = []
    sizes = []
    token: dict[str, str] = {}
    while True:
        page = call(services, "ListMetrics", **token)
        names += [metric["MetricName"] for metric in page["Metrics"]]
        sizes.append(len(page["Metrics"]))
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    assert sizes == [500, 500, 200]
    assert names == [f"m{n:04d}" for n in range(1200)]


@pytest.mark.parametrize(
    "token", ["", "x", "AAAA", "WzEsMiwzXQ", "WyJhIiwiYiIsWzFdXQ", "WyJhIiwiYiIsWyJhYmMiXV0"]
)
def test_bad_list_tokens_are_refused(services: Services, token: str) -> None:
    assert refused(services, "ListMetrics", NextToken=token)[0] == VALUE
