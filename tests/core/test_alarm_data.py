"""Windows, units, statistics and metric math of alarms over a real series store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.alarm_data import read_datapoints, rule_of
from understudy.core.metric_values import MathError
from understudy.core.metrics import Datum, SeriesKey, Summary
from understudy.stores.memory_series import MemorySeries

KEY = SeriesKey("Mine", "Errors", (("Place", "a"),))
HOUR_S = 3600 * 1000


def store(samples: dict[int, float], unit: str = "Count", key: SeriesKey = KEY) -> MemorySeries:
    series = MemorySeries()
    series.record([Datum(key, at_s, unit, Summary.of([value])) for at_s, value in samples.items()])
    return series


def alarm(**members: object) -> dict[str, object]:
    return {
        "MetricName": "Errors",
        "Namespace": "Mine",
        "Dimensions": [{"Name": "Place", "Value": "a"}],
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanThreshold",
        **members,
    }


@given(
    st.dictionaries(st.integers(HOUR_S - 3000, HOUR_S + 3000), st.floats(-100, 100), max_size=40),
    st.sampled_from([10, 20, 30, 60, 120, 300]),
    st.integers(1, 4),
    st.integers(0, 40),
    st.sampled_from(["Sum", "Average", "Maximum", "SampleCount"]),
)
def test_windows_slide_and_hold_each_sample_once(
    samples: dict[int, float], period_s: int, periods: int, steps: int, name: str
) -> None:
    request = alarm(Period=period_s, EvaluationPeriods=periods, Statistic=name)
    end_s = HOUR_S + steps * (60 if period_s >= 60 else 10)
    found = read_datapoints(request, store(samples).read, end_s)
    expected = {}
    for back in range(periods + 2, 0, -1):
        start_s = end_s - back * period_s
        inside = [value for at_s, value in samples.items() if start_s <= at_s < start_s + period_s]
        if inside:
            expected[start_s] = {
                "Sum": sum(inside),
                "Average": sum(inside) / len(inside),
                "Maximum": max(inside),
                "SampleCount": float(len(inside)),
            }[name]
    assert {point.start_s: pytest.approx(point.value, abs=1e-9) for point in found} == expected


def test_units_are_kept_apart_where_one_is_asked_for() -> None:
    series = store({HOUR_S - 30: 4.0})
    assert read_datapoints(alarm(Unit="Seconds"), series.read, HOUR_S) == []
    (point,) = read_datapoints(alarm(Unit="Count"), series.read, HOUR_S)
    assert point.value == 4.0


def test_percentiles() -> None:
    request = {name: value for name, value in alarm(ExtendedStatistic="p50").items() if name != "Statistic"}
    series = store({HOUR_S - 40: 1.0, HOUR_S - 30: 5.0, HOUR_S - 20: 9.0})
    (point,) = read_datapoints(request, series.read, HOUR_S)
    assert point.value == pytest.approx(5.0, rel=0.02)
    assert point.sample_count == 3.0


def math_alarm(expression: str, period_s: int = 60, **more: object) -> dict[str, object]:
    def stat(name: str) -> dict[str, object]:
        return {"Metric": {"Namespace": "Mine", "MetricName": name}, "Period": period_s, "Stat": "Sum"}

    return {
        "Metrics": [
            {"Id": "rate", "Expression": expression},
            {"Id": "errors", "MetricStat": stat("Errors"), "ReturnData": False},
            {"Id": "calls", "MetricStat": stat("Calls"), "ReturnData": False},
        ],
        "EvaluationPeriods": 2,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanThreshold",
        **more,
    }


@pytest.mark.parametrize("late_s", [0, 60, 240])
def test_metric_math_in_sliding_windows(late_s: int) -> None:
    series = store({HOUR_S + late_s - 30: 2.0}, key=SeriesKey("Mine", "Errors"))
    series.record([Datum(SeriesKey("Mine", "Calls"), HOUR_S + late_s - 20, "Count", Summary.of([8.0]))])
    request = math_alarm("100 * errors / FILL(calls, 1)", period_s=300)
    (point,) = read_datapoints(request, series.read, HOUR_S + late_s)
    assert (point.start_s, point.value) == (HOUR_S + late_s - 300, 25.0)
    assert rule_of(request).period_s == 300


def test_fill_makes_datapoints_of_silence() -> None:
    found = read_datapoints(math_alarm("FILL(errors, 0)"), MemorySeries().read, HOUR_S)
    assert [(point.start_s - HOUR_S, point.value) for point in found] == [
        (-240, 0.0),
        (-180, 0.0),
        (-120, 0.0),
        (-60, 0.0),
    ]


def test_a_number_is_no_series() -> None:
    series = store({HOUR_S - 30: 2.0}, key=SeriesKey("Mine", "Errors"))
    with pytest.raises(MathError, match="time series"):
        read_datapoints(math_alarm("SUM(errors)"), series.read, HOUR_S)
