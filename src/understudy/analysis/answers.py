"""Answers as values that can be compared: JSON, JSON Lines, CSV, or bytes.

Owns what an answer's content type makes of its body.  A CSV row becomes ``{"column 1": ..., ...}`` so that
columns are told apart as JSON's members are.  Refuses nothing: a body that is not what its content type says
is compared as bytes.  Main function: :func:`value_of_answer`.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import msgspec

LINES_TYPES = frozenset({"application/jsonlines", "application/x-jsonlines", "application/x-ndjson"})


@dataclass(frozen=True)
class Answer:
    """One body with its content type."""

    body: bytes
    content_type: str


def value_of_answer(answer: Answer) -> Any:
    """Read an answer: JSON's types, or bytes.

    >>> value_of_answer(Answer(b"0.5,yes", "text/csv; charset=utf-8"))
    [{'column 1': 0.5, 'column 2': 'yes'}]
    """
    kind = answer.content_type.partition(";")[0].strip().lower()
    try:
        if kind == "application/json" or kind.endswith("+json"):
            return _json(answer.body)
        if kind in LINES_TYPES:
            return [_json(line) for line in answer.body.split(b"\n") if line.strip()]
        if kind == "text/csv":
            return _rows(answer.body.decode())
        if kind == "text/plain":
            return _cell(answer.body.decode().strip())
    except (ValueError, csv.Error, RecursionError):
        return answer.body
    return answer.body


def text_of_answer(answer: Answer, limit: int) -> str:
    """Show an answer to a person, its beginning when it is long."""
    text = answer.body[: 4 * limit].decode("utf-8", "backslashreplace")
    return text if len(text) <= limit and len(answer.body) <= 4 * limit else f"{text[:limit]}…"


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return json.loads(body)  # knows NaN and Infinity, which models write


def _rows(text: str) -> list[dict[str, float | str]]:
    return [
        {f"column {number}": _cell(cell) for number, cell in enumerate(row, 1)}
        for row in csv.reader(io.StringIO(text))
        if row
    ]


def _cell(text: str) -> float | str:
    if "_" in text:  # float() takes 1_000
        return text
    try:
        return float(text)
    except ValueError:
        return text
