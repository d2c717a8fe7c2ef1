"""How answers are read and how they differ."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.analysis.answers import Answer, text_of_answer, value_of_answer
from understudy.analysis.fields import Tolerance, differences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def _found(a: Any, b: Any, **tolerance: Any) -> list[tuple[str, str]]:
    return [(one.field, one.kind) for one in differences(a, b, Tolerance(**tolerance))[1]]


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b'[1, NaN]', "application/json; charset=utf-8", [1, pytest.approx(math.nan, nan_ok=True)]),
        (b'{"a":1}\n{"a":2}\n', "application/jsonlines", [{"a": 1}, {"a": 2}]),
        (b"0.5,yes\n\n1e-3,no\r\n", "Text/CSV", [{"column 1": 0.5, "column 2": "yes"},
                                                 {"column 1": 0.001, "column 2": "no"}]),
        (b"1_000", "text/csv", [{"column 1": "1_000"}]),
        (b" 0.25\n", "text/plain", 0.25),
        (b"{", "application/json", b"{"),
        (b"\xff", "text/csv", b"\xff"),
        (b"\x93NUMPY", "application/x-npy", b"\x93NUMPY"),
    ],
)  # fmt: skip
def test_answers_are_read_by_their_type(body: bytes, content_type: str, value: Any) -> None:
    assert value_of_answer(Answer(body, content_type)) == value


def test_long_answers_are_shown_short() -> None:
    assert text_of_answer(Answer(b"x" * 50, ""), 10) == "x" * 10 + "…"
    assert text_of_answer(Answer(b"\xff", ""), 10) == "\\xff"


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1.0}, {"a": 1.0 + 1e-7}, []),
        ({"a": 1.0}, {"a": 1.0 + 1e-5}, [("$.a", "value")]),
        ({"a": 1}, {"a": "1"}, [("$.a", "type")]),
        ({"a": 1}, {"a": True}, [("$.a", "type")]),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, [("$.a", "missing"), ("$.c", "extra")]),
        ({"a": None}, {}, [("$.a", "missing")]),
        ([1, 2, 3], [1, 2], [("$", "length")]),
        ([1, 2], [2, 1], [("$", "order")]),
        ({"p": [{"s": 1}, {"s": 2}]}, {"p": [{"s": 1}, {"s": 3}]}, [("$.p[*].s", "value")]),
        (b"a", b"b", [("$", "value")]),
        (math.nan, math.nan, []),
        (math.nan, 1.0, [("$", "value")]),
        (math.inf, math.inf, []),
        (math.inf, -math.inf, [("$", "value")]),
        (10**400, 10**400 + 1, [("$", "value")]),
        ([10**400, 1.0], [1.0, 10**400], [("$", "order")]),
    ],
)
def test_differences(a: Any, b: Any, found: list[tuple[str, str]]) -> None:
    assert _found(a, b) == found


def test_tolerances() -> None:
    assert _found(100.0, 101.0, relative=0.01) == []
    assert _found(100.0, 101.5, relative=0.01) == [("$", "value")]
    assert _found(0.0, 0.01, absolute=0.01) == []
    assert _found(0.0, 1e-300, absolute=0.0) == [("$", "value")]


def test_a_flip_counts_however_close() -> None:
    assert _found(0.4999999, 0.5, threshold=0.5) == [("$", "class")]
    assert _found(0.1, 0.2, threshold=0.5) == [("$", "value")]
    assert _found({"n": 0, "s": 0.4}, {"n": 1, "s": 0.6}, threshold=0.5, threshold_field="$.s") == [
        ("$.n", "value"),
        ("$.s", "class"),
    ]
    assert _found(0.4, 0.6, threshold=0.0) == [("$", "value")]


def test_order_and_fields_can_be_ignored() -> None:
    assert _found([3, 1, {"b": 2}], [{"b": 2}, 3, 1], ignore_order=True) == []
    assert _found([3, 1], [1, 4], ignore_order=True) == [("$[*]", "value")]
    assert (
        _found({"id": 1, "p": [{"t": 1}]}, {"id": 2, "p": [{"t": 2}]}, ignored_fields=("$.id", "*[*].t"))
        == []
    )


@given(value=JSON)
def test_nothing_differs_from_itself(value: Any) -> None:
    for tolerance in (Tolerance(), Tolerance(0.0, 0.0, 0.5), Tolerance(ignore_order=True)):
        compared, found = differences(value, value, tolerance)
        assert found == []
        assert compared


@given(a=JSON, b=JSON)
def test_differences_are_the_same_from_both_sides(a: Any, b: Any) -> None:
    mirrored = {"missing": "extra", "extra": "missing"}
    for tolerance in (Tolerance(), Tolerance(0.0, 0.0, threshold=1.0)):
        one = sorted((field, kind) for field, kind in _found_with(a, b, tolerance))
        other = sorted((field, mirrored.get(kind, kind)) for field, kind in _found_with(b, a, tolerance))
        assert one == other


@given(a=JSON, b=JSON)
def test_what_is_not_equal_differs(a: Any, b: Any) -> None:
    found = _found_with(a, b, Tolerance(0.0, 0.0))
    if json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True):
        assert found == []
    elif not found:
        assert a == b  # 1 and 1.0, 0.0 and -0.0


@given(values=st.lists(JSON, max_size=6), data=st.data())
def test_shuffled_lists_are_equal_when_order_is_ignored(values: list[Any], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(values))
    assert _found(values, shuffled, ignore_order=True) == []
    assert {kind for _, kind in _found(values, shuffled)} <= {"order"}


def _found_with(a: Any, b: Any, tolerance: Tolerance) -> list[tuple[str, str]]:
    return [(one.field, one.kind) for one in differences(a, b, tolerance)[1]]
