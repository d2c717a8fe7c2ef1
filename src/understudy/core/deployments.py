"""From a DeploymentConfig to the steps in which a new fleet takes the traffic.

Owns what the members mean (:func:`plan_of`), which sizes and combinations are allowed
(:func:`check_deployment`, :func:`check_sizes`), and the sizes of steps and batches.  Refuses nothing that
depends on the state of an endpoint or an alarm.

Time limits: MaximumExecutionTimeoutInSeconds covers bringing instances up, shifting and baking.
TerminationWaitInSeconds comes "after the completion of an endpoint deployment" and is not part of it.
Without MaximumExecutionTimeoutInSeconds there is no limit.

Differs from AWS: ALL_AT_ONCE is taken for a configuration with other variant names too (a shadow that is
promoted has another name); CANARY, LINEAR and rolling updates want the same names, as on AWS.

Source: botocore's documentation of DeploymentConfig; SageMaker's "Deployment guardrails" pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from understudy.core.endpoints import Fleet, FleetVariant
from understudy.core.errors import ValidationException

ALL_AT_ONCE, CANARY, LINEAR, ROLLING = "ALL_AT_ONCE", "CANARY", "LINEAR", "ROLLING"

# Percentages are whole numbers: three steps of 33 mean thirds, and no fourth step of 1 %.
LAST_STEP_SLACK = 0.0101
MOST_CANARY, LEAST_LINEAR, MOST_LINEAR, LEAST_BATCH, MOST_BATCH = 0.5, 0.1, 0.5, 0.05, 0.5


@dataclass(frozen=True)
class Size:
    """A CapacitySize: a part of a fleet.

    Attributes:
        by_count: INSTANCE_COUNT; else CAPACITY_PERCENT.
    """

    value: int
    by_count: bool

    def fraction_of(self, instances: int) -> float:
        """The part that it is of so many instances."""
        return self.value / instances if self.by_count else self.value / 100.0

    def instances_of(self, instances: int) -> int:
        """How many instances it is: at least one, at most all.

        >>> Size(33, by_count=False).instances_of(3), Size(50, by_count=False).instances_of(5)
        (1, 2)
        """
        count = self.value if self.by_count else instances * self.value // 100
        return max(1, min(instances, count))


@dataclass(frozen=True)
class DeploymentPlan:
    """What a DeploymentConfig asks for.

    Attributes:
        kind: ``ALL_AT_ONCE``, ``CANARY``, ``LINEAR`` or ``ROLLING``.
        size: CanarySize, LinearStepSize or MaximumBatchSize.
        rollback_size: RollbackMaximumBatchSize; None: everything at once.
        wait_s: How long each step bakes.
        termination_s: How long the old fleet is kept after the last bake.
        timeout_s: For all until then; None: no limit.
        alarms: Names, in the order given.
    """

    kind: str = ALL_AT_ONCE
    size: Size | None = None
    rollback_size: Size | None = None
    wait_s: float = 0.0
    termination_s: float = 0.0
    timeout_s: float | None = None
    alarms: tuple[str, ...] = ()

    def shares(self, fleet: Fleet) -> tuple[float, ...]:
        """Name the shares of all requests that the new fleet gets, step by step; the last is 1.0.

        With INSTANCE_COUNT and several variants the smallest fraction that the instances are of any
        variant counts for all, so that the variants keep their shares of the traffic among each other.

        >>> linear = plan_of({"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {
        ...     "Type": "LINEAR", "WaitIntervalInSeconds": 300,
        ...     "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 20}}}})
        >>> linear.shares(Fleet("f1", "c", ()))
        (0.2, 0.4, 0.6, 0.8, 1.0)
        """
        if self.kind == ALL_AT_ONCE or self.size is None:
            return (1.0,)
        counts = [variant.desired_count for variant in production(fleet)]
        fraction = min((self.size.fraction_of(count) for count in counts), default=self.size.fraction_of(100))
        if self.kind == CANARY:
            return (fraction, 1.0) if fraction < 1.0 else (1.0,)
        steps = max(1, math.ceil((1.0 - LAST_STEP_SLACK) / fraction))
        return (*(round(fraction * step, 12) for step in range(1, steps)), 1.0)


def production(fleet: Fleet) -> list[FleetVariant]:
    """The variants that answer callers."""
    return [variant for variant in fleet.variants if not variant.shadow]


def plan_of(deployment: Mapping[str, Any]) -> DeploymentPlan:
    """Read a DeploymentConfig that was checked; an empty one is all at once."""
    alarms = tuple(
        alarm["AlarmName"]
        for alarm in (deployment.get("AutoRollbackConfiguration") or {}).get("Alarms") or ()
        if alarm.get("AlarmName")
    )
    rolling = deployment.get("RollingUpdatePolicy")
    if rolling:
        return DeploymentPlan(
            kind=ROLLING,
            size=_size(rolling["MaximumBatchSize"]),
            rollback_size=_size(rolling.get("RollbackMaximumBatchSize")),
            wait_s=float(rolling["WaitIntervalInSeconds"]),
            timeout_s=rolling.get("MaximumExecutionTimeoutInSeconds"),
            alarms=alarms,
        )
    blue_green = deployment.get("BlueGreenUpdatePolicy")
    if not blue_green:
        return DeploymentPlan(alarms=alarms)
    routing = blue_green["TrafficRoutingConfiguration"]
    return DeploymentPlan(
        kind=routing["Type"],
        size=_size(routing.get("CanarySize") or routing.get("LinearStepSize")),
        wait_s=float(routing["WaitIntervalInSeconds"]),
        termination_s=float(blue_green.get("TerminationWaitInSeconds", 0)),
        timeout_s=blue_green.get("MaximumExecutionTimeoutInSeconds"),
        alarms=alarms,
    )


def _size(capacity: Mapping[str, Any] | None) -> Size | None:
    return Size(capacity["Value"], capacity["Type"] == "INSTANCE_COUNT") if capacity else None


# --- what is allowed -------------------------------------------------------------------------------


def check_deployment(deployment: Mapping[str, Any]) -> None:
    """Check what can be told from a DeploymentConfig alone; botocore's limits were checked before.

    Raises:
        ValidationException: members contradict each other or a percentage is out of range.
    """
    blue_green, rolling = deployment.get("BlueGreenUpdatePolicy"), deployment.get("RollingUpdatePolicy")
    if blue_green and rolling:
        raise _invalid("Only one update policy should be used in the deployment configuration.")
    alarms = (deployment.get("AutoRollbackConfiguration") or {}).get("Alarms") or ()
    names = [alarm.get("AlarmName") for alarm in alarms]
    if not all(names):
        raise _invalid("AutoRollbackConfiguration.Alarms: every alarm needs an AlarmName.")
    if len(set(names)) < len(names):
        raise _invalid("AutoRollbackConfiguration.Alarms: an alarm is named more than once.")
    if blue_green:
        _check_blue_green(blue_green)
    plan = plan_of(deployment)
    if plan.timeout_s is not None and plan.timeout_s <= plan.termination_s + plan.wait_s:
        raise _invalid(
            "MaximumExecutionTimeoutInSeconds should be larger than the total waiting time specified in "
            "TerminationWaitInSeconds and WaitIntervalInSeconds."
        )
    for name, size, least, most in _limits(plan):
        if not size.by_count:
            _check_fraction(name, size, size.value / 100.0, least, most)


def _check_blue_green(blue_green: Mapping[str, Any]) -> None:
    routing = blue_green["TrafficRoutingConfiguration"]
    kind = routing["Type"]
    wanted = {CANARY: "CanarySize", LINEAR: "LinearStepSize"}.get(kind)
    for member in ("CanarySize", "LinearStepSize"):
        if member == wanted and not routing.get(member):
            raise _invalid(f"{member} is required for traffic routing type {kind}.")
        if member != wanted and routing.get(member):
            raise _invalid(f"{member} can't be used with traffic routing type {kind}.")


def check_sizes(deployment: Mapping[str, Any], fleet: Fleet, serving: Fleet) -> None:
    """Check a DeploymentConfig against the fleet that it is to bring up and the one that serves.

    Raises:
        ValidationException: a size in instances is out of range for a variant, or the fleets can't be
            exchanged step by step.
    """
    plan = plan_of(deployment)
    if plan.kind == ALL_AT_ONCE:
        return
    names = {variant.name for variant in production(fleet)}
    if names != {variant.name for variant in production(serving)}:
        raise _invalid(
            f"the variant names of endpoint configurations {serving.config_name} and {fleet.config_name} "
            f"must be the same for an update of type {plan.kind}."
        )
    if plan.kind == ROLLING and len(names) > 1:
        raise _invalid("Rolling deployments are not supported for endpoints with multiple variants.")
    for name, size, least, most in _limits(plan):
        if size.by_count:
            of = serving if name == "RollbackMaximumBatchSize" else fleet
            for variant in production(of):
                _check_fraction(name, size, size.fraction_of(variant.desired_count), least, most)


def _limits(plan: DeploymentPlan) -> list[tuple[str, Size, float, float]]:
    """Name each size given, with the least and the most it may be of a variant's instances."""
    found = []
    if plan.size is not None:
        name, least, most = {
            CANARY: ("CanarySize", 0.0, MOST_CANARY),
            LINEAR: ("LinearStepSize", LEAST_LINEAR, MOST_LINEAR),
            ROLLING: ("MaximumBatchSize", LEAST_BATCH, MOST_BATCH),
        }[plan.kind]
        found.append((name, plan.size, least, most))
    if plan.rollback_size is not None:
        found.append(("RollbackMaximumBatchSize", plan.rollback_size, 0.0, 1.0))
    return found


def _check_fraction(name: str, size: Size, fraction: float, least: float, most: float) -> None:
    if least <= fraction <= most:
        return
    bounds = f"less than or equal to {most:.0%}" if least == 0.0 else f"{least:.0%} to {most:.0%}"
    raise _invalid(f"{name} {size.value}: Value must be {bounds} of the variant's total instance count.")


def _invalid(why: str) -> ValidationException:
    return ValidationException(f"Invalid DeploymentConfig: {why}")
