"""From an endpoint configuration to the fleet that carries it out, and the checks of a DeploymentConfig.

Main functions: :func:`plan_fleet`, :func:`check_deployment`.
"""

from __future__ import annotations

from typing import Any

from understudy.core.endpoints import EndpointConfig, Fleet
from understudy.core.errors import ResourceLimitExceeded, ValidationException
from understudy.core.fleets import fleet_of, models_of
from understudy.core.models import Model
from understudy.core.names import Place
from understudy.core.ports import Records
from understudy.operations.sagemaker.unsupported import refuse_unsupported
from understudy.operations.sagemaker.wording import MODEL, could_not_find, not_supported

# botocore knows no maximum; a slip of the keyboard must not ask for a million processes.
MOST_INSTANCES = 500


def plan_fleet(records: Records, place: Place, config: EndpointConfig, number: int) -> Fleet:
    """Copy all that a fleet needs out of its configuration and models.

    Args:
        number: The fleet's, unique within the endpoint.
    Raises:
        ValidationException: a model was deleted since the configuration was made.
    """
    models: dict[str, Model] = {}
    for name in models_of(config):
        stored = records.get(Model, name)
        if stored is None:
            raise could_not_find(MODEL, place.arn("model", name))
        models[name] = stored.value
    return fleet_of(config, models, number)


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
