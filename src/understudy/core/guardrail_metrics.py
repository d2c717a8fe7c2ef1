"""Which metrics of an endpoint there are, and whether an alarm names one of them.

Owns the table of metrics with their units.  Main function: :func:`check_metric`.
Source: "Monitor Amazon SageMaker AI with Amazon CloudWatch"; ``core.metrics`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from understudy.core.guardrail_traffic import EndpointTraffic, Finding, Severity
from understudy.core.metrics import ENDPOINT_NAMESPACE, INSTANCE_NAMESPACE

FLAGS = frozenset({"Invocation4XXErrors", "Invocation5XXErrors", "InvocationModelErrors"})
LATENCIES = frozenset({"ModelLatency", "OverheadLatency"})

UNITS = {
    ENDPOINT_NAMESPACE: {
        **dict.fromkeys(FLAGS, "Count"),
        **dict.fromkeys(LATENCIES, "Microseconds"),
        "Invocations": "Count",
        "InvocationsPerInstance": "None",
    },
    INSTANCE_NAMESPACE: dict.fromkeys(("CPUUtilization", "MemoryUtilization", "DiskUtilization"), "Percent"),
}
_DIMENSIONS = {
    ENDPOINT_NAMESPACE: ("EndpointName", "VariantName", "EndpointConfigName"),
    INSTANCE_NAMESPACE: ("EndpointName", "VariantName"),
}


def check_metric(alarm: str, metric: Mapping[str, Any], traffic: EndpointTraffic) -> list[Finding]:
    """Find what keeps an alarm from ever getting a datapoint of this endpoint.

    Args:
        metric: As ``core.alarm_data.metrics_of`` lists them.
    """
    namespace, name = metric["Namespace"], metric["MetricName"]

    def error(code: str, what: str, why: str, suggestion: str) -> list[Finding]:
        return [Finding(code, Severity.ERROR, alarm, what, why, suggestion)]

    if namespace not in UNITS:
        return _foreign(alarm, metric, traffic)
    if name not in UNITS[namespace]:
        return error(
            "unknown-metric", f"There is no metric {namespace} {name}.", *_other_name(namespace, name)
        )
    dimensions = {each["Name"]: each["Value"] for each in metric["Dimensions"]}
    extra = sorted(set(dimensions) - set(_DIMENSIONS[namespace]))
    lacking = [needed for needed in ("EndpointName", "VariantName") if needed not in dimensions]
    if extra or lacking:
        wrong = f"has no dimension {extra[0]}" if extra else f"needs the dimension {lacking[0]}"
        return error(
            "unknown-dimension",
            f"{name} {wrong}.",
            "A metric is found by all its dimensions and no others; another set of them is another metric.",
            f"Use {' and '.join(_DIMENSIONS[namespace][:2])}"
            + (", and EndpointConfigName for one fleet." if namespace == ENDPOINT_NAMESPACE else "."),
        )
    if dimensions["EndpointName"] != traffic.name:
        return error(
            "other-endpoint",
            f"{alarm} watches the endpoint {dimensions['EndpointName']}, not {traffic.name}.",
            "What this update does is not seen by it.",
            f"Set EndpointName to {traffic.name}.",
        )
    variant = traffic.variant(dimensions["VariantName"])
    if variant is None:
        return error(
            "other-variant",
            f"{traffic.name} has no variant {dimensions['VariantName']}.",
            "There is no metric over all variants; AllTraffic is but the name that SDKs give a lone one.",
            f"Its variants: {', '.join(one.name for one in traffic.variants)}.",
        )
    config = dimensions.get("EndpointConfigName")
    if config is not None and config != traffic.new_config:
        found = _other_config(alarm, config, traffic)
        if found:
            return found
    unit = metric.get("Unit")
    if unit not in (None, UNITS[namespace][name]):
        return error(
            "wrong-unit",
            f"{name} is in {UNITS[namespace][name]}, the alarm asks for {unit}.",
            "Datapoints of another unit are not looked at, so it never gets one.",
            "Leave Unit out, and write the threshold in the metric's own unit.",
        )
    if variant.shadow:
        return [
            Finding(
                "shadow",
                Severity.WARNING,
                alarm,
                f"{variant.name} is a shadow.",
                "It answers nobody: its errors and latencies hurt no caller.",
                "Watch the production variant.",
            )
        ]
    return []


def _other_name(namespace: str, name: str) -> tuple[str, str]:
    """Say why, and which metric may be meant."""
    for other, names in UNITS.items():
        if other != namespace and name in names:
            return f"{name} is in the namespace {other}.", f"Use the namespace {other}."
    close = get_close_matches(name, UNITS[namespace], n=1, cutoff=0.6)
    known = f"Did you mean {close[0]}?" if close else f"There are {', '.join(sorted(UNITS[namespace]))}."
    return "Nothing publishes it, so the alarm never gets a datapoint.", known


def _other_config(alarm: str, config: str, traffic: EndpointTraffic) -> list[Finding]:
    if traffic.new_config is not None:
        return [
            Finding(
                "other-config",
                Severity.ERROR,
                alarm,
                f"{alarm} watches the configuration {config}, the update brings {traffic.new_config}.",
                "It sees the old fleet, or none, and not the new one.",
                f"Set EndpointConfigName to {traffic.new_config}.",
            )
        ]
    if config == traffic.config:
        return [
            Finding(
                "other-config",
                Severity.WARNING,
                alarm,
                f"{alarm} watches the configuration {config}, which serves already.",
                "During an update to another configuration it sees the old fleet only.",
                "Set EndpointConfigName to the configuration of the update.",
            )
        ]
    return []


def _foreign(alarm: str, metric: Mapping[str, Any], traffic: EndpointTraffic) -> list[Finding]:
    namespace, name = metric["Namespace"], metric["MetricName"]
    if namespace.startswith(("AWS/", "/aws/")):
        return [
            Finding(
                "unknown-metric",
                Severity.ERROR,
                alarm,
                f"There is no namespace {namespace} here.",
                "Nothing publishes it, so the alarm never gets a datapoint.",
                f"Endpoints have {' and '.join(UNITS)}.",
            )
        ]
    if (namespace, name) not in traffic.own_metrics:
        return [
            Finding(
                "unknown-metric",
                Severity.WARNING,
                alarm,
                f"Nothing was ever published as {namespace} {name}.",
                "Until somebody does, the alarm has no datapoint.",
                "Check the names, or publish it with PutMetricData before the update.",
            )
        ]
    return []
