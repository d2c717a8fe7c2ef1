"""From an endpoint configuration to the fleet that carries it out, and the checks of a DeploymentConfig.

Main functions: :func:`plan_fleet`, :func:`check_deployment`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from understudy.core.endpoints import EndpointConfig, Fleet, FleetVariant
from understudy.core.errors import ResourceLimitExceeded, ValidationException
from understudy.core.models import Model, containers_of
from understudy.core.names import Place
from understudy.core.ports import Records
from understudy.operations.sagemaker.unsupported import refuse_unsupported
from understudy.operations.sagemaker.wording import MODEL, could_not_find, not_supported

# botocore, ProductionVariant: AWS's defaults where a variant names none (startup: the container contract).
STARTUP_TIMEOUT_S = 240
DOWNLOAD_TIMEOUT_S = 3600
# botocore knows no maximum; a slip of the keyboard must not ask for a million processes.
MOST_INSTANCES = 500


def plan_fleet(records: Records, place: Place, config: EndpointConfig, number: int) -> Fleet:
    """Copy all that a fleet needs out of its configuration and models.

    Args:
        number: The fleet's, unique within the endpoint.
    Raises:
        ValidationException: a model was deleted since the configuration was made.
    """
    variants = []
    for variant in config.request["ProductionVariants"]:
        stored = records.get(Model, variant["ModelName"])
        if stored is None:
            raise could_not_find(MODEL, place.arn("model", variant["ModelName"]))
        model = stored.value.request
        weight = float(variant["InitialVariantWeight"])
        variants.append(
            FleetVariant(
                name=variant["VariantName"],
                model_name=variant["ModelName"],
                containers=containers_of(model),
                instance_type=variant["InstanceType"],
                direct=model.get("InferenceExecutionConfig", {}).get("Mode") == "Direct",
                desired_weight=weight,
                current_weight=weight,
                desired_count=variant["InitialInstanceCount"],
                startup_timeout_s=variant.get(
                    "ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_TIMEOUT_S
                ),
                download_timeout_s=variant.get("ModelDataDownloadTimeoutInSeconds", DOWNLOAD_TIMEOUT_S),
            )
        )
    return Fleet(f"f{number}", config.name, tuple(variants))


def check_size(fleet: Fleet) -> Fleet:
    """Hold a fleet to the server's limit of instances per endpoint.

    Raises:
        ResourceLimitExceeded: it wants more.
    """
    wanted = sum(variant.desired_count for variant in fleet.variants)
    if wanted > MOST_INSTANCES:
        raise ResourceLimitExceeded(
            f"The service limit 'instances per endpoint' is {MOST_INSTANCES} Instances, with a request for "
            f"{wanted} Instances."
        )
    return fleet


def retain_properties(fleet: Fleet, serving: Fleet, excluded: Collection[str]) -> Fleet:
    """Keep weights and counts that were changed since the serving fleet's configuration was made.

    Args:
        fleet: The new one; variants that ``serving`` has not are left as configured.
        excluded: VariantPropertyTypes to reset: ``DesiredInstanceCount``, ``DesiredWeight``.
    """
    before = {variant.name: variant for variant in serving.variants}
    variants = []
    for variant in fleet.variants:
        kept = before.get(variant.name)
        if kept is not None and "DesiredWeight" not in excluded:
            variant = replace(variant, desired_weight=kept.desired_weight, current_weight=kept.desired_weight)
        if kept is not None and "DesiredInstanceCount" not in excluded:
            variant = replace(variant, desired_count=kept.desired_count)
        variants.append(variant)
    return replace(fleet, variants=tuple(variants))


def check_deployment(deployment: dict[str, Any]) -> dict[str, Any]:
    """Check a DeploymentConfig; this version shifts all traffic at once.

    Returns:
        It, for the record.
    Raises:
        ValidationException: members contradict each other or ask for another way to shift traffic.
    """
    blue_green = deployment.get("BlueGreenUpdatePolicy")
    if blue_green and deployment.get("RollingUpdatePolicy"):
        raise ValidationException("BlueGreenUpdatePolicy and RollingUpdatePolicy exclude each other.")
    refuse_unsupported("deployment", deployment, "DeploymentConfig")
    if blue_green:
        routing = blue_green["TrafficRoutingConfiguration"]
        if routing["Type"] != "ALL_AT_ONCE":
            raise not_supported(
                "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration.Type "
                f"{routing['Type']} (ALL_AT_ONCE is)"
            )
        for size in ("CanarySize", "LinearStepSize"):
            if routing.get(size):
                raise ValidationException(f"{size} can't be used with traffic routing type ALL_AT_ONCE.")
    return deployment
