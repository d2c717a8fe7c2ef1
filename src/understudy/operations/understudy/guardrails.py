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

from understudy.core.errors import ValidationException
from understudy.operations.guardrails import reports_for
from understudy.operations.services import Services
from understudy.operations.understudy.calls import OwnCall, OwnRequest, endpoint_of

_SIZES = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize", "ALL_AT_ONCE": None}


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
    """Hold a DeploymentConfig to botocore's shape, and to what its steps are computed from."""
    if not isinstance(deployment, Mapping):
        raise ValidationException("deployment_config must be an object.")
    found = ParamValidator().validate(dict(deployment), _shape())
    if found.has_errors():
        raise ValidationException(f"deployment_config: {found.generate_report()}")
    policy = deployment.get("BlueGreenUpdatePolicy")
    sizes = []
    if policy is not None:
        routing = policy["TrafficRoutingConfiguration"]
        if routing["Type"] not in _SIZES:
            raise ValidationException(f"TrafficRoutingConfiguration.Type must be one of {', '.join(_SIZES)}.")
        needed = _SIZES[routing["Type"]]
        if needed is not None:
            if routing.get(needed) is None:
                raise ValidationException(f"{needed} is required for traffic routing type {routing['Type']}.")
            sizes.append(routing[needed])
    if deployment.get("RollingUpdatePolicy") is not None:
        sizes.append(deployment["RollingUpdatePolicy"]["MaximumBatchSize"])
    for size in sizes:
        if size["Type"] not in ("INSTANCE_COUNT", "CAPACITY_PERCENT"):
            raise ValidationException("A size's Type must be INSTANCE_COUNT or CAPACITY_PERCENT.")
        if size["Value"] < 1 or (size["Type"] == "CAPACITY_PERCENT" and size["Value"] > 100):
            raise ValidationException("A size's Value must be at least 1, and a percentage 100 at most.")
    return dict(deployment)


_PATH = "/endpoints/{endpoint}/guardrails"

OWN_CALLS = (
    OwnCall("GET", _PATH, get_guardrails),
    OwnCall("POST", _PATH, post_guardrails, body=frozenset({"deployment_config", "endpoint_config_name"})),
)
