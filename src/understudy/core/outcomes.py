"""What became of a request, as it is told later: its label, or the value of some metric.

Owns :class:`Outcome`, :class:`KeptOutcome` and what two reports of the same thing mean: the first one stands,
an equal one is a duplicate, another one is a conflict.  A first report never changes, so that evidence that
has counted it stays true.  Main function: :func:`plain_value`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

LABEL = "label"
LONGEST_ID = 256
LONGEST_NAME = 255
LONGEST_TEXT = 1024
MOST_VALUES = 10_000  # of one request with many rows

Scalar = float | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class Outcome:
    """One report.

    Attributes:
        id: Event id or inference id of the request; of ``unit`` subjects the unit's (user, session).
        name: ``label``, or the name of a metric.
        value: Number or text; a tuple has one per row of the request.
        at_s: When it came true, Unix seconds.
        source: Where it stands, e.g. ``s3://bucket/key:12``; told again from there it is the same report.
            Empty: nowhere, each telling is a report.
        subject: ``id`` or ``unit``.
    """

    id: str
    name: str
    value: Value
    at_s: float
    source: str = ""
    subject: str = "id"


@dataclass(frozen=True)
class KeptOutcome:
    """The report that stands.

    Attributes:
        sequence: Rises with every outcome that is kept, over all endpoints.
        received_at_s: When it was reported, Unix seconds.
    """

    outcome: Outcome
    sequence: int
    received_at_s: float


@dataclass(frozen=True)
class Added:
    """What became of a batch of reports; the three counts add up to its length but for repeated reading.

    Attributes:
        conflicts: (id, name, value that stands, value that was reported), the first few of them.
    """

    accepted: int
    duplicates: int
    conflicting: int
    conflicts: tuple[tuple[str, str, Value, Value], ...] = ()


@dataclass(frozen=True)
class Tally:
    """How many reports of one name there are.

    Attributes:
        kept: Outcomes that stand.
        duplicates: Reports beyond the first that agreed with it.
        conflicting: Reports that did not.
        newest_at_s: Newest ``at_s`` of what stands.
    """

    name: str
    subject: str
    kept: int
    duplicates: int
    conflicting: int
    newest_at_s: float


def plain_value(value: Any) -> Value:
    """Bring a value as JSON or CSV has it to one form, so that equal ones compare equal.

    Booleans and texts of finite numbers become numbers.

    Raises:
        ValueError: it is null, no scalar or list of scalars, not finite or too long; the text says which.

    >>> plain_value("1"), plain_value(True), plain_value(" yes "), plain_value([0, "1"])
    (1.0, 1.0, 'yes', (0.0, 1.0))
    """
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError("must not be an empty list")
        if len(value) > MOST_VALUES:
            raise ValueError(f"must not have more than {MOST_VALUES} values")
        return tuple(_scalar(one) for one in value)
    return _scalar(value)


def _scalar(value: Any) -> Scalar:
    if isinstance(value, (bool, int, float)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError("must be a finite number")
        return number
    if not isinstance(value, str):
        raise ValueError("must be a number, a text, true or false, or a list of them")
    text = value.strip()
    if not text:
        raise ValueError("must not be empty")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"must not be longer than {LONGEST_TEXT} characters")
    if "_" not in text:  # float() takes 1_000
        try:
            number = float(text)
        except ValueError:
            return text
        if math.isfinite(number):
            return number
    return text
