"""Captured requests joined with what became of them.

Owns :func:`join_labels`: records of one variant, each with its label, those that are not mature left out
and counted.  An outcome belongs to a record by its inference id, else by its event id.  A label counts only
for requests older than the declared window, whoever's label came early: else the faster-labelled variant
would look better or worse than it is.  Main function: :func:`gather_quality`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from understudy.analysis.answers import Answer
from understudy.analysis.predictions import predictions_of, row_value
from understudy.analysis.quality_report import Example, QualityTally, Question
from understudy.capture.reader import Captured, Side
from understudy.core.outcomes import LABEL, Value
from understudy.core.ports import Outcomes

BATCH = 500


@dataclass
class Exposures:
    """What became of a variant's captured requests.

    Attributes:
        total: Captured in the window that was asked for.
        mature: Older than the label window; only these are measured.
        labelled: Mature ones with a label.
        early_labels: Labels of requests that are not mature; they wait.
        unread: Labelled ones whose answer can't be read as so many predictions, or was not captured.
        repeated_ids: Requests whose inference id another one had: one label for all of them.
    """

    total: int = 0
    mature: int = 0
    labelled: int = 0
    early_labels: int = 0
    unread: int = 0
    repeated_ids: int = 0

    @property
    def maturity(self) -> float | None:
        """Share of mature requests that have their label; None without any."""
        return self.labelled / self.mature if self.mature else None

    def to_json(self) -> dict[str, Any]:
        """Render it."""
        return {**asdict(self), "label_maturity": self.maturity}


def join_labels(
    records: Iterable[Captured], outcomes: Outcomes, endpoint: str, name: str = LABEL
) -> Iterator[tuple[Captured, Value | None]]:
    """Yield each record with its outcome of that name, or None."""
    rest = iter(records)
    while batch := list(islice(rest, BATCH)):
        ids = {one.event_id for one in batch} | {one.inference_id for one in batch if one.inference_id}
        found = outcomes.find(endpoint, name, ids)
        for one in batch:
            kept = found.get(one.inference_id) if one.inference_id else None
            kept = kept or found.get(one.event_id)
            yield one, None if kept is None else kept.outcome.value


def gather_quality(
    records: Iterable[Captured],
    outcomes: Outcomes,
    endpoint: str,
    question: Question,
    mature_before_s: float,
) -> tuple[Exposures, QualityTally]:
    """Join records with their labels and read what was predicted.

    Args:
        mature_before_s: Requests from then on are too young to be judged, Unix seconds.
    """
    exposures, tally = Exposures(), QualityTally(question)
    seen: set[str] = set()
    for record, label in join_labels(records, outcomes, endpoint):
        exposures.total += 1
        if record.inference_id:
            exposures.repeated_ids += record.inference_id in seen
            seen.add(record.inference_id)
        if record.at_s >= mature_before_s:
            exposures.early_labels += label is not None
            continue
        exposures.mature += 1
        if label is None:
            continue
        exposures.labelled += 1
        examples = examples_of(record, label, question)
        if examples is None:
            exposures.unread += 1
        else:
            tally.examples += examples
    return exposures, tally


def examples_of(record: Captured, label: Value, question: Question) -> list[Example] | None:
    """Read a record's predictions; None when they do not fit its labels."""
    labels = label if isinstance(label, tuple) else (label,)
    answer = _answer(record.output)
    if answer is None:
        return None
    predictions = predictions_of(answer, len(labels), question.field)
    if predictions is None:
        return None
    request = None if question.by is None else _answer(record.input)
    return [
        Example(
            one,
            prediction,
            None if request is None or question.by is None else row_value(request, row, question.by),
        )
        for row, (one, prediction) in enumerate(zip(labels, predictions, strict=True))
    ]


def _answer(side: Side | None) -> Answer | None:
    if side is None:
        return None
    try:
        return Answer(side.body, side.content_type)
    except ValueError:  # not the base64 it claims to be
        return None
