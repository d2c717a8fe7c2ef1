"""Rows of several requests in one prediction: each as if alone, whatever they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from understudy.worker.calls import Answer, Call
from understudy.worker.together import predict_together
from understudy.worker.wire import RequestHead


def answered(
    data: list[Any], predict: Callable[[Any], Any], *, max_rows: int = 100
) -> tuple[list[Any], list[int]]:
    """Predict these requests together; returns what each is given, and the sizes of the predictions."""
    sizes: list[int] = []
    given: dict[bytes, Any] = {}

    def counted(rows: Any) -> Any:
        sizes.append(len(rows))
        return predict(rows)

    def render(call: Call, result: Any) -> Answer:
        given[call.body] = result
        return Answer(200, b"", call.body)

    calls = [Call(RequestHead(), str(at).encode()) for at in range(len(data))]
    answers = predict_together(
        calls, decode=lambda call: data[int(call.body)], predict=counted, render=render, max_rows=max_rows
    )
    assert [answer.body for answer in answers] == [call.body for call in calls]
    return [given[call.body] for call in calls], sizes


def test_arrays_and_lists_are_joined_by_kind() -> None:
    data = [np.ones((2, 3)), [1, 2], np.ones((1, 3)) * 5, [3], np.ones((1, 2)), np.ones((1, 3), dtype="f4")]
    results, sizes = answered(data, lambda rows: [row if isinstance(row, int) else row.sum() for row in rows])
    assert results == [[3.0, 3.0], [1, 2], [15.0], [3], [2.0], [3.0]]
    assert sorted(sizes) == [1, 1, 3, 3]


@pytest.mark.parametrize(
    "whole", [{"a": [1], "b": [2]}, ("row", "meta"), "ab", np.ma.masked_array([[1.0], [2.0]], [[1], [0]])]
)
def test_what_rows_can_not_be_told_of_is_predicted_alone(whole: Any) -> None:
    results, sizes = answered([whole, whole], lambda rows: rows)
    assert all(result is whole for result in results)
    assert sizes == [len(whole)] * 2


@pytest.mark.parametrize("form", [tuple, str, lambda rows: dict(enumerate(rows))])
def test_results_of_no_known_form_are_not_cut(form: Callable[[Any], Any]) -> None:
    results, sizes = answered([[1], [2]], form)
    assert results == [form([1]), form([2])]
    assert sizes == [2, 1, 1]


def test_a_request_above_the_most_rows_is_predicted_whole() -> None:
    results, sizes = answered([[1] * 7, [2], [3] * 2, [4]], lambda rows: rows, max_rows=3)
    assert results == [[1] * 7, [2], [3, 3], [4]]
    assert sizes == [7, 3, 1]
