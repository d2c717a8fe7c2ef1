"""Running totals per variant: everything it has served, for ``/metrics``.

Owns the values and how they are read back from the series, where every part of them is kept: a total
belongs to the names in it and goes on over restarts of the controller, as it does when an endpoint is
deleted and one of the same name is made.  Main function: :func:`read_totals`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.core.metrics import (
    ASSIGNED_REQUESTS,
    ENDPOINT_NAMESPACE,
    OUTCOMES,
    UNDERSTUDY_NAMESPACE,
    SeriesKey,
    Summary,
)
from understudy.core.ports import Series

_COUNTS = {
    "Invocations": "invocations",
    "Invocation4XXErrors": "errors_4xx",
    "Invocation5XXErrors": "errors_5xx",
    "InvocationModelErrors": "model_errors",
}
_LATENCIES = {"ModelLatency": "model_latency_us", "OverheadLatency": "overhead_latency_us"}

# One period that holds everything: a multiple of every resolution, so that all of them are read.
_EVER_S = 100 * 365 * 86_400


@dataclass(frozen=True)
class VariantTotals:
    """Everything one variant has served.

    Attributes:
        shadow: What became of production's requests at this shadow: count by outcome.
        capture: What became of the records of this variant's answers: count by outcome.
        assignment: What became of the records of its logged requests: count by outcome.
        assigned: Its requests by who chose it: count by source.
    """

    invocations: int = 0
    errors_4xx: int = 0
    errors_5xx: int = 0
    model_errors: int = 0
    model_latency_us: Summary = field(default_factory=Summary)
    overhead_latency_us: Summary = field(default_factory=Summary)
    shadow: Mapping[str, int] = field(default_factory=dict)
    capture: Mapping[str, int] = field(default_factory=dict)
    assignment: Mapping[str, int] = field(default_factory=dict)
    assigned: Mapping[str, int] = field(default_factory=dict)

    def plus(self, item: Mapping[str, Any]) -> VariantTotals:
        """Add an item of the control channel's ``metrics`` message."""
        return replace(
            self,
            invocations=self.invocations + int(item.get("invocations", 0)),
            errors_4xx=self.errors_4xx + int(item.get("errors_4xx", 0)),
            errors_5xx=self.errors_5xx + int(item.get("errors_5xx", 0)),
            model_errors=self.model_errors + int(item.get("model_errors", 0)),
            model_latency_us=_plus_summary(self.model_latency_us, item.get("model_latency_us")),
            overhead_latency_us=_plus_summary(self.overhead_latency_us, item.get("overhead_latency_us")),
            shadow=_plus_counts(self.shadow, item.get("shadow", {})),
            capture=_plus_counts(self.capture, item.get("capture", {})),
            assignment=_plus_counts(self.assignment, item.get("assignment", {})),
            assigned=_plus_counts(
                self.assigned, {item["source"]: item.get("invocations", 0)} if item.get("source") else {}
            ),
        )


def _plus_summary(before: Summary, rendered: Any) -> Summary:
    return before if rendered is None else before + Summary.from_json(rendered)


def _plus_counts(before: Mapping[str, int], more: Mapping[str, Any]) -> Mapping[str, int]:
    if not more:
        return before
    after = dict(before)
    for outcome, count in more.items():
        after[outcome] = after.get(outcome, 0) + int(count)
    return after


def read_totals(series: Series, endpoint_names: Collection[str]) -> dict[tuple[str, str], VariantTotals]:
    """Read what the variants of some endpoints have served, by (endpoint, variant).

    It goes back as far as the series do (455 days).
    """
    totals: dict[tuple[str, str], VariantTotals] = {}
    for key in _keys(series):
        dimensions = dict(key.dimensions)
        outcome = dimensions.pop("Outcome", None) or dimensions.pop("Source", None)
        if dimensions.keys() != {"EndpointName", "VariantName"}:
            continue
        place = (dimensions["EndpointName"], dimensions["VariantName"])
        if place[0] in endpoint_names:
            before = totals.get(place, VariantTotals())
            totals[place] = _plus_series(before, key.metric_name, outcome, _ever(series, key))
    return totals


def _keys(series: Series) -> Iterable[SeriesKey]:
    for namespace, metric_names in (
        (ENDPOINT_NAMESPACE, (*_COUNTS, *_LATENCIES)),
        (UNDERSTUDY_NAMESPACE, (*OUTCOMES, ASSIGNED_REQUESTS)),
    ):
        for key, _ in series.keys(namespace):
            if key.metric_name in metric_names:
                yield key


def _ever(series: Series, key: SeriesKey) -> Summary:
    total = Summary()
    for bucket in series.read(key, 0, 100 * _EVER_S, _EVER_S):
        total = total + bucket.summary
    return total


def _plus_series(
    totals: VariantTotals, metric_name: str, outcome: str | None, summary: Summary
) -> VariantTotals:
    change: dict[str, Any]
    if metric_name in _COUNTS:
        change = {_COUNTS[metric_name]: round(summary.sum)}
        return replace(totals, **change)
    if metric_name in _LATENCIES:
        change = {_LATENCIES[metric_name]: summary}
        return replace(totals, **change)
    if outcome is None:
        return totals
    if metric_name == ASSIGNED_REQUESTS:
        return replace(totals, assigned=_plus_counts(totals.assigned, {outcome: round(summary.sum)}))
    return totals.plus({OUTCOMES[metric_name]: {outcome: round(summary.sum)}})
