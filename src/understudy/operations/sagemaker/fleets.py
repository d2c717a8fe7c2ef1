"""From an endpoint configuration to the fleet that carries it out, and the alarms that guard its update.

Main functions: :func:`plan_fleet`, :func:`check_alarms`.
"""

from __future__ import annotations

from typing import Any

from understudy.core.alarms import Alarm, AlarmState
from understudy.core.deployments import plan_of
from understudy.core.endpoints import EndpointConfig, Fleet
from understudy.core.errors import ResourceLimitExceeded, ValidationException
from understudy.core.fleets import fleet_of, models_of
from understudy.core.models import Model
from understudy.core.names import Place
from understudy.core.ports import Records
from understudy.operations.sagemaker.wording import MODEL, could_not_find

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


def check_alarms(records: Records, deployment: dict[str, Any]) -> None:
    """Refuse an update that its own alarms would end at once, before anything is deployed.

    Raises:
        ValidationException: an alarm does not exist, or is in ALARM already.
    """
    for name in plan_of(deployment).alarms:
        stored = records.get(Alarm, name)
        if stored is None:
            raise ValidationException(
                f"Invalid DeploymentConfig: CloudWatch alarm {name} of the AutoRollbackConfiguration does "
                "not exist."
            )
        if stored.value.state is AlarmState.ALARM:
            raise ValidationException(
                f"Invalid DeploymentConfig: CloudWatch alarm {name} of the AutoRollbackConfiguration is in "
                f"ALARM state already: {stored.value.reason}"
            )
