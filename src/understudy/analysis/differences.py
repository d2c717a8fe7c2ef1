"""Comparing a candidate's answers with production's, as records stream.

Owns :class:`Comparison`: counts per field, the worst examples with both answers, and which differences are
above the noise.  Noise is how often production's model differs from itself: from a second answer to the same
requests (pairs), or from equal requests that it answered at different times.  A field's differences count as
above the noise when the evidence reaches ``fields / alpha`` (Bonferroni over the fields): whatever the number
of fields (and, with second answers, of looks), one is named wrongly with probability alpha at most.  Without
any measured noise every difference counts, as it should for models that answer the same each time.

Memory is bounded: by fields, by examples per field, by the length of what an example shows.
Source: Diffy (github.com/opendiffy/diffy) for the idea of subtracting noise.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from understudy.analysis.answers import Answer, text_of_answer, value_of_answer
from understudy.analysis.fields import Difference, Tolerance, differences
from understudy.analysis.shares import excess_evidence

ALPHA = 0.05
MAX_FIELDS = 500
MAX_COMBINATIONS = 2000
EXAMPLES_PER_FIELD = 3
EXAMPLE_CHARACTERS = 1000
OTHER_FIELDS = "(other fields)"


@dataclass
class FieldCount:
    """One field of the answers.

    Attributes:
        compared: Requests in which it was compared.
        differing: Requests in which it differed.
        kinds: Those by kind of the difference.
        gap_sum, gap_max: Of differing numbers.
        noise_compared, noise_differing: The same for production against itself.
        only_candidate, only_noise: Of requests with both comparisons: differed in one of them alone.
        worst: Heap of (distance, sequence, example).
    """

    compared: int = 0
    differing: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    gap_sum: float = 0.0
    gap_count: int = 0
    gap_max: float = 0.0
    noise_compared: int = 0
    noise_differing: int = 0
    only_candidate: int = 0
    only_noise: int = 0
    both_compared: int = 0
    worst: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What is shown of a request in an example."""

    event_id: str
    inference_id: str | None = None
    at_s: float | None = None
    input: Answer | None = None


class Comparison:
    """Takes answers, gives a report at any time.

    Args:
        tolerance: What counts as a difference.
        alpha: Probability of naming any field wrongly.
    """

    def __init__(self, tolerance: Tolerance | None = None, *, alpha: float = ALPHA) -> None:
        self._tolerance = Tolerance() if tolerance is None else tolerance
        self._alpha = alpha
        self._fields: dict[str, FieldCount] = {}
        self._combinations: Counter[frozenset[str]] = Counter()
        self._uncombined = 0
        self._pairs = 0
        self._noise_pairs = 0
        self._paired_noise = False
        self._only: Counter[str] = Counter()
        self._sequence = 0

    def add(self, request: Request, baseline: Answer, candidate: Answer, again: Answer | None = None) -> None:
        """Take both answers to one request.

        Args:
            again: Production's second answer to it, where there is one.
        """
        self._pairs += 1
        compared, found = self._compare(baseline, candidate)
        differing = self._count(compared, found)
        if found:
            self._show(request, baseline, candidate, found)
            if differing in self._combinations or len(self._combinations) < MAX_COMBINATIONS:
                self._combinations[differing] += 1
            else:
                self._uncombined += 1
        if again is not None:
            self._paired_noise = True
            noise_compared, noise_differing = self._add_noise(baseline, again)
            for name in compared & noise_compared:
                one = self._field(name)
                one.both_compared += 1
                one.only_candidate += name in differing and name not in noise_differing
                one.only_noise += name in noise_differing and name not in differing

    def add_noise(self, baseline: Answer, again: Answer) -> None:
        """Take two of production's answers to equal requests."""
        self._add_noise(baseline, again)

    def add_single(self, side: str) -> None:
        """Count a request that only one side has an answer to.

        Args:
            side: ``baseline`` or ``candidate``: who has it.
        """
        self._only[side] += 1

    def report(self, top: int = 10, examples: int = 5) -> dict[str, Any]:
        """Say what was found so far; JSON-able.

        Args:
            top: So many fields, most telling first.
            examples: So many worst examples, of fields above the noise.
        """
        rows = {name: self._row(name, one) for name, one in self._fields.items()}
        above = {name for name, row in rows.items() if row["differing"] and row["above_noise"] is not False}
        differing = sum(self._combinations.values()) + self._uncombined
        ordered = sorted(
            (row for row in rows.values() if row["differing"]),
            key=lambda row: (row["above_noise"] is False, -row["differing"], row["field"]),
        )
        return {
            "pairs": self._pairs,
            "differing": differing,
            "differing_above_noise": self._uncombined
            + sum(count for names, count in self._combinations.items() if names & above),
            "agreement": None if self._pairs == 0 else 1.0 - differing / self._pairs,
            "class_flips": sum(one.kinds["class"] for one in self._fields.values()),
            "only_baseline": self._only["baseline"],
            "only_candidate": self._only["candidate"],
            "noise": {
                "pairs": self._noise_pairs,
                "measured_by": None
                if self._noise_pairs == 0
                else ("second answers" if self._paired_noise else "repeated requests"),
            },
            "alpha": self._alpha,
            "tolerance": asdict(self._tolerance),
            "fields_compared": len(self._fields),
            "fields": ordered[:top],
            "examples": self._worst(above, examples),
        }

    # --- taking ---

    def _compare(self, baseline: Answer, other: Answer) -> tuple[frozenset[str], list[Difference]]:
        one = value_of_answer(baseline)
        # Where nothing can differ, which fields were compared counts.
        same = baseline.body == other.body and baseline.content_type == other.content_type
        two = one if same else value_of_answer(other)
        try:
            return differences(one, two, self._tolerance)
        except RecursionError:  # nested deeper than anybody reads
            return differences(baseline.body, other.body, self._tolerance)

    def _count(self, compared: Iterable[str], found: list[Difference]) -> frozenset[str]:
        """Count one comparison; return the fields that differ."""
        kinds: dict[str, set[str]] = {}
        for one in found:
            kinds.setdefault(self._name(one.field), set()).add(one.kind)
            count = self._field(one.field)
            if one.gap is not None and math.isfinite(one.gap):
                count.gap_sum += one.gap
                count.gap_count += 1
                count.gap_max = max(count.gap_max, one.gap)
        for name in {self._name(one) for one in compared}:
            self._fields[name].compared += 1
        for name, some in kinds.items():
            self._fields[name].differing += 1
            self._fields[name].kinds.update(some)
        return frozenset(kinds)

    def _add_noise(self, baseline: Answer, again: Answer) -> tuple[frozenset[str], frozenset[str]]:
        self._noise_pairs += 1
        compared, found = self._compare(baseline, again)
        names = frozenset(self._name(one) for one in compared)
        differing = frozenset(self._name(one.field) for one in found)
        for name in names:
            self._fields[name].noise_compared += 1
        for name in differing:
            self._fields[name].noise_differing += 1
        return names, differing

    def _name(self, name: str) -> str:
        """Return the name under which a field is counted."""
        if name in self._fields:
            return name
        if len(self._fields) >= MAX_FIELDS:
            name = OTHER_FIELDS
        self._fields.setdefault(name, FieldCount())
        return name

    def _field(self, name: str) -> FieldCount:
        return self._fields[self._name(name)]

    def _show(self, request: Request, baseline: Answer, candidate: Answer, found: list[Difference]) -> None:
        """Keep the request as an example of the fields in which it is among the worst."""
        example: dict[str, Any] | None = None
        worst: dict[str, Difference] = {}
        for one in found:
            name = self._name(one.field)
            if name not in worst or one.distance > worst[name].distance:
                worst[name] = one
        for name, one in worst.items():
            heap = self._fields[name].worst
            if len(heap) >= EXAMPLES_PER_FIELD and heap[0][0] >= one.distance:
                continue
            if example is None:
                example = _example(request, baseline, candidate)
            self._sequence += 1
            entry = (one.distance, -self._sequence, {**example, **_shown(one)})
            if len(heap) < EXAMPLES_PER_FIELD:
                heapq.heappush(heap, entry)
            else:
                heapq.heapreplace(heap, entry)

    # --- telling ---

    def _row(self, name: str, one: FieldCount) -> dict[str, Any]:
        log_evidence = self._log_evidence(one)
        needed = math.log(max(1, len(self._fields)) / self._alpha)
        return {
            "field": name,
            "compared": one.compared,
            "differing": one.differing,
            "rate": one.differing / one.compared if one.compared else 0.0,
            "kinds": dict(one.kinds.most_common()),
            "mean_gap": one.gap_sum / one.gap_count if one.gap_count else None,
            "max_gap": one.gap_max if one.gap_count else None,
            "noise_rate": one.noise_differing / one.noise_compared if one.noise_compared else None,
            "log_evidence": log_evidence,
            "above_noise": None if log_evidence is None else log_evidence >= needed,
        }

    def _log_evidence(self, one: FieldCount) -> float | None:
        """Weigh a field's differences against its noise; None when its noise was never measured."""
        if one.both_compared:
            return excess_evidence(one.only_candidate, one.only_noise)
        if not one.noise_compared or not one.compared:
            return None
        share = one.compared / (one.compared + one.noise_compared)
        return excess_evidence(one.differing, one.noise_differing, share)

    def _worst(self, above: set[str], limit: int) -> list[dict[str, Any]]:
        entries = [entry for name in above for entry in self._fields[name].worst]
        entries.sort(key=lambda entry: (-entry[0], -entry[1]))
        chosen: dict[str, dict[str, Any]] = {}
        for _, _, example in entries:
            if len(chosen) < limit:
                chosen.setdefault(example["event_id"], example)
        return list(chosen.values())


def _example(request: Request, baseline: Answer, candidate: Answer) -> dict[str, Any]:
    return {
        "event_id": request.event_id,
        "inference_id": request.inference_id,
        "at_s": request.at_s,
        "input": None if request.input is None else text_of_answer(request.input, EXAMPLE_CHARACTERS),
        "baseline_answer": text_of_answer(baseline, EXAMPLE_CHARACTERS),
        "candidate_answer": text_of_answer(candidate, EXAMPLE_CHARACTERS),
    }


def _shown(one: Difference) -> dict[str, Any]:
    return {
        "field": one.field,
        "kind": one.kind,
        "baseline": _plain(one.baseline),
        "candidate": _plain(one.candidate),
        "distance": one.distance,
    }


def _plain(value: Any) -> Any:
    """Return a JSON-able, short form of a value."""
    if isinstance(value, bool | int | float) or value is None:
        return value if not isinstance(value, float) or math.isfinite(value) else str(value)
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        text = "(nested too deeply to show)"
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS]}…"
