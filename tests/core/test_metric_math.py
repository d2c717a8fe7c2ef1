"""Metric math: grammar, functions, missing points, hostile input."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.metric_functions import FUNCTIONS, UNSUPPORTED
from understudy.core.metric_math import evaluate, parse_expression, references
from understudy.core.metric_values import MathError, Scope, TimeSeries, Value, Work

T0 = 1_699_999_200  # a full hour


def series(*values: float | None, period_s: int = 60, label: str = "") -> TimeSeries:
    """Values from T0 on; None is missing."""
    points = {T0 + at * period_s: value for at, value in enumerate(values) if value is not None}
    return TimeSeries(points, period_s, label)


M1 = series(1.0, 2.0, None, 4.0, label="one")
M2 = series(10.0, None, 30.0, 40.0, label="two")
ZEROS = series(0.0, 0.0, 0.0, 0.0)


def compute(text: str, work: int = 10_000, **values: Value) -> Value:
    known: dict[str, Value] = {"m1": M1, "m2": M2, **values}
    scope = Scope(known, ("m1", "m2"), T0, T0 + 240, 60, Work(work))
    return evaluate(parse_expression(text), scope)


def listed(value: Value) -> list[float | None]:
    assert isinstance(value, TimeSeries)
    return [value.points.get(T0 + at * value.period_s) for at in range(4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("10 - 2 - 3", 5.0),
        ("16 / 4 / 2", 2.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("-2 ^ 2", -4.0),
        ("2 ^ -1", 0.5),
        ("- - 3", 3.0),
        ("1.5e2 + .5", 150.5),
        ("1 < 2", 1.0),
        ("1 >= 2", 0.0),
        ("1 == 1 AND 2 != 2", 0.0),
        ("1 == 2 || 2 == 2", 1.0),
        ("1 && 0 or 1", 1.0),
        ("1 + 1 > 1 AND 3 > 2", 1.0),
        ("FLOOR(1.7) + CEIL(1.2) + ABS(-3)", 6.0),
        ("LOG10(1000)", 3.0),
        ("LOG(1)", 0.0),
        ("PERIOD(m1)", 60.0),
        ("SUM(m1)", 7.0),
        ("AVG(m2)", 80.0 / 3),
        ("MIN(m1) + MAX(m2)", 41.0),
        ("COUNT(m1)", 3.0),
        ("DATAPOINT_COUNT(m2)", 3.0),
        ("METRIC_COUNT(METRICS())", 2.0),
    ],
)
def test_numbers(text: str, expected: float) -> None:
    assert compute(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m1 + m2", [11.0, None, None, 44.0]),
        ("m1 * 100 / m2", [10.0, None, None, 10.0]),
        ("100 * m1", [100.0, 200.0, None, 400.0]),
        ("-m1", [-1.0, -2.0, None, -4.0]),
        ("m1 / 0", [None] * 4),
        ("m2 / (m1 - 1)", [None, None, None, 40.0 / 3]),
        ("m1 ^ 10000", [1.0, None, None, None]),
        ("(m1 - 3) ^ 0.5", [None, None, None, 1.0]),
        ("m1 > 1", [0.0, 1.0, None, 1.0]),
        ("m1 > 1 AND m2 > 30", [0.0, None, None, 1.0]),
        ("SUM(METRICS())", [11.0, 2.0, 30.0, 44.0]),
        ("AVG([m1, m2])", [5.5, 2.0, 30.0, 22.0]),
        ("MIN(METRICS())", [1.0, 2.0, 30.0, 4.0]),
        ("MAX(METRICS('m1'))", [1.0, 2.0, None, 4.0]),
        ("COUNT(METRICS())", [2.0, 1.0, 1.0, 2.0]),
        ("STDDEV(METRICS())", [4.5, 0.0, 0.0, 18.0]),
        ("m1 - AVG(m1)", [1 - 7 / 3, 2 - 7 / 3, None, 4 - 7 / 3]),
        ("SUM(METRICS() * 2)", [22.0, 4.0, 60.0, 88.0]),
        ("LOG10(m2 - 10)", [None, None, math.log10(20), math.log10(30)]),
        ("DIFF(m1)", [None, 1.0, None, 2.0]),
        ("DIFF_TIME(m1)", [None, 60.0, None, 120.0]),
        ("RATE(m1)", [None, 1 / 60, None, 2 / 120]),
        ("RUNNING_SUM(m1)", [1.0, 3.0, None, 7.0]),
        ("FILL(m1, 0)", [1.0, 2.0, 0.0, 4.0]),
        ("FILL(m1, REPEAT)", [1.0, 2.0, 2.0, 4.0]),
        ("FILL(m1, LINEAR)", [1.0, 2.0, 3.0, 4.0]),
        ("FILL(m1, m2)", [1.0, 2.0, 30.0, 4.0]),
        ("FILL(m2, REPEAT)", [10.0, 10.0, 30.0, 40.0]),
        ("SUM(FILL(METRICS(), 0))", [11.0, 2.0, 30.0, 44.0]),
        ("IF(m1 > 1, m2, 0)", [0.0, None, None, 40.0]),
        ("IF(m1 > 1, 7)", [None, 7.0, None, 7.0]),
        ("IF(1, m1, m2)", [1.0, 2.0, None, 4.0]),
        ("IF(0, m1)", [None] * 4),
        ("TIME_SERIES(3)", [3.0] * 4),
        ("MINUTE(m1)", [0.0, 1.0, None, 3.0]),
        ("EPOCH(m1) - DIFF(m1)", [None, T0 + 59.0, None, T0 + 178.0]),
        ("HOUR(m1) * 0 + DAY(m1)", [2.0, 2.0, None, 2.0]),  # 14 November 2023 was a Tuesday
        ("DATE(m1) + MONTH(m1) + YEAR(m1)", [2048.0, 2048.0, None, 2048.0]),
        ("FIRST(METRICS())", [1.0, 2.0, None, 4.0]),
        ("LAST(REMOVE_EMPTY([m1, IF(0, m1)]))", [1.0, 2.0, None, 4.0]),
        ("SUM(SLICE(METRICS(), 1))", [10.0, None, 30.0, 40.0]),
        ("SUM(SLICE(METRICS(), 0, 2))", [11.0, 2.0, 30.0, 44.0]),
        ("SUM(IF(0, m1))", [None] * 4),
        ("sum(metrics())", [11.0, 2.0, 30.0, 44.0]),
    ],
)
def test_series(text: str, expected: list[float | None]) -> None:
    assert listed(compute(text)) == pytest.approx(expected)


def test_a_repeat_has_nothing_before_the_first_value_and_a_line_nothing_outside() -> None:
    late = series(None, 5.0, None, None)
    assert listed(compute("FILL(x, REPEAT)", x=late)) == [None, 5.0, 5.0, 5.0]
    assert listed(compute("FILL(x, LINEAR)", x=late)) == [None, 5.0, None, None]


def test_arrays_keep_their_members_labels() -> None:
    found = compute("METRICS() / 10")
    assert isinstance(found, list)
    assert [(each.label, listed(each)[0]) for each in found] == [("one", 0.1), ("two", 1.0)]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "unexpected"),
        ("m1 +", "unexpected"),
        ("m1 m2", "unexpected 'm2'"),
        ("(m1", r"expected '\)'"),
        ("[m1, m2", r"expected '\]'"),
        ("m1 $ m2", r"unexpected '\$'"),
        ("NOPE(m1)", "unknown function NOPE"),
        ("SEARCH('{AWS/SageMaker}', 'Sum', 60)", "SEARCH is not supported"),
        ("IF(m1 > 1, NOPE(m1), m2)", "unknown function NOPE"),
        ("Total + 1", "'Total' is no Id"),
        ("m3", "no query has the Id 'm3'"),
        ("'text'", "unexpected text"),
        ("'open", 'unexpected "\'"'),
        ("SUM()", "SUM takes 1 argument"),
        ("SUM(1)", "takes a time series"),
        ("SUM('m1')", "SUM takes no 'm1'"),
        ("SUM(REPEAT)", "SUM takes no 'REPEAT'"),
        ("FILL(m1)", "FILL takes 2"),
        ("FILL(m1, 'REPEAT')", "FILL takes no 'REPEAT'"),
        ("FILL(m1, METRICS())", "FILL takes a number"),
        ("FILL(1, 0)", "FILL takes a time series"),
        ("PERIOD(1)", "PERIOD takes a time series"),
        ("TIME_SERIES(m1)", "takes a number"),
        ("METRICS(m1)", "METRICS takes"),
        ("METRICS(REPEAT)", "METRICS takes"),
        ("METRICS() + METRICS()", "one side only"),
        ("IF(METRICS(), 1, 2)", "IF takes"),
        ("[1, 2]", "an array holds time series"),
        ("METRIC_COUNT(m1)", "takes an array"),
        ("SLICE(METRICS(), -1)", "whole numbers"),
        ("SLICE(METRICS(), 0.5)", "whole numbers"),
        ("SLICE(METRICS(), 1e99)", None),
        ("1 / 0", "is no number"),
        ("LOG(0)", "is no number"),
        ("DIFF(1)", "takes a time series"),
        ("9 ^ 9 ^ 9 ^ 9", "is no number"),
        ("1e999 * 0", "too large"),
        ("m1 + m1" * 400, "longer than"),
        ("(" * 1000, "nested deeper"),
        ("-" * 2000 + "1", "nested deeper"),
        ("ABS(" * 300 + "m1" + ")" * 300, "nested deeper"),
        ("2" + "^2" * 1000, "nested deeper"),
        ("[" * 900, "nested deeper"),
    ],
)
def test_errors_say_what_is_wrong(text: str, part: str | None) -> None:
    if part is None:
        assert compute(text) == []
        return
    with pytest.raises(MathError, match=part):
        compute(text)


def test_long_chains_need_no_depth() -> None:
    assert compute("+".join(["1"] * 1000)) == 1000.0


def test_work_is_bounded() -> None:
    with pytest.raises(MathError, match="too many data points"):
        compute("+".join(["m1"] * 600), work=1000)
    with pytest.raises(MathError, match="too many data points"):
        compute("TIME_SERIES(1)", work=3)
    many = [M1] * 400
    with pytest.raises(MathError, match="too many data points"):
        compute("[" + ",".join(["x"] * 500) + "]", x=many)


def test_references_leave_functions_and_keywords_out() -> None:
    assert references(parse_expression("IF(m1 > 2, FILL([e1, -m2], REPEAT), METRICS('m9'))")) == {
        "m1",
        "e1",
        "m2",
    }


def test_what_is_not_supported_is_not_supported() -> None:
    assert not UNSUPPORTED & FUNCTIONS.keys()


pieces = st.sampled_from(
    [
        *sorted(FUNCTIONS | dict.fromkeys(UNSUPPORTED)),
        *"()[],+-*/^<>10é.\n",
        *('"', " ", "m1", "m2", "==", "AND", "||", "2.5", "1e300", "'m'", "REPEAT", "LINEAR"),
    ]
)


@given(
    st.one_of(
        st.lists(pieces, max_size=25).map("".join), st.lists(pieces, max_size=25).map(" ".join), st.text()
    )
)
def test_any_text_is_computed_or_refused(text: str) -> None:
    try:
        found = compute(text)
    except MathError:
        return
    assert isinstance(found, float | TimeSeries | list)
    for each in found if isinstance(found, list) else [found]:
        values = each.points.values() if isinstance(each, TimeSeries) else [each]
        assert all(math.isfinite(value) for value in values)
        if isinstance(each, TimeSeries):
            assert list(each.points) == sorted(each.points)
