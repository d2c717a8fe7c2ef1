"""XGBoost models: rows of every waiting request into one prediction, answers as AWS's container words them.

Owns decoding, batching and rendering for boosters. Refuses files (``xgboost_files``) and C calls
(``xgboost_native``).

Main class: ``XGBoostHandler``.

Answer forms: one row is ``repr`` of its float32 as a float; several rows are comma-joined on one line for
images 0.90 to 1.2 and newline-joined from 1.3 on; with ``SAGEMAKER_BATCH`` newline-joined with a trailing
newline. JSON: ``{"predictions": [{"score": ...}]}``.

Differs from AWS: an empty body is 400 (AWS: 204, an empty success); bad data is 400 in all versions (0.90's
container says 415); JSON and .npy requests are understood, recordio-protobuf is not.
"""

from __future__ import annotations

import array
import functools
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from .calls import Answer, Call, Refusal, failure_answer, warm_up
from .clean_rows import RowPacker
from .codecs import CSV, JSON, JSON_LINES, Table, decode_table, parse_media_type
from .rendering import choose_accept, head_of, render_npy
from .wire import RequestHead
from .xgboost_native import NativeError, Predictor


def image_version(image: str, library_version: str) -> tuple[int, int]:
    """Read the XGBoost version that an image promises, else the library's own.

    >>> image_version("123.dkr.ecr.us-west-2.amazonaws.com/sagemaker-xgboost:0.90-1-cpu-py3", "3.2.0")
    (0, 90)
    >>> image_version("my-models:latest", "1.7.6")
    (1, 7)
    """
    tag = image.rpartition(":")[2] if "xgboost" in image.lower() else ""
    found = re.match(r"(\d+)\.(\d+)", tag) or re.match(r"(\d+)\.(\d+)", library_version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class XGBoostHandler:
    """A loaded booster."""

    kind = "xgboost"
    batch = True
    inline = True
    threads = 1

    def __init__(
        self,
        predictor: Predictor,
        *,
        note: str,
        joined_by_comma: bool,
        for_batch_transform: bool,
        max_batch_rows: int,
    ) -> None:
        """Take a proven predictor; the rest decides the form of answers and the size of batches."""
        self._predictor = predictor
        self.note = f"{note}, {predictor.mode}"
        self._separator = "," if joined_by_comma and not for_batch_transform else "\n"
        self._outputs_as_lists = joined_by_comma
        self._end = "\n" if for_batch_transform else ""
        self._max_rows = max_batch_rows
        self._csv_head = head_of(CSV)
        self._clean = None if predictor.columns is None else RowPacker(predictor.columns, max_batch_rows)

    def answer(self, calls: Sequence[Call]) -> list[Answer]:
        """Answer all calls with as few predictions as ``max_batch_rows`` allows."""
        most = self._max_rows
        if len(calls) <= most:
            return self._answer(calls)
        parts = (calls[start : start + most] for start in range(0, len(calls), most))
        return [answer for part in parts for answer in self._answer(part)]

    def _answer(self, calls: Sequence[Call]) -> list[Answer]:
        quick = self._answer_clean_rows(calls)
        if quick is not None:
            return quick
        answers: list[Answer | None] = [None] * len(calls)
        waiting: dict[int, list[tuple[int, Table, str]]] = {}
        for at, call in enumerate(calls):
            try:
                media = choose_accept(call.head.accept, CSV)
                table = self._decode(call)
            except Exception as error:  # noqa: BLE001 - any one body's trouble is that one's answer
                answers[at] = failure_answer(error)
                continue
            waiting.setdefault(table.columns, []).append((at, table, media))
        for columns, group in waiting.items():
            for part in self._parts(group):
                self._predict_part(columns, part, answers)
        return [answer for answer in answers if answer is not None]

    def warm_up(self) -> None:
        """Predict once before anybody asks."""
        warm_up(lambda call: self.answer([call])[0], self._predictor.columns)

    def _answer_clean_rows(self, calls: Sequence[Call]) -> list[Answer] | None:
        """The shortest way for the commonest requests: one clean CSV row each, answered in CSV.

        Returns:
            None when any request is anything else, or any trouble shows: the long way then says which.
        """
        clean, known = self._clean, None
        if clean is None:
            return None
        bodies = []
        for head, body in calls:
            if head is not known:  # heads come out of a cache: most are the same object
                if not _is_csv_to_csv(head):
                    return None
                known = head
            bodies.append(body)
        if not clean.pack(bodies):
            return None
        try:
            result = self._predictor.predict(clean.values, len(bodies), clean.columns)
        except NativeError:
            return None
        if len(result) != len(bodies):
            return None
        answer_head, end = self._csv_head, self._end
        return [Answer(200, answer_head, (repr(score) + end).encode()) for score in result]

    def _decode(self, call: Call) -> Table:
        head = call.head
        table = decode_table(head.content_type, call.body, typecode="f", columns=self._predictor.columns)
        self._check_width(table, head)
        if not math.isfinite(sum(table.values)) and self._predictor.refuses_infinity:
            for at, value in enumerate(table.values):
                if math.isinf(value):
                    row, column = divmod(at, table.columns)
                    raise Refusal(
                        400, f"Row {row + 1}, column {column + 1}: the value is infinite in float32."
                    )
        return table

    def _check_width(self, table: Table, head: RequestHead) -> None:
        """Refuse what the container refuses: rows neither as wide as the model nor one column less."""
        columns = self._predictor.columns
        if columns is None or table.columns == columns or table.columns == columns - 1:
            return
        media = parse_media_type(head.content_type or CSV)[0]
        raise _evaluation_failure(
            f"Feature size of {media.rpartition('/')[2]} inference data {table.columns} is not consistent "
            f"with feature size of trained model {columns}."
        )

    def _parts(self, group: list[tuple[int, Table, str]]) -> list[list[tuple[int, Table, str]]]:
        parts: list[list[tuple[int, Table, str]]] = []
        rows = 0
        for entry in group:
            if not parts or rows + entry[1].rows > self._max_rows:
                parts.append([])
                rows = 0
            parts[-1].append(entry)
            rows += entry[1].rows
        return parts

    def _predict_part(
        self, columns: int, part: list[tuple[int, Table, str]], answers: list[Answer | None]
    ) -> None:
        if len(part) == 1:
            values, rows = part[0][1].values, part[0][1].rows
        else:
            values, rows = array.array("f"), 0
            for _, table, _ in part:
                values += table.values
                rows += table.rows
        try:
            result = self._predictor.predict(values, rows, columns)
            outputs, rest = divmod(len(result), rows)
            if rest or not outputs:
                raise NativeError(f"{len(result)} predictions for {rows} rows")
        except NativeError as error:
            if len(part) == 1:
                answers[part[0][0]] = _evaluation_failure(error).as_answer()
                return
            for entry in part:  # one of them spoils the rest: each alone
                self._predict_part(columns, [entry], answers)
            return
        start = 0
        for at, table, media in part:
            end = start + table.rows * outputs
            try:
                body = self._render(result[start:end], table.rows, media)
                answers[at] = Answer(200, self._csv_head if media == CSV else head_of(media), body)
            except Refusal as error:
                answers[at] = error.as_answer()
            start = end

    def _render(self, result: list[float], rows: int, media: str) -> bytes:
        outputs = len(result) // rows
        scores: list[Any] = result
        if outputs > 1:
            scores = [result[at : at + outputs] for at in range(0, len(result), outputs)]
        if media == CSV:
            if outputs > 1 and not self._outputs_as_lists:
                lines = [",".join(map(repr, row)) for row in scores]
            else:
                lines = list(map(repr, scores))  # a list prints as [0.1, 0.2], as the old containers do
            return (self._separator.join(lines) + self._end).encode()
        if media == JSON:
            return json.dumps({"predictions": [{"score": score} for score in scores]}).encode()
        if media == JSON_LINES:
            return "".join(json.dumps({"score": score}) + "\n" for score in scores).encode()
        import numpy as np

        return render_npy(np.asarray(scores, dtype=np.float32))

    def close(self) -> None:
        """Nothing to let go of."""


@functools.lru_cache(maxsize=512)
def _is_csv(head: RequestHead) -> bool:
    media, parameters = parse_media_type(head.content_type or CSV)
    return media == CSV and "label_size" not in dict(parameters)


@functools.lru_cache(maxsize=512)
def _is_csv_to_csv(head: RequestHead) -> bool:
    try:
        return _is_csv(head) and choose_accept(head.accept, CSV) == CSV
    except Refusal:
        return False


def _evaluation_failure(error: object) -> Refusal:
    return Refusal(400, f"Unable to evaluate payload provided: {error}")
