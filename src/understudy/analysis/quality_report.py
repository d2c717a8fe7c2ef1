"""From labelled answers to a report of quality: which kind of problem it is, by slices of a feature.

Owns :class:`Question` (what is asked) and :class:`QualityTally` (takes examples, gives the report).  Refuses
to mix: all examples of a report are measured as one kind of problem.

Kinds: ``binary`` (labels 0 and 1, or a named positive one), ``classes`` (texts, or probabilities per class),
``numbers``.  ``auto`` decides from labels and answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.analysis.predictions import Prediction
from understudy.analysis.quality import Measure, measure_binary, measure_classes, measure_numbers
from understudy.core.outcomes import Scalar

KINDS = ("auto", "binary", "classes", "numbers")
MOST_SLICES = 20
_NUMBER_SLICES = 4  # a feature of many different numbers is cut into quarters
_FEW_NUMBERS = 10


@dataclass(frozen=True)
class Question:
    """What is asked of labelled answers.

    Attributes:
        kind: One of ``KINDS``.
        threshold: A binary score from it on is positive; None: 0.5, or the label that the model gave.
        positive: The positive label of two; None: 1.
        field: Where the prediction is in an answer, see ``analysis.predictions``.
        by: Feature of the request to slice by, ``column N`` or a JSON member; None: no slices.
    """

    kind: str = "auto"
    threshold: float | None = None
    positive: Scalar | None = None
    field: str | None = None
    by: str | None = None


@dataclass(frozen=True)
class Example:
    """One labelled row.

    Attributes:
        feature: Of ``Question.by``.
    """

    label: Scalar
    prediction: Prediction
    feature: Scalar | None = None


@dataclass
class QualityTally:
    """The examples of one variant."""

    question: Question
    examples: list[Example] = field(default_factory=list)

    def kind(self) -> str:
        """Tell what kind of problem the examples are; ``none`` when there are none."""
        if self.question.kind != "auto":
            return self.question.kind
        if not self.examples:
            return "none"
        if self.question.positive is not None:
            return "binary"
        labels = {example.label for example in self.examples}
        one = self.examples[0].prediction
        if any(isinstance(label, str) for label in labels) or one.probabilities is not None:
            return "classes"
        if labels <= {0.0, 1.0}:
            return "binary"
        return "numbers" if one.score is not None else "classes"

    def report(self, *, roc: bool = True) -> dict[str, Any]:
        """Measure all examples, and each slice of them.

        Args:
            roc: With the points of the ROC curve.
        """
        kind = self.kind()
        report = _measured(self.examples, kind, self.question, roc)
        if self.question.by is not None:
            report["slices"] = [
                {"slice": name, **_measured(examples, kind, self.question, False)}
                for name, examples in _slices(self.examples)
            ]
        return report


def decided(example: Example, question: Question) -> bool | None:
    """Tell whether an example was predicted positive; None when its answer does not say."""
    prediction = example.prediction
    if question.threshold is None and prediction.label is not None:
        return prediction.label == _positive(question)
    score = _score(prediction)
    if score is None:
        return None
    return score >= (0.5 if question.threshold is None else question.threshold)


def _positive(question: Question) -> Scalar:
    return 1.0 if question.positive is None else question.positive


def _score(prediction: Prediction) -> float | None:
    if prediction.score is not None:
        return prediction.score
    if prediction.probabilities is not None and len(prediction.probabilities) == 2:
        return prediction.probabilities[1]
    return None


def _measured(examples: Sequence[Example], kind: str, question: Question, roc: bool) -> dict[str, Any]:
    measure = {"binary": _binary, "classes": _classes, "numbers": _numbers, "none": _none}[kind]
    found, unread = measure(examples, question)
    if not roc:
        found.pop("roc", None)
    return {"kind": kind, "examples": len(examples) - unread, "not_measured": unread, **_plain(found)}


def _none(_: Sequence[Example], __: Question) -> tuple[dict[str, Any], int]:
    return {"metrics": {}}, 0


def _binary(examples: Sequence[Example], question: Question) -> tuple[dict[str, Any], int]:
    rows = [
        (example.label == _positive(question), _score(example.prediction), decision)
        for example in examples
        if (decision := decided(example, question)) is not None
    ]
    scores = [score for _, score, _ in rows if score is not None]
    found = measure_binary(
        [label for label, _, _ in rows],
        scores if len(scores) == len(rows) else None,
        [decision for _, _, decision in rows],
    )
    return found, len(examples) - len(rows)


def _classes(examples: Sequence[Example], _: Question) -> tuple[dict[str, Any], int]:
    rows: list[tuple[str, str, tuple[float, ...] | None]] = []
    for example in examples:
        prediction = example.prediction
        decision = prediction.label if prediction.label is not None else prediction.score
        if prediction.label is None and prediction.probabilities is not None:
            decision = float(
                max(range(len(prediction.probabilities)), key=prediction.probabilities.__getitem__)
            )
        if decision is not None:
            rows.append((class_name(example.label), class_name(decision), prediction.probabilities))
    widths = {None if one is None else len(one) for _, _, one in rows}
    classes = [str(at) for at in range(widths.pop() or 0)] if len(widths) == 1 else []
    found = measure_classes(
        [label for label, _, _ in rows],
        [decision for _, decision, _ in rows],
        [one for _, _, one in rows if one is not None] if classes else None,
        classes,
    )
    return found, len(examples) - len(rows)


def _numbers(examples: Sequence[Example], _: Question) -> tuple[dict[str, Any], int]:
    rows = [
        (example.label, example.prediction.score)
        for example in examples
        if isinstance(example.label, float) and example.prediction.score is not None
    ]
    found = measure_numbers([label for label, _ in rows], [score for _, score in rows])
    return found, len(examples) - len(rows)


def class_name(value: Scalar) -> str:
    """Write a class: 1.0 and 1 are the class ``1``."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _slices(examples: Sequence[Example]) -> list[tuple[str, list[Example]]]:
    """Cut examples by their feature: by its values where they are few, numbers into quarters otherwise."""
    known = [example for example in examples if example.feature is not None]
    numbers = sorted({one.feature for one in known if isinstance(one.feature, float)})
    cuts: list[float] = []
    if len(numbers) > _FEW_NUMBERS:
        values = sorted(one.feature for one in known if isinstance(one.feature, float))
        cuts = sorted({values[len(values) * at // _NUMBER_SLICES] for at in range(1, _NUMBER_SLICES)})
    found: dict[tuple[int, float, str], list[Example]] = {}
    for example in examples:
        found.setdefault(_slice_key(example.feature, cuts), []).append(example)
    ordered = sorted(found.items())
    if len(ordered) > MOST_SLICES:
        kept = set(sorted(found, key=lambda key: -len(found[key]))[: MOST_SLICES - 1])
        rest = [example for key, some in ordered if key not in kept for example in some]
        return [*((key[2], some) for key, some in ordered if key in kept), ("all others", rest)]
    return [(key[2], some) for key, some in ordered]


def _slice_key(feature: Scalar | None, cuts: Sequence[float]) -> tuple[int, float, str]:
    """Give a slice's place in the order and its name."""
    if feature is None:
        return 2, 0.0, "missing"
    if isinstance(feature, str):
        return 1, 0.0, feature
    if not cuts:
        return 0, feature, f"{feature:g}"
    at = sum(feature >= cut for cut in cuts)
    if at == 0:
        return 0, float(at), f"below {cuts[0]:g}"
    if at == len(cuts):
        return 0, float(at), f"{cuts[-1]:g} and above"
    return 0, float(at), f"{cuts[at - 1]:g} to below {cuts[at]:g}"


def _plain(value: Any) -> Any:
    if isinstance(value, Measure):
        return value.to_json()
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value
