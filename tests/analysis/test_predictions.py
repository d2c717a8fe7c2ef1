"""What answers of known models predict."""

from __future__ import annotations

import pytest

from understudy.analysis.answers import Answer
from understudy.analysis.predictions import Prediction, predictions_of, row_value

JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "kind", "rows", "expected"),
    [
        (b"0.5217539072036743", "text/csv; charset=utf-8", 1, [Prediction(0.5217539072036743)]),
        (b"0.1,0.2,0.7", "text/csv", 3, [Prediction(0.1), Prediction(0.2), Prediction(0.7)]),
        (b"0.1,0.2,0.7", "text/csv", 1, [Prediction(probabilities=(0.1, 0.2, 0.7))]),
        (b"0.1\n0.2\n", "text/csv", 2, [Prediction(0.1), Prediction(0.2)]),
        (b"yes\n", "text/csv", 1, [Prediction(label="yes")]),
        (b"[0.25]", JSON, 1, [Prediction(0.25)]),
        (b"[[0.25], [0.5]]", JSON, 2, [Prediction(0.25), Prediction(0.5)]),
        (b"[0.2, 0.8]", JSON, 1, [Prediction(probabilities=(0.2, 0.8))]),
        (b"[true, false]", JSON, 2, [Prediction(label=1.0), Prediction(label=0.0)]),
        (
            b'{"predictions": [{"score": 0.9, "predicted_label": 1}]}',
            JSON,
            1,
            [Prediction(score=0.9, label=1.0)],
        ),
        (
            b'{"predicted_label": 2, "score": [0.1, 0.2, 0.7]}\n',
            "application/jsonlines",
            1,
            [Prediction(label=2.0, probabilities=(0.1, 0.2, 0.7))],
        ),
        (b"3.5", "text/plain", 1, [Prediction(3.5)]),
        (b"\x93NUMPY", "application/x-npy", 1, None),
        (b"0.1,0.2", "text/csv", 3, None),
        (b'{"error": null}', JSON, 1, None),
        (b"[]", JSON, 1, None),
        (b"", "text/csv", 1, None),
    ],
)
def test_usual_answers(body: bytes, kind: str, rows: int, expected: list[Prediction] | None) -> None:
    assert predictions_of(Answer(body, kind), rows) == expected


def test_a_field_can_be_named() -> None:
    assert predictions_of(Answer(b"7,0.3", "text/csv"), 1, "column 2") == [Prediction(0.3)]
    assert predictions_of(Answer(b'{"p": {"a": 1}, "x": 0.5}', JSON), 1, "x") == [Prediction(0.5)]
    assert predictions_of(Answer(b'{"y": 0.5}', JSON), 1, "x") is None


@pytest.mark.parametrize(
    ("body", "kind", "row", "field", "expected"),
    [
        (b"61,0,blue", "text/csv", 0, "column 1", 61.0),
        (b"61,0,blue\n7,8,red", "text/csv", 1, "column 3", "red"),
        (b'{"instances": [{"features": [1, 2.5]}]}', JSON, 0, "column 2", 2.5),
        (b'{"age": 61, "vip": true}', JSON, 0, "vip", "true"),
        (b"[1, 2]", JSON, 0, "column 2", 2.0),
        (b"61,0", "text/csv", 0, "column 9", None),
        (b"61,0", "text/csv", 4, "column 1", None),
        (b"\x00\x01", "application/x-npy", 0, "column 1", None),
    ],
)
def test_features(body: bytes, kind: str, row: int, field: str, expected: float | str | None) -> None:
    assert row_value(Answer(body, kind), row, field) == expected
