"""One prediction for the rows of many requests, each answered as if it had come alone.

Owns grouping, splitting and falling back. Refuses formats and models: it is given functions.

Main function: ``predict_together``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from .calls import Answer, Call, failure_answer


def predict_together(
    calls: Sequence[Call],
    *,
    decode: Callable[[Call], Any],
    predict: Callable[[Any], Any],
    render: Callable[[Call, Any], Answer],
    max_rows: int,
) -> list[Answer]:
    """Predict many requests' rows at once and split the result; a request that spoils it fails alone.

    Args:
        decode: One call to a 2-D numpy array or DataFrame.
        predict: Rows to one result a row, an array.
        render: A call and its own rows' results to its answer.
        max_rows: Rows in one prediction, unless a single request has more.
    """
    answers: list[Answer | None] = [None] * len(calls)
    groups: dict[Hashable, list[tuple[int, Any]]] = {}
    for at, call in enumerate(calls):
        try:
            data = decode(call)
            groups.setdefault(_shape_key(data), []).append((at, data))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - that call's own failure
            answers[at] = failure_answer(error)
    for group in groups.values():
        part: list[tuple[int, Any]] = []
        rows = 0
        for at, data in group:
            if part and rows + len(data) > max_rows:
                _answer_part(part, calls, predict, render, answers)
                part, rows = [], 0
            part.append((at, data))
            rows += len(data)
        _answer_part(part, calls, predict, render, answers)
    return [answer for answer in answers if answer is not None]


def _answer_part(
    part: list[tuple[int, Any]],
    calls: Sequence[Call],
    predict: Callable[[Any], Any],
    render: Callable[[Call, Any], Answer],
    answers: list[Answer | None],
) -> None:
    results: list[Any] | None = None
    if len(part) > 1:
        try:
            results = _split(predict(_join([data for _, data in part])), [len(data) for _, data in part])
        except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001 - each is asked again alone
            results = None
    for position, (at, data) in enumerate(part):
        try:
            result = predict(data) if results is None else results[position]
            answers[at] = render(calls[at], result)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - that call's own failure
            answers[at] = failure_answer(error)


def _shape_key(data: Any) -> Hashable:
    """What must agree for rows to be put together: kind, columns and types."""
    if hasattr(data, "dtypes"):
        return ("frame", tuple(data.columns), tuple(map(str, data.dtypes)))
    if hasattr(data, "dtype"):
        return ("array", tuple(data.shape[1:]), str(data.dtype))
    return (type(data).__name__,)


def _join(parts: list[Any]) -> Any:
    if hasattr(parts[0], "dtypes"):
        import pandas

        return pandas.concat(parts, ignore_index=True)
    if hasattr(parts[0], "dtype"):
        import numpy as np

        return np.concatenate(parts, axis=0)
    return [row for part in parts for row in part]


def _split(results: Any, counts: list[int]) -> list[Any]:
    if len(results) != sum(counts):
        raise ValueError(f"{len(results)} results for {sum(counts)} rows")
    pieces = []
    start = 0
    for count in counts:
        pieces.append(results[start : start + count])
        start += count
    return pieces
