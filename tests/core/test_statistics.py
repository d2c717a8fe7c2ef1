"""CloudWatch's statistics against exact arithmetic on the raw samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.metrics import Summary
from understudy.core.statistics import PLAIN_STATISTICS, parse_statistic, statistic

sizes = st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=200)
signed = st.lists(
    st.floats(-1e12, 1e12).filter(lambda value: value == 0.0 or abs(value) > 1e-200), min_size=1
)
LOOSE = 1.0 + 1e-9


def nearest_rank(values: list[float], percent: float) -> float:
    """The definition, by counting: smallest sample with at least percent % of samples at or below it."""
    ordered = sorted(values)
    for at, value in enumerate(ordered, start=1):
        if at * 100.0 >= percent * len(ordered) * (1 - 1e-12):
            return value
    return ordered[-1]


@given(signed, st.sampled_from([0.0, 1.0, 5.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0]))
def test_percentiles_are_within_one_percent_and_within_the_extremes(
    values: list[float], percent: float
) -> None:
    found = statistic(Summary.of(values), f"p{percent:g}")
    exact = nearest_rank(values, percent)
    assert found is not None
    assert abs(found - exact) <= 0.01 * abs(exact) * LOOSE
    assert min(values) <= found <= max(values)


@given(
    st.lists(signed, min_size=1), st.sampled_from(["p50", "p99.9", "tm90", "WM(5%:95%)", "TS(:10)", "PR(0:)"])
)
def test_statistics_of_merged_parts_are_those_of_the_whole(parts: list[list[float]], name: str) -> None:
    merged = sum((Summary.of(part) for part in parts), Summary())
    whole = Summary.of(value for part in parts for value in part)
    assert statistic(merged, name) == pytest.approx(statistic(whole, name))


@given(sizes)
def test_plain_statistics_are_exact(values: list[float]) -> None:
    summary = Summary.of(values)
    exact = (len(values), sum(values), sum(values) / len(values), min(values), max(values))
    assert [statistic(summary, name) for name in PLAIN_STATISTICS] == list(exact)


@given(sizes, st.integers(0, 100), st.integers(0, 100))
def test_trimmed_means_are_within_one_percent(values: list[float], one: int, other: int) -> None:
    low, high = sorted((one, other))
    ordered = sorted(values)
    first, last = low * len(ordered) / 100, high * len(ordered) / 100
    weights = [max(0.0, min(at + 1, last) - max(at, first)) for at in range(len(ordered))]
    found = statistic(Summary.of(values), f"TM({low}%:{high}%)")
    if low == high:
        assert found is None
        return
    exact = math.fsum(w * v for w, v in zip(weights, ordered, strict=True)) / math.fsum(weights)
    assert found == pytest.approx(exact, rel=0.01 * LOOSE + 1e-9)
    assert statistic(Summary.of(values), f"TC({low}%:{high}%)") == pytest.approx(sum(weights))
    assert statistic(Summary.of(values), f"TS({low}%:{high}%)") == pytest.approx(
        exact * sum(weights), rel=0.0101
    )


@given(sizes, st.integers(1, 99))
def test_winsorized_means_are_within_one_percent(values: list[float], high: int) -> None:
    ordered = sorted(values)
    ceiling = nearest_rank(values, high)
    last = high * len(ordered) / 100
    inside = [max(0.0, min(1.0, last - at)) for at in range(len(ordered))]
    exact = math.fsum(w * v + (1 - w) * ceiling for w, v in zip(inside, ordered, strict=True)) / len(ordered)
    assert statistic(Summary.of(values), f"wm{high}") == pytest.approx(exact, rel=0.0101)


HUNDREDS = Summary.of([100.0, 200.0, 300.0, 400.0, 2000.0])


def test_bounds_by_value_are_open_below_and_closed_above() -> None:
    assert statistic(HUNDREDS, "TC(100:2000)") == 4.0
    assert statistic(HUNDREDS, "PR(:305)") == pytest.approx(60.0)
    assert statistic(HUNDREDS, "PR(100:)") == pytest.approx(80.0)
    assert statistic(HUNDREDS, "TM(150:1000)") == pytest.approx(300.0, rel=0.01)
    assert statistic(HUNDREDS, "TS(150:1000)") == pytest.approx(900.0, rel=0.01)
    assert statistic(HUNDREDS, "WM(150:1000)") == pytest.approx((150 + 200 + 300 + 400 + 1000) / 5, rel=0.01)
    assert statistic(HUNDREDS, "TM(5000:6000)") is None
    assert statistic(HUNDREDS, "TC(5000:6000)") == 0.0


def test_short_names_are_the_long_ones() -> None:
    assert parse_statistic("tm90") == parse_statistic("TM(:90%)")
    assert parse_statistic("IQM") == parse_statistic("TM(25%:75%)")
    assert statistic(HUNDREDS, "tm80") == pytest.approx(250.0, rel=0.01)
    assert statistic(HUNDREDS, "IQM") == pytest.approx((200 * 0.75 + 300 + 400 * 0.75) / 2.5, rel=0.01)


def test_what_is_not_known_is_none() -> None:
    statistic_set = Summary(10.0, 50.0, 1.0, 9.0)
    assert statistic(statistic_set, "Average") == 5.0
    assert statistic(statistic_set, "p99") is None
    assert statistic(statistic_set + Summary.of([5.0]), "tm90") is None
    assert statistic(Summary(), "Average") is None
    assert statistic(Summary(), "p50") is None
    assert statistic(Summary(), "Sum") == statistic(Summary(), "SampleCount") == 0.0


def test_equal_samples_have_exact_percentiles_with_fractional_counts() -> None:
    summary = Summary.repeated(123.456, 0.25) + Summary.repeated(123.456, 2.5)
    assert statistic(summary, "p99.9") == statistic(summary, "p0") == 123.456


@pytest.mark.parametrize(
    "name",
    [
        *("", "p", "p101", "p-1", "pp99", "average", "P99", "p99%", "p1e2", "p٩", "p99.12345678901", "p\n99"),
        *(
            "tm",
            "tm101",
            "TM(:)",
            "TM()",
            "TM(90%:10%)",
            "TM(9:1)",
            "PR(1%:2%)",
            "TM(1%:2)",
            "IQM()",
            "TM(:9%) ",
        ),
    ],
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        parse_statistic(name)
