"""``GET /metrics``: Prometheus text.  Labels name what exists (endpoints, variants, what they run): bounded.

Source: Prometheus exposition format 0.0.4, through prometheus_client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from understudy import __version__
from understudy.control.recording import Recorder
from understudy.core.endpoints import Endpoint
from understudy.core.metrics import (
    ASSIGNED_SOURCES,
    ASSIGNMENT_OUTCOMES,
    CAPTURE_OUTCOMES,
    SHADOW_OUTCOMES,
    Summary,
    value_of,
)
from understudy.core.ports import InstanceState, InstanceStatus, Query, Records, Runtime

# Seconds; Prometheus's own defaults, finer at the fast end where model calls are.
LATENCY_EDGES_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    5,
    30,
    60,
)


class UnderstudyCollector(Collector):
    """Reads the running totals at each scrape."""

    def __init__(self, recorder: Recorder, records: Records, runtime: Runtime) -> None:
        self._recorder = recorder
        self._records = records
        self._runtime = runtime

    def collect(self) -> Iterable[Metric]:
        """Yield every family."""
        info = InfoMetricFamily("understudy", "The running version")
        info.add_metric([], {"version": __version__})
        yield info
        yield from self._invocations()
        yield from self._endpoints(self._runtime.observe())

    def _invocations(self) -> Iterable[Metric]:
        labels = ["endpoint", "variant"]
        variants, refused = self._recorder.totals()
        for name, text, attribute in (
            ("understudy_invocations", "Requests that reached a variant", "invocations"),
            ("understudy_invocation_4xx_errors", "Requests answered 4XX", "errors_4xx"),
            ("understudy_invocation_5xx_errors", "Requests answered 5XX", "errors_5xx"),
            ("understudy_invocation_model_errors", "Requests the model did not answer 2XX", "model_errors"),
        ):
            family = CounterMetricFamily(name, text, labels=labels)
            for key, totals in sorted(variants.items()):
                family.add_metric(key, getattr(totals, attribute))
            yield family
        for name, text, attribute in (
            ("understudy_model_latency_seconds", "Time the model took", "model_latency_us"),
            ("understudy_overhead_latency_seconds", "Time added by Understudy", "overhead_latency_us"),
        ):
            histogram = HistogramMetricFamily(name, text, labels=labels)
            for key, totals in sorted(variants.items()):
                summary: Summary = getattr(totals, attribute)
                histogram.add_metric(key, _cumulative(summary), summary.sum / 1e6)
            yield histogram
        for name, text, attribute, label, outcomes in (
            (
                "understudy_shadow_requests",
                "Production requests by what became of them at a shadow",
                "shadow",
                "outcome",
                SHADOW_OUTCOMES,
            ),
            (
                "understudy_capture_records",
                "Answers with capture on by what became of their record",
                "capture",
                "outcome",
                CAPTURE_OUTCOMES,
            ),
            (
                "understudy_assignment_records",
                "Logged requests by what became of the record of their assignment",
                "assignment",
                "outcome",
                ASSIGNMENT_OUTCOMES,
            ),
            (
                "understudy_assigned_requests",
                "Production requests by who chose their variant",
                "assigned",
                "source",
                ASSIGNED_SOURCES,
            ),
        ):
            family = CounterMetricFamily(name, text, labels=[*labels, label])
            for key, totals in sorted(variants.items()):
                counts: Mapping[str, int] = getattr(totals, attribute)
                for outcome in (*outcomes, *sorted(counts.keys() - set(outcomes))) if counts else ():
                    family.add_metric([*key, outcome], counts.get(outcome, 0))
            yield family
        refusals = CounterMetricFamily(
            "understudy_refused_requests", "Requests refused before routing", labels=["code"]
        )
        for code, count in sorted(refused.items()):
            refusals.add_metric([code], count)
        yield refusals

    def _endpoints(self, states: Sequence[InstanceState]) -> Iterable[Metric]:
        status = GaugeMetricFamily(
            "understudy_endpoint_status", "1 for the endpoint's status", labels=["endpoint", "status"]
        )
        weight = GaugeMetricFamily(
            "understudy_variant_weight", "Current weight", labels=["endpoint", "variant"]
        )
        endpoints = [stored.value for stored in self._records.find(Endpoint, Query())]
        for endpoint in endpoints:
            status.add_metric([endpoint.name, endpoint.status.value], 1)
            for variant in endpoint.fleet.variants if endpoint.fleet is not None else ():
                weight.add_metric([endpoint.name, variant.name], variant.current_weight)
        yield status
        yield weight
        instances = GaugeMetricFamily(
            "understudy_instances", "Instances by status", labels=["endpoint", "variant", "status"]
        )
        counts: dict[tuple[str, str, str], int] = {}
        for state in states:
            endpoint_name, variant_name = state.instance_id.split("/")[:2]
            key = (endpoint_name, variant_name, state.status.value)
            counts[key] = counts.get(key, 0) + 1
        for key, count in sorted(counts.items()):
            instances.add_metric(key, count)
        yield instances
        yield _models(endpoints, states)


def _models(endpoints: Sequence[Endpoint], states: Sequence[InstanceState]) -> Metric:
    """Tell what instances really run: the artifact's digest, and the name and version it gives itself."""
    labels = ["endpoint", "variant", "model", "container", "name", "version", "digest", "artifact", "image"]
    family = GaugeMetricFamily(
        "understudy_model_info", "What serves, as the artifact itself says", labels=labels
    )
    fleets = {
        (endpoint.name, fleet.fleet_id): fleet
        for endpoint in endpoints
        for fleet in (endpoint.fleet, endpoint.update.fleet if endpoint.update is not None else None)
        if fleet is not None
    }
    found = set()
    for state in states:
        endpoint_name, variant_name, fleet_id = state.instance_id.split("/")[:3]
        fleet = fleets.get((endpoint_name, fleet_id))
        variant = next((one for one in fleet.variants if one.name == variant_name), None) if fleet else None
        if variant is None or state.status is not InstanceStatus.READY:
            continue
        for container, (digest, name, version) in zip(variant.containers, state.artifacts, strict=False):
            found.add(
                (
                    endpoint_name,
                    variant_name,
                    variant.model_name,
                    container.hostname,
                    name or variant.model_name,
                    version or digest[:12],
                    digest,
                    container.model_data_url or "",
                    container.image,
                )
            )
    for values in sorted(found):
        family.add_metric(values, 1)
    return family


def _cumulative(summary: Summary) -> list[tuple[str, float]]:
    """Turn a sketch of microseconds into cumulative classic buckets of seconds."""
    counts = [0.0] * len(LATENCY_EDGES_S)
    for bucket, count in summary.buckets.items():
        value_s = value_of(bucket) / 1e6
        for index, edge_s in enumerate(LATENCY_EDGES_S):
            if value_s <= edge_s:
                counts[index] += count
    buckets = [(str(float(edge_s)), count) for edge_s, count in zip(LATENCY_EDGES_S, counts, strict=True)]
    return [*buckets, ("+Inf", summary.count)]


def render(collector: UnderstudyCollector) -> bytes:
    """Render one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
