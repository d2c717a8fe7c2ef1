"""The guardrail linter as a call: ``GET`` judges what guards an endpoint now, ``POST`` what would.

Refuses a DeploymentConfig that UpdateEndpoint would refuse for its form.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

from understudy.core.deployments import ALL_AT_ONCE, CANARY, LINEAR, check_deployment
from understudy.core.errors import ValidationException
from understudy.operations.guardrails import reports_for
from understudy.operations.services import Services
from understudy.operations.understudy.calls import OwnCall, OwnRequest, endpoint_of

_TYPES = (ALL_AT_ONCE, CANARY, LINEAR)


def get_guardrails(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Judge the alarms of the update under way, or else of the last DeploymentConfig."""
    return reports_for(services, endpoint_of(services, request)).rendered()


def post_guardrails(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Judge the alarms of a DeploymentConfig before it is used.

    Raises:
        ValidationException: it is none.
    """
    endpoint = endpoint_of(services, request)
    config_name = request.body.get("endpoint_config_name")
    if config_name is not None and not isinstance(config_name, str):
        raise ValidationException("endpoint_config_name must be a text.")
    deployment = request.body.get("deployment_config")
    if deployment is not None:
        deployment = _checked(deployment)
    return reports_for(services, endpoint, deployment, config_name).rendered()


@lru_cache(maxsize=1)
def _shape() -> Shape:
    model = ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")
    return model.shape_for("DeploymentConfig")


def _checked(deployment: Any) -> dict[str, Any]:
    """Hold a DeploymentConfig to botocore's shape, and to what UpdateEndpoint checks."""
    if not isinstance(deployment, Mapping):
        raise ValidationException("deployment_config must be an object.")
    found = ParamValidator().validate(dict(deployment), _shape())
    if found.has_errors():
        raise ValidationException(f"deployment_config: {found.generate_report()}")
    _check_enums(deployment)
    check_deployment(deployment)
    return dict(deployment)


def _check_enums(deployment: Mapping[str, Any]) -> None:
    """Check what botocore's own validation leaves to the server."""
    routing = (deployment.get("BlueGreenUpdatePolicy") or {}).get("TrafficRoutingConfiguration") or {}
    if routing and routing["Type"] not in _TYPES:
        raise ValidationException(f"TrafficRoutingConfiguration.Type must be one of {', '.join(_TYPES)}.")
    rolling = deployment.get("RollingUpdatePolicy") or {}
    sizes = [routing.get("CanarySize"), routing.get("LinearStepSize"), rolling.get("MaximumBatchSize")]
    for size in sizes:
        if size and size["Type"] not in ("INSTANCE_COUNT", "CAPACITY_PERCENT"):
            raise ValidationException("A size's Type must be INSTANCE_COUNT or CAPACITY_PERCENT.")
        if size and size["Value"] < 1:
            raise ValidationException("A size's Value must be at least 1.")


_PATH = "/endpoints/{endpoint}/guardrails"

OWN_CALLS = (
    OwnCall("GET", _PATH, get_guardrails),
    OwnCall("POST", _PATH, post_guardrails, body=frozenset({"deployment_config", "endpoint_config_name"})),
)
