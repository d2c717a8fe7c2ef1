"""One prediction for the rows of many requests, each answered as if it had come alone.

Owns grouping, splitting and falling back. Refuses formats and models: it is given functions.  Rows are put
together where it is known how: lists, arrays, DataFrames and tensors. Whatever else a request was decoded to
is predicted alone.

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
        decode: One call to its rows.
        predict: Rows to one result a row.
        render: A call and its own rows' results to its answer.
        max_rows: Rows in one prediction, unless a single request has more.
    """
    answers: list[Answer | None] = [None] * len(calls)
    groups: dict[Hashable, list[tuple[int, Any]]] = {}
    for at, call in enumerate(calls):
        try:
            data = decode(call)
            kind = _kind(data)
            groups.setdefault(("alone", at) if kind is None else kind, []).append((at, data))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - that call's own failure
            answers[at] = failure_answer(error)
    for group in groups.values():
        part: list[tuple[int, Any]] = []
        rows = 0
        for at, data in group:
            more = len(data) if len(group) > 1 else 0
            if part and rows + more > max_rows:
                _answer_part(part, calls, predict, render, answers)
                part, rows = [], 0
            part.append((at, data))
            rows += more
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


def _kind(data: Any) -> Hashable | None:
    """Say what must agree for rows to be put together: type, columns and their types; None: don't.

    By exact type: a subclass, such as a masked array, may hold what joining would lose.
    """
    if type(data) is list:
        return ("list",)
    name = _name_of(data)
    if name == "DataFrame":
        return (name, tuple(data.columns), tuple(data.dtypes))
    if name in ("ndarray", "Tensor") and data.ndim > 0:
        return (name, tuple(data.shape[1:]), data.dtype, str(getattr(data, "device", "")))
    return None


def _name_of(data: Any) -> str:
    """Name the type of what rows and results may come in, without importing its library."""
    kind = type(data)
    known = {"numpy": ("ndarray",), "pandas": ("DataFrame", "Series"), "torch": ("Tensor",)}
    name: str = kind.__name__
    return name if name in known.get(kind.__module__.partition(".")[0], ()) else ""


def _join(parts: list[Any]) -> Any:
    name = _name_of(parts[0])
    if name == "DataFrame":
        import pandas

        return pandas.concat(parts, ignore_index=True)
    if name == "Tensor":
        import torch

        return torch.cat(parts)
    if name == "ndarray":
        import numpy as np

        return np.concatenate(parts, axis=0)
    return [row for part in parts for row in part]


def _split(results: Any, counts: list[int]) -> list[Any]:
    """Give each request the results of its rows.

    Raises:
        ValueError: there is not one result a row.
    """
    if not _is_a_result_a_row(results, sum(counts)):
        raise ValueError(f"not one result a row, of {sum(counts)}")
    pieces = []
    start = 0
    for count in counts:
        piece = results[start : start + count]
        pieces.append(piece.reset_index(drop=True) if hasattr(piece, "reset_index") else piece)
        start += count
    return pieces


def _is_a_result_a_row(results: Any, rows: int) -> bool:
    if type(results) is list:
        return len(results) == rows
    return bool(_name_of(results)) and getattr(results, "ndim", 0) > 0 and len(results) == rows


def check_results(data: Any, results: Any, what: str) -> None:
    """Hold a function that is to give one result a row to that, also where a request is predicted alone.

    Args:
        what: The function's name, for the message.
    Raises:
        ValueError: ``data`` has rows, and there are fewer or more results.
    """
    if _kind(data) is None or (type(results) is not list and not _name_of(results)):
        return  # no rows to count, or a form of its own: the way out is the renderer's business
    if not _is_a_result_a_row(results, len(data)):
        count = len(results) if getattr(results, "ndim", 1) else 1
        raise ValueError(
            f"{what} gave {count} results for {len(data)} rows; with batch = True it gives one a row."
        )
