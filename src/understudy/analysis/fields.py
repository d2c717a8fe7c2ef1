"""How two answers differ, field by field.

Owns :func:`differences`: the walk through two values of JSON's types.  A field is where a value stands, with
all elements of a list taken together: ``$.predictions[*].score``.  Main classes: :class:`Tolerance`,
:class:`Difference`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """What counts as a difference.

    Attributes:
        absolute, relative: Numbers are equal within ``max(absolute, relative * the larger one)``.
        threshold: Where a score decides: numbers on different sides of it (``>=``) are a class flip, however
            close they are.  None: nothing is decided by scores.
        threshold_field: Pattern (``*``, ``?``) of the fields that ``threshold`` is about.
        ignore_order: Lists are compared as if sorted.
        ignored_fields: Patterns of fields that are not compared.
    """

    absolute: float = 1e-9
    relative: float = 1e-6
    threshold: float | None = None
    threshold_field: str = "*"
    ignore_order: bool = False
    ignored_fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        kind: ``value``, ``class`` (flip), ``type``, ``missing`` (the candidate lacks it), ``extra``,
            ``length`` (of a list) or ``order`` (of a list with equal elements).
        distance: For ranking: below 1 for numbers (relative), 1 for texts, 2 and more for flips, 3 for
            structure.
        gap: Absolute difference of two numbers, else None.
    """

    field: str
    kind: str
    baseline: Any
    candidate: Any
    distance: float
    gap: float | None = None


def differences(
    baseline: Any, candidate: Any, tolerance: Tolerance
) -> tuple[frozenset[str], list[Difference]]:
    """Compare two values.

    Returns:
        The fields compared, and the differences in them.

    >>> differences({"a": [1, 2.0]}, {"a": [1, 2.5]}, Tolerance())[1][0]
    Difference(field='$.a[*]', kind='value', baseline=2.0, candidate=2.5, distance=0.2, gap=0.5)
    """
    walk = _Walk(tolerance)
    walk.compare("$", baseline, candidate)
    return frozenset(walk.compared), walk.found


class _Walk:
    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.compared: set[str] = set()
        self.found: list[Difference] = []

    def compare(self, field: str, a: Any, b: Any) -> None:
        if self._is_ignored(field):
            return
        if isinstance(a, dict) and isinstance(b, dict):
            self._compare_members(field, a, b)
        elif isinstance(a, list) and isinstance(b, list):
            self._compare_lists(field, a, b)
        else:
            self._compare_values(field, a, b)

    def _is_ignored(self, field: str) -> bool:
        return any(fnmatchcase(field, pattern) for pattern in map(_literal, self._tolerance.ignored_fields))

    def _compare_members(self, field: str, a: dict[str, Any], b: dict[str, Any]) -> None:
        for key in (*a, *(key for key in b if key not in a)):
            inner = f"{field}.{key}"
            if key in a and key in b:
                self.compare(inner, a[key], b[key])
            elif not self._is_ignored(inner):
                kind = "missing" if key in a else "extra"
                self._differ(Difference(inner, kind, a.get(key), b.get(key), 3.0))
        if not a and not b:
            self.compared.add(field)

    def _compare_lists(self, field: str, a: list[Any], b: list[Any]) -> None:
        if len(a) != len(b):
            self._differ(Difference(field, "length", len(a), len(b), 3.0))
        elif not a:
            self.compared.add(field)
        if self._tolerance.ignore_order:
            a, b = sorted(a, key=_rank), sorted(b, key=_rank)
        before = len(self.found)
        for one, other in zip(a, b, strict=False):
            self.compare(f"{field}[*]", one, other)
        if len(self.found) > before and len(a) == len(b) and _multiset(a) == _multiset(b):
            del self.found[before:]
            self._differ(Difference(field, "order", a, b, 0.5))

    def _compare_values(self, field: str, a: Any, b: Any) -> None:
        self.compared.add(field)
        if _is_number(a) and _is_number(b):
            self._compare_numbers(field, a, b)
        elif type(a) is not type(b):
            self._differ(Difference(field, "type", a, b, 3.0))
        elif a != b:
            self._differ(Difference(field, "value", a, b, 1.0))

    def _compare_numbers(self, field: str, a: float, b: float) -> None:
        tolerance = self._tolerance
        if a == b or (a != a and b != b):
            return
        gap, size = _gap_and_size(a, b)
        relative = gap / size if size > 0.0 and math.isfinite(gap) else 1.0
        threshold = tolerance.threshold
        if (
            threshold is not None
            and (a >= threshold) != (b >= threshold)
            and fnmatchcase(field, _literal(tolerance.threshold_field))
        ):
            self._differ(Difference(field, "class", a, b, 2.0 + min(1.0, relative), gap))
        # Not "gap > bound": what is compared with NaN differs.
        elif not (math.isfinite(gap) and gap <= max(tolerance.absolute, tolerance.relative * size)):
            self._differ(Difference(field, "value", a, b, min(1.0, relative), gap))

    def _differ(self, difference: Difference) -> None:
        self.compared.add(difference.field)
        self.found.append(difference)


def _literal(pattern: str) -> str:
    """Let ``[*]`` in a pattern mean itself."""
    return pattern.replace("[", "[[]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _gap_and_size(a: float, b: float) -> tuple[float, float]:
    try:
        return float(abs(a - b)), float(max(abs(a), abs(b)))
    except OverflowError:  # integers beyond all floats
        return math.inf, math.inf


def _rank(value: Any) -> tuple[int, float, str]:
    if _is_number(value) and value == value:
        try:
            return (0, float(value), "")
        except OverflowError:
            return (1, 0.0, str(value))
    return (2, 0.0, _canonical(value))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _multiset(values: Iterable[Any]) -> Counter[str]:
    return Counter(map(_canonical, values))
