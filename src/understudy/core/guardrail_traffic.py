"""What the guardrail linter knows of an endpoint, and what it says.

Owns the facts (:class:`EndpointTraffic`), the :class:`Finding`, and the steps of a DeploymentConfig as far as
alarms are concerned (:func:`steps_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from understudy.core.deployments import plan_of
from understudy.core.endpoints import Fleet
from understudy.core.guardrail_odds import Step
from understudy.core.metrics import Summary


class Severity(StrEnum):
    """How bad a finding is: ``error`` is a guardrail that does not guard."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """One piece of advice.

    Attributes:
        code: Short and stable.
        what: What was found; ``why`` with numbers; ``suggestion``: what to do.
        call: A better PutMetricAlarm request, where one is known.
    """

    code: str
    severity: Severity
    alarm: str
    what: str
    why: str
    suggestion: str
    call: dict[str, Any] | None = None


@dataclass(frozen=True)
class VariantTraffic:
    """What one variant was asked and how it answered.

    Attributes:
        rates: Of 0/1 metrics, by name.
        summaries: Of other metrics, by name: samples of the time looked at, ``observed_s``.
    """

    name: str
    shadow: bool
    requests_per_minute: float
    rates: Mapping[str, float] = field(default_factory=dict)
    summaries: Mapping[str, Summary] = field(default_factory=dict)
    observed_s: float = 60.0

    def samples_per_minute(self, metric_name: str) -> float:
        """How many samples a metric gets: one per request, or as many as were measured."""
        summary = self.summaries.get(metric_name)
        if summary is None or metric_name in ("ModelLatency", "OverheadLatency"):
            return self.requests_per_minute
        return summary.count * 60.0 / self.observed_s


@dataclass(frozen=True)
class EndpointTraffic:
    """What the linter knows of an endpoint.

    Attributes:
        config: The configuration that serves.
        new_config: The one that an update brings; None: none is known.
        observed_s: How far back was looked.
        own_metrics: Metrics of other namespaces that were ever published: (namespace, name).
    """

    name: str
    config: str
    variants: tuple[VariantTraffic, ...]
    new_config: str | None = None
    observed_s: float = 0.0
    own_metrics: frozenset[tuple[str, str]] = frozenset()

    def variant(self, name: str) -> VariantTraffic | None:
        """Find a variant."""
        return next((variant for variant in self.variants if variant.name == name), None)


def steps_of(deployment: Mapping[str, Any], fleet: Fleet) -> list[Step]:
    """Return the steps of a DeploymentConfig in which alarms are watched; empty where there is none.

    Args:
        deployment: By wire names, checked.
        fleet: The new one, or one of its size; for sizes by INSTANCE_COUNT.

    >>> size = {"Type": "CAPACITY_PERCENT", "Value": 10}
    >>> routing = {"Type": "CANARY", "WaitIntervalInSeconds": 60, "CanarySize": size}
    >>> steps_of({"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}, Fleet("f1", "c", ()))
    [Step(share=0.1, duration_s=60.0), Step(share=1.0, duration_s=60.0)]
    """
    if not deployment.get("BlueGreenUpdatePolicy") and not deployment.get("RollingUpdatePolicy"):
        return []
    plan = plan_of(deployment)
    steps = [Step(min(1.0, share), plan.wait_s) for share in plan.shares(fleet)]
    return [*steps, Step(1.0, plan.termination_s)] if plan.termination_s else steps
