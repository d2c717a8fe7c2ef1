"""What an answer predicts: scores, labels or probabilities of classes, one per row of the request.

Owns how answers of known models are read (a number, CSV, JSON lists, ``{"predictions": [{"score": ...}]}``).
Refuses to guess: an answer that does not fit its labels gives None.  Main function: :func:`predictions_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from understudy.analysis.answers import Answer, value_of_answer

_ROWS = ("predictions", "outputs", "instances", "results", "data")
_SCORES = ("score", "probability", "prediction", "value", "output")
_CLASSES = ("probabilities", "scores")
_LABELS = ("predicted_label", "label", "class")


@dataclass(frozen=True)
class Prediction:
    """One row's.

    Attributes:
        score: A number: a probability, a margin, a regression's value.
        label: What the model itself decided.
        probabilities: Of classes 0, 1, 2, ...
    """

    score: float | None = None
    label: float | str | None = None
    probabilities: tuple[float, ...] | None = None


def predictions_of(answer: Answer, rows: int, field: str | None = None) -> list[Prediction] | None:
    """Read an answer.

    Args:
        rows: How many labels the request has.
        field: Member of a row, or ``column N`` of CSV, that holds the prediction; None: the usual ones.

    Returns:
        One prediction per row; None when the answer can't be read as so many.

    >>> predictions_of(Answer(b"0.52", "text/csv; charset=utf-8"), 1)
    [Prediction(score=0.52, label=None, probabilities=None)]
    >>> [one.score for one in predictions_of(Answer(b"0.1,0.9", "text/csv"), 2)]
    [0.1, 0.9]
    """
    value = value_of_answer(answer)
    if isinstance(value, bytes):
        return None
    found = _rows(value, rows, field)
    if found is None:
        return None
    read = [_prediction(one, field) for one in found]
    whole = [one for one in read if one is not None]
    return whole if len(whole) == rows else None


def row_value(answer: Answer, row: int, field: str) -> float | str | None:
    """Read one feature of one row of a request; None where it has none.

    Args:
        field: ``column N`` (from 1) of CSV or of a JSON list, or the name of a JSON member.

    >>> row_value(Answer(b"61,0,blue", "text/csv"), 0, "column 3")
    'blue'
    """
    value = value_of_answer(answer)
    if isinstance(value, dict):
        for name in _ROWS:
            if isinstance(value.get(name), list):
                value = value[name]
                break
        else:
            value = [value]
    if not isinstance(value, list):
        return None
    if value and not isinstance(value[0], (list, dict)):
        value = [value]
    if row >= len(value):
        return None
    one = value[row]
    if isinstance(one, dict) and isinstance(one.get("features"), (list, dict)):
        one = one["features"]
    if isinstance(one, list):
        number = field.removeprefix("column ")
        if not number.isdigit() or not 1 <= int(number) <= len(one):
            return None
        one = one[int(number) - 1]
    elif isinstance(one, dict):
        one = one.get(field)
    if isinstance(one, bool):
        return str(one).lower()
    if isinstance(one, (int, float)):
        return float(one)
    return one if isinstance(one, str) else None


def _rows(value: Any, rows: int, field: str | None) -> list[Any] | None:
    """Split an answer into as many rows."""
    if isinstance(value, dict):
        for name in _ROWS:
            if isinstance(value.get(name), list):
                return _rows(value[name], rows, field)
        return [value] if rows == 1 else None
    if not isinstance(value, list):
        return [value] if rows == 1 else None
    if len(value) == 1 and _is_csv_row(value[0]) and field is None:
        # Several rows of CSV may be answered as one line, and one row's probabilities as well.
        cells = list(value[0].values())
        return cells if len(cells) == rows else [cells] if rows == 1 else None
    if len(value) == rows:
        return value
    return [value] if rows == 1 and not any(isinstance(one, (list, dict)) for one in value) else None


def _is_csv_row(value: Any) -> bool:
    return isinstance(value, dict) and "column 1" in value


def _prediction(value: Any, field: str | None) -> Prediction | None:
    if field is not None and isinstance(value, dict):
        value = value.get(field)
    elif _is_csv_row(value):
        value = list(value.values())
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return Prediction(label=float(value))
    if isinstance(value, (int, float)):
        return Prediction(score=float(value))
    if isinstance(value, str):
        return Prediction(label=value)
    if isinstance(value, list):
        probabilities = _numbers(value)
        return None if probabilities is None else Prediction(probabilities=probabilities)
    return _of_members(value) if isinstance(value, dict) else None


def _of_members(value: dict[str, Any]) -> Prediction | None:
    """Read ``{"score": 0.9, "predicted_label": 1}`` and its like."""
    score = next((value[name] for name in _SCORES if _is_number(value.get(name))), None)
    label = next((value[name] for name in _LABELS if isinstance(value.get(name), (int, float, str))), None)
    classes = next((value[name] for name in (*_CLASSES, *_SCORES) if isinstance(value.get(name), list)), None)
    probabilities = None if classes is None else _numbers(classes)
    if score is None and label is None and probabilities is None:
        return None
    return Prediction(
        None if score is None else float(score),
        label if isinstance(label, str) or label is None else float(label),
        probabilities,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(values: list[Any]) -> tuple[float, ...] | None:
    return tuple(map(float, values)) if values and all(map(_is_number, values)) else None
