"""Guardrails of an endpoint, judged on its own traffic: what the linter needs, read from the stores.

Owns which deployment and alarms are meant, and the traffic of the last hours.  Main functions:
:func:`reports_for`, :func:`events_for` (for the audit trail of an update).  The judgement itself is
``core.guardrails``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from understudy.core.alarm_expressions import children_of, parse_rule
from understudy.core.alarms import Alarm
from understudy.core.deployments import plan_of
from understudy.core.endpoints import Endpoint, Fleet, FleetVariant
from understudy.core.guardrail_metrics import FLAGS, LATENCIES, UNITS
from understudy.core.guardrail_traffic import EndpointTraffic, Severity, VariantTraffic, steps_of
from understudy.core.guardrails import AlarmReport, lint
from understudy.core.metrics import (
    ENDPOINT_NAMESPACE,
    INSTANCE_NAMESPACE,
    Bucket,
    SeriesKey,
    Summary,
    dimensions_of,
)
from understudy.core.ports import Event, Records
from understudy.operations.services import Services

OBSERVED_S = 3 * 3600


@dataclass(frozen=True)
class GuardrailReport:
    """What the linter says of one deployment.

    Attributes:
        deployment: The DeploymentConfig that was judged, by wire names; empty where there is none.
        steps: (share of the new fleet, seconds) in order.
    """

    endpoint: str
    deployment: dict[str, Any]
    steps: tuple[tuple[float, float], ...]
    requests_per_minute: dict[str, float]
    alarms: tuple[AlarmReport, ...]

    def worst(self) -> Severity | None:
        """Return the severity of the worst finding."""
        found = {finding.severity for alarm in self.alarms for finding in alarm.findings}
        return next((severity for severity in Severity if severity in found), None)

    def rendered(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        worst = self.worst()
        return {
            "endpoint": self.endpoint,
            "deployment_config": self.deployment,
            "steps": [{"share": share, "duration_s": duration_s} for share, duration_s in self.steps],
            "requests_per_minute": self.requests_per_minute,
            "worst": None if worst is None else worst.value,
            "alarms": [asdict(alarm) for alarm in self.alarms],
        }


def reports_for(
    services: Services,
    endpoint: Endpoint,
    deployment: Mapping[str, Any] | None = None,
    new_config: str | None = None,
) -> GuardrailReport:
    """Judge the alarms that guard an endpoint's updates.

    Args:
        deployment: DeploymentConfig, checked; None: that of the update under way, else of the last one.
        new_config: The configuration that an update brings; None: that of the update under way, if any.
    """
    update = endpoint.update
    if deployment is None:
        deployment = (update.deployment_config if update is not None else None) or (
            endpoint.deployment_config or {}
        )
    if new_config is None and update is not None and update.fleet is not None:
        new_config = update.fleet.config_name
    names = plan_of(deployment).alarms
    alarms = _alarms(services.records, names)
    traffic = _traffic(services, endpoint, new_config)
    steps = steps_of(deployment, _fleet(endpoint))
    return GuardrailReport(
        endpoint.name,
        dict(deployment),
        tuple((step.share, step.duration_s) for step in steps),
        {variant.name: round(variant.requests_per_minute, 3) for variant in traffic.variants},
        tuple(lint(names, alarms, traffic, steps)),
    )


def events_for(
    services: Services,
    endpoint: Endpoint,
    deployment: Mapping[str, Any],
    new_config: str,
    now_s: float,
) -> list[Event]:
    """Make the audit trail's lines about an update's guardrails: one per finding, errors and warnings.

    For UpdateEndpoint to commit along with its wish; advice, never a reason to refuse.
    """
    report = reports_for(services, endpoint, deployment, new_config)
    return [
        Event(endpoint.arn, "GuardrailFinding", now_s, asdict(finding))
        for alarm in report.alarms
        for finding in alarm.findings
        if finding.severity is not Severity.INFO
    ]


def _alarms(records: Records, names: Sequence[str]) -> dict[str, Alarm]:
    """Read alarms and, of composite ones, all that they read."""
    found: dict[str, Alarm] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        stored = None if name in found else records.get(Alarm, name)
        if stored is not None:
            found[name] = stored.value
            if stored.value.composite:
                waiting += children_of(parse_rule(stored.value.request["AlarmRule"]))
    return found


def _fleet(endpoint: Endpoint) -> Fleet:
    """Return the fleet that serves, or the first one on its way up."""
    update = endpoint.update
    return endpoint.fleet or (update.fleet if update is not None else None) or Fleet("f0", "", ())


def _traffic(services: Services, endpoint: Endpoint, new_config: str | None) -> EndpointTraffic:
    now_s = int(services.clock.now_s())
    published = services.series.keys()
    own = frozenset(
        (key.namespace, key.metric_name)
        for key, _ in published
        if not key.namespace.startswith(("AWS/", "/aws/"))
    )
    return EndpointTraffic(
        endpoint.name,
        endpoint.config_name,
        tuple(_variant(services, endpoint, variant, now_s) for variant in _fleet(endpoint).variants),
        new_config,
        OBSERVED_S,
        own,
    )


def _variant(services: Services, endpoint: Endpoint, variant: FleetVariant, now_s: int) -> VariantTraffic:
    place = dimensions_of({"EndpointName": endpoint.name, "VariantName": variant.name})

    def read(namespace: str, name: str) -> list[Bucket]:
        return list(services.series.read(SeriesKey(namespace, name, place), now_s - OBSERVED_S, now_s, 60))

    asked = read(ENDPOINT_NAMESPACE, "Invocations")
    # From the first request seen: an endpoint that is ten minutes old has no three hours of silence.
    observed_s = float(max(60, now_s - asked[0].start_s)) if asked else float(OBSERVED_S)
    requests = _merged(asked)
    rates = {}
    for name in FLAGS:
        errors = _merged(read(ENDPOINT_NAMESPACE, name))
        if errors.count:
            rates[name] = errors.sum / errors.count
    summaries = {"Invocations": requests}
    for namespace, names in (
        (ENDPOINT_NAMESPACE, LATENCIES),
        (INSTANCE_NAMESPACE, UNITS[INSTANCE_NAMESPACE]),
    ):
        for name in names:
            summary = _merged(read(namespace, name))
            if summary.count:
                summaries[name] = summary
    return VariantTraffic(
        variant.name,
        variant.shadow,
        requests.count * 60.0 / observed_s,
        rates,
        {name: summary for name, summary in summaries.items() if summary.count},
        observed_s,
    )


def _merged(buckets: Sequence[Bucket]) -> Summary:
    """Merge periods into one summary; sketches are added in one dictionary, not copied each time."""
    held: dict[int, float] = {}
    for bucket in buckets:
        for place, count in bucket.summary.buckets.items():
            held[place] = held.get(place, 0.0) + count
    return Summary(
        sum(bucket.summary.count for bucket in buckets),
        sum(bucket.summary.sum for bucket in buckets),
        min((bucket.summary.minimum for bucket in buckets), default=float("inf")),
        max((bucket.summary.maximum for bucket in buckets), default=float("-inf")),
        held,
    )
