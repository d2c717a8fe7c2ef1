"""Mergeable evidence about numbers: counts, sums and log-bucket sketches.

Owns the value that routers send, series stores keep and CloudWatch operations read.
Refuses approximate sums: count, sum, minimum and maximum are exact; only percentiles
come from the sketch, within ``RELATIVE_ERROR``.

Main functions: :meth:`Summary.of` and ``+`` make evidence, ``core.statistics.statistic`` reads it,
:func:`router_data` and :func:`instance_data` name it as CloudWatch does.

Source: DDSketch (Masson, Rim, Lee, VLDB 2019), logarithmic mapping.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

RELATIVE_ERROR = 0.01  # the sketch's promise: a quantile is within 1 % of a true sample value
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LOG_GAMMA = math.log(GAMMA)

# Buckets of the three kinds of value share one integer space: positive values take the
# logarithmic index, negative ones mirror it below, zero has its own.
ZERO_BUCKET = 0
_SHIFT = 1 << 20
_LOG_MIDDLE = math.log((GAMMA + 1) / 2)

ENDPOINT_NAMESPACE = "AWS/SageMaker"
INSTANCE_NAMESPACE = "/aws/sagemaker/Endpoints"
# What AWS does not measure: dimensions EndpointName, VariantName, Outcome.
UNDERSTUDY_NAMESPACE = "Understudy"
SHADOW_REQUESTS = "ShadowRequests"
CAPTURE_RECORDS = "CaptureRecords"
ASSIGNMENT_RECORDS = "AssignmentRecords"
# Dimensions EndpointName, VariantName, Source.
ASSIGNED_REQUESTS = "AssignedRequests"

# What became of a production request at one shadow: exactly one of these.
SHADOW_OUTCOMES = ("mirrored", "sampling", "queue", "breaker", "size", "shutdown")
# What became of the record of an answer: exactly one of these.
CAPTURED = "captured"
CAPTURE_OUTCOMES = (CAPTURED, "sampling", "queue", "disk", "shutdown")
# What became of the record of a logged request's assignment: exactly one of these.
LOGGED = "logged"
ASSIGNMENT_OUTCOMES = (LOGGED, "queue", "disk", "shutdown")
# Who chose the variant of a request (``core.stages.Source``).
ASSIGNED_SOURCES = ("weight", "unit", "target")


# By metric: the member of a router's item that has its counts by outcome.
OUTCOMES = {SHADOW_REQUESTS: "shadow", CAPTURE_RECORDS: "capture", ASSIGNMENT_RECORDS: "assignment"}


def bucket_of(value: float) -> int:
    """Name the log bucket of one value.

    Args:
        value: Any finite number.

    >>> bucket_of(0.0), bucket_of(1.0) - bucket_of(0.97), bucket_of(-1.0) == -bucket_of(1.0)
    (0, 1, True)
    """
    if value > 0.0:
        return math.ceil(math.log(value) / LOG_GAMMA) + _SHIFT
    if value < 0.0:
        return -(math.ceil(math.log(-value) / LOG_GAMMA) + _SHIFT)
    return ZERO_BUCKET


def value_of(bucket: int) -> float:
    """Return the value that stands for a bucket: within ``RELATIVE_ERROR`` of every member."""
    if bucket == ZERO_BUCKET:
        return 0.0
    # The middle is taken inside the exponent: the bucket of the largest float must not overflow.
    magnitude = math.exp((abs(bucket) - _SHIFT) * LOG_GAMMA - _LOG_MIDDLE)
    return magnitude if bucket > 0 else -magnitude


class RankedBuckets(Mapping[int, float]):
    """Buckets that know their order by themselves, faster than sorting them."""

    @abstractmethod
    def ranks(self) -> tuple[Sequence[int], list[float]]:
        """As :attr:`Summary.ranks`."""


@dataclass(frozen=True)
class Summary:
    """What is known of a set of numbers; add two to merge them.

    Attributes:
        count: Number of samples, may be fractional (PutMetricData's Counts are floats).
        sum: Exact sum.
        minimum: Smallest sample; ``inf`` when empty.
        maximum: Largest sample; ``-inf`` when empty.
        buckets: Samples per log bucket (:func:`bucket_of`); empty when only a
            StatisticSet is known, and then percentiles are not.
    """

    count: float = 0.0
    sum: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    buckets: Mapping[int, float] = field(default_factory=dict)

    def __add__(self, other: Summary) -> Summary:
        return Summary.total((self, other))

    @classmethod
    def total(cls, parts: Iterable[Summary]) -> Summary:
        """Merge any number of them."""
        count = total = 0.0
        low, high = math.inf, -math.inf
        buckets: dict[int, float] = {}
        for one in parts:
            count, total = count + one.count, total + one.sum
            low, high = min(low, one.minimum), max(high, one.maximum)
            for bucket, held in one.buckets.items():
                buckets[bucket] = buckets.get(bucket, 0.0) + held
        return cls(count, total, low, high, buckets)

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Summarise plain values.

        >>> Summary.of([2.0, 0.0]).sum
        2.0
        """
        count = total = 0.0
        low, high = math.inf, -math.inf
        buckets: dict[int, float] = {}
        for value in values:
            count += 1.0
            total += value
            low, high = min(low, value), max(high, value)
            bucket = bucket_of(value)
            buckets[bucket] = buckets.get(bucket, 0.0) + 1.0
        return cls(count, total, low, high, buckets)

    @classmethod
    def repeated(cls, value: float, times: float) -> Summary:
        """Summarise one value that occurred ``times`` times; nothing when ``times`` is 0."""
        if times == 0.0:
            return cls()
        return cls(times, value * times, value, value, {bucket_of(value): times})

    @cached_property
    def ranks(self) -> tuple[Sequence[int], list[float]]:
        """The buckets in rising order, and how many samples are in each or below it; kept once asked for."""
        if isinstance(self.buckets, RankedBuckets):
            return self.buckets.ranks()
        ordered = sorted(pair for pair in self.buckets.items() if pair[1] > 0.0)
        return [bucket for bucket, _ in ordered], list(accumulate(count for _, count in ordered))

    @property
    def sketched(self) -> bool:
        """Whether the buckets hold every sample, so that percentiles are known."""
        _, below = self.ranks
        return self.count > 0.0 and math.isclose(below[-1] if below else 0.0, self.count, rel_tol=1e-9)

    def to_json(self) -> list[Any]:
        """Render as ``[count, sum, minimum, maximum, {"bucket": count}]``, the control channel's form.

        >>> Summary.from_json(Summary.of([0.0]).to_json()) == Summary.of([0.0])
        True
        """
        low, high = (self.minimum, self.maximum) if self.count else (0.0, 0.0)
        buckets = {str(bucket): count for bucket, count in sorted(self.buckets.items())}
        return [self.count, self.sum, low, high, buckets]

    @classmethod
    def from_json(cls, value: Any) -> Summary:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: not of that form, or a number that is not finite.
        """
        if not isinstance(value, list | tuple) or len(value) != 5 or not isinstance(value[4], Mapping):
            raise ValueError("a summary is [count, sum, minimum, maximum, {bucket: count}]")
        count, total, low, high = (_finite(number) for number in value[:4])
        buckets = {int(bucket): _finite(held) for bucket, held in value[4].items()}
        if count < 0.0 or any(held < 0.0 for held in buckets.values()):
            raise ValueError("a summary's counts are not negative")
        return cls(count, total, low, high, buckets) if count else cls()


@dataclass(frozen=True, order=True)
class SeriesKey:
    """Identity of one CloudWatch metric: namespace, name, dimensions sorted by name."""

    namespace: str
    metric_name: str
    dimensions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Datum:
    """One summary for one metric in one second.

    Attributes:
        key: Which metric.
        at_s: Unix time, whole seconds, of the samples.
        unit: CloudWatch unit, e.g. ``"Microseconds"``; ``"None"`` when not given.
        summary: The samples.
    """

    key: SeriesKey
    at_s: int
    unit: str
    summary: Summary


@dataclass(frozen=True)
class Bucket:
    """One period of one metric as read back: start, unit and merged summary."""

    start_s: int
    unit: str
    summary: Summary


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"not a finite number: {value!r}")
    return float(value)


def dimensions_of(dimensions: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Put dimensions in the order of :class:`SeriesKey`."""
    return tuple(sorted(dimensions.items()))


def _flags(invocations: float, hits: float) -> Summary:
    """Summarise 0/1 per request: Average is the rate, Sum the number of hits."""
    return Summary.repeated(0.0, max(0.0, invocations - hits)) + Summary.repeated(1.0, hits)


def _router_summaries(item: Mapping[str, Any]) -> Iterable[tuple[str, str, Summary]]:
    """Yield (metric name, unit, summary) of one item of the control channel; empty ones are left out."""
    invocations = _finite(item.get("invocations", 0))
    yield "Invocations", "Count", Summary.repeated(1.0, invocations)
    yield "Invocation4XXErrors", "Count", _flags(invocations, _finite(item.get("errors_4xx", 0)))
    yield "Invocation5XXErrors", "Count", _flags(invocations, _finite(item.get("errors_5xx", 0)))
    yield "InvocationModelErrors", "Count", _flags(invocations, _finite(item.get("model_errors", 0)))
    if invocations:
        share = _finite(item.get("per_instance", 0)) / invocations
        yield "InvocationsPerInstance", "None", Summary.repeated(share, invocations)
    for metric_name, member in (
        ("ModelLatency", "model_latency_us"),
        ("OverheadLatency", "overhead_latency_us"),
    ):
        if item.get(member) is not None:
            yield metric_name, "Microseconds", Summary.from_json(item[member])


def router_data(items: Iterable[Mapping[str, Any]]) -> list[Datum]:
    """Name a router's deltas as SageMaker does, once per variant and once per variant and config.

    Args:
        items: ``data`` of the control channel's ``metrics`` message.  Items about no endpoint
            (refusals) make no CloudWatch metric; outcomes at shadows and of capture have their own
            namespace.

    Raises:
        ValueError: an item is malformed.

    Source: "Monitor Amazon SageMaker AI with Amazon CloudWatch"; EndpointConfigName is the dimension
    that deployment guardrails add.
    """
    data: list[Datum] = []
    for item in items:
        if not item.get("endpoint"):
            continue
        variant = {"EndpointName": str(item["endpoint"]), "VariantName": str(item["variant"])}
        places = [dimensions_of(variant)]
        if item.get("config"):
            places.append(dimensions_of({**variant, "EndpointConfigName": str(item["config"])}))
        for metric_name, unit, summary in _router_summaries(item):
            if summary.count:
                data += [
                    Datum(SeriesKey(ENDPOINT_NAMESPACE, metric_name, place), int(item["at_s"]), unit, summary)
                    for place in places
                ]
        if item.get("source"):
            source, requests = str(item["source"]), _finite(item.get("invocations", 0))
            if requests:
                place = {**variant, "Source": source}
                data.append(_count_datum(ASSIGNED_REQUESTS, place, requests, int(item["at_s"])))
        for metric_name, member in OUTCOMES.items():
            data += [
                _count_datum(
                    metric_name, {**variant, "Outcome": str(outcome)}, _finite(count), int(item["at_s"])
                )
                for outcome, count in item.get(member, {}).items()
                if count
            ]
    return data


def _count_datum(metric_name: str, dimensions: Mapping[str, str], count: float, at_s: int) -> Datum:
    """Name a count of ours: its Sum, and its SampleCount, are how many there were."""
    if count < 0.0:
        raise ValueError(f"{metric_name} {dimensions}: a count is not negative: {count}")
    key = SeriesKey(UNDERSTUDY_NAMESPACE, metric_name, dimensions_of(dimensions))
    return Datum(key, at_s, "Count", Summary.repeated(1.0, count))


class InstanceUsage(Protocol):
    """What one instance uses; ``core.ports.InstanceState`` is one.  None where unknown.

    ``instance_id`` begins with ``ENDPOINT/VARIANT/``.
    """

    @property
    def instance_id(self) -> str: ...
    @property
    def cpu_percent(self) -> float | None: ...
    @property
    def memory_percent(self) -> float | None: ...
    @property
    def disk_percent(self) -> float | None: ...


def instance_data(states: Sequence[InstanceUsage], at_s: int) -> list[Datum]:
    """Name instances' use of their machine as SageMaker does: a sample per instance, by variant.

    Args:
        at_s: Unix time of the observation.

    Source: "Monitor Amazon SageMaker AI with Amazon CloudWatch", endpoint instance metrics.
    """
    samples: dict[SeriesKey, list[float]] = {}
    for state in states:
        endpoint, variant = state.instance_id.split("/")[:2]
        place = dimensions_of({"EndpointName": endpoint, "VariantName": variant})
        for metric_name, percent in (
            ("CPUUtilization", state.cpu_percent),
            ("MemoryUtilization", state.memory_percent),
            ("DiskUtilization", state.disk_percent),
        ):
            if percent is not None:
                samples.setdefault(SeriesKey(INSTANCE_NAMESPACE, metric_name, place), []).append(percent)
    return [Datum(key, at_s, "Percent", Summary.of(values)) for key, values in samples.items()]
