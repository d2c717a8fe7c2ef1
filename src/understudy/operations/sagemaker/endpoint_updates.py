"""UpdateEndpoint and UpdateEndpointWeightsAndCapacities: wishes to change an endpoint that serves.

Owns the rules of who may change what; control carries the change out and the old fleet serves on
until it is done.  One change at a time: the second of two gets AWS's refusal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from understudy.core.deployments import ALL_AT_ONCE, check_deployment, check_sizes, plan_of
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.errors import ApiError, ValidationException
from understudy.core.fleets import retain_properties, told_variants, wish_variants
from understudy.core.ports import Event, Put
from understudy.operations.guardrails import events_for
from understudy.operations.sagemaker.endpoint_configs import check_weights, get_config
from understudy.operations.sagemaker.endpoints import get_endpoint
from understudy.operations.sagemaker.fleets import check_alarms, check_size, plan_fleet
from understudy.operations.sagemaker.unsupported import refuse_unsupported
from understudy.operations.sagemaker.wording import in_progress, until_agreed
from understudy.operations.services import Operation, Services
from understudy.operations.sts import caller_arn

log = logging.getLogger(__name__)

_CHANGING = frozenset(
    {
        EndpointStatus.CREATING,
        EndpointStatus.UPDATING,
        EndpointStatus.SYSTEM_UPDATING,
        EndpointStatus.ROLLING_BACK,
        EndpointStatus.DELETING,
    }
)


def _change(
    services: Services,
    name: str,
    event: str,
    plan: Callable[[Endpoint, Fleet], tuple[Endpoint, dict[str, Any]]],
    *,
    remedies: bool = False,
) -> dict[str, Any]:
    """Move a serving endpoint to Updating.

    Args:
        remedies: An endpoint in UpdateRollbackFailed may be changed so too.
        plan: From the endpoint and its serving fleet to the endpoint with the wish in it, and facts for
            the audit trail; raises what it refuses.
    """
    arn = services.place.arn("endpoint", name)

    def attempt() -> dict[str, Any]:
        stored = get_endpoint(services.records, name, arn)
        endpoint = stored.value
        if endpoint.status in _CHANGING:
            raise in_progress(arn)
        mixed = endpoint.status is EndpointStatus.UPDATE_ROLLBACK_FAILED
        if mixed and not remedies:
            raise ValidationException(
                f'Cannot update endpoint "{arn}" in status {endpoint.status}: update it to one endpoint '
                "configuration first, with UpdateEndpoint."
            )
        if (endpoint.status is not EndpointStatus.IN_SERVICE and not mixed) or endpoint.fleet is None:
            raise ValidationException(
                f'Cannot update endpoint "{arn}" in status {endpoint.status}: delete it and create it again.'
            )
        planned, detail = plan(endpoint, endpoint.fleet)
        now_s = services.clock.now_s()
        updating = replace(planned, status=EndpointStatus.UPDATING, modified_at_s=now_s, failure_reason=None)
        told = {**detail, "by": caller_arn(services.place)}
        services.records.commit([Put(updating, stored.version), Event(arn, event, now_s, told)])
        return {"EndpointArn": arn}

    answer = until_agreed(attempt)
    services.nudge()
    return answer


def update_endpoint(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Wish that an endpoint serves another configuration: a green fleet beside the blue one.

    Naming the configuration that already serves is accepted and brings up a fresh fleet of it.

    Raises:
        ValidationException: the endpoint is missing or can't be updated now, the configuration or a model of
            it is missing, the DeploymentConfig contradicts itself or the fleets, or an alarm of it is missing
            or in ALARM.
    """
    config_name = request["EndpointConfigName"]
    excluded = {one["VariantPropertyType"] for one in request.get("ExcludeRetainedVariantProperties", [])}
    retain = request.get("RetainAllVariantProperties", False)

    def plan(endpoint: Endpoint, serving: Fleet) -> tuple[Endpoint, dict[str, Any]]:
        place = services.place
        config = get_config(services.records, config_name, place.arn("endpoint-config", config_name))
        deployment = request.get("DeploymentConfig") or {}
        if not deployment and request.get("RetainDeploymentConfig", False):
            deployment = endpoint.deployment_config or {}
        fleet = plan_fleet(services.records, place, config, endpoint.next_fleet)
        if retain:
            fleet = retain_properties(fleet, serving, excluded)
        check_size(fleet)
        check_deployment(deployment)
        check_sizes(deployment, fleet, serving)
        if endpoint.mix is not None and plan_of(deployment).kind != ALL_AT_ONCE:
            raise ValidationException(
                f'Endpoint "{endpoint.arn}" serves a mix of two endpoint configurations: only an update of '
                f"traffic routing type {ALL_AT_ONCE} can replace both."
            )
        check_alarms(services.records, deployment)
        now_s = services.clock.now_s()
        wished = replace(
            endpoint,
            update=PendingUpdate("update", now_s, fleet, deployment, phase_at_s=now_s),
            next_fleet=endpoint.next_fleet + 1,
            # Kept whatever becomes of the update: the next one may ask for the same way.
            deployment_config=deployment or endpoint.deployment_config,
        )
        detail = {"from": endpoint.config_name, "to": config_name, "deployment_config": deployment}
        return wished, detail

    answer = _change(services, request["EndpointName"], "UpdateRequested", plan, remedies=True)
    _tell_guardrails(services, request["EndpointName"])
    return answer


def _tell_guardrails(services: Services, name: str) -> None:
    """Write down what the linter finds in the alarms of an update that has begun: advice, no condition."""
    stored = services.records.get(Endpoint, name)
    update = None if stored is None else stored.value.update
    if (
        stored is None
        or update is None
        or update.fleet is None
        or not plan_of(update.deployment_config).alarms
    ):
        return
    now_s = services.clock.now_s()
    try:
        services.records.commit(
            events_for(services, stored.value, update.deployment_config, update.fleet.config_name, now_s)
        )
    except ApiError as error:
        log.warning("guardrails of %s: findings can't be kept: %s", name, error.message)


def update_endpoint_weights_and_capacities(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Wish for other weights or instance counts; a weight of 0.0 is a weight.

    Differs from AWS: the counts of several variants may change in one call; a count of 0 is refused,
    as nothing here could serve the variant's share.

    Raises:
        ValidationException: an unknown or repeated variant, an entry without a wish, a weight that is not
            finite, an endpoint that is missing or not InService.
    """
    wishes: dict[str, dict[str, Any]] = {}
    for number, wish in enumerate(request["DesiredWeightsAndCapacities"], start=1):
        path = f"DesiredWeightsAndCapacities.{number}.member"
        refuse_unsupported("desired weight and capacity", wish, path)
        name = wish["VariantName"]
        if name in wishes:
            raise ValidationException(f"Variant {name} is named more than once.")
        if wish.get("DesiredWeight") is None and wish.get("DesiredInstanceCount") is None:
            raise ValidationException(
                f"{path}: DesiredWeight or DesiredInstanceCount is required for {name}."
            )
        if wish.get("DesiredInstanceCount") == 0:
            raise ValidationException(
                f"{path}.DesiredInstanceCount must be at least 1; a weight of 0 sends {name} no requests."
            )
        wishes[name] = wish

    def plan(endpoint: Endpoint, serving: Fleet) -> tuple[Endpoint, dict[str, Any]]:
        unknown = wishes.keys() - {variant.name for variant in serving.variants}
        if unknown:
            raise ValidationException(
                f'Could not find variant "{min(unknown)}" of endpoint "{endpoint.arn}".'
            )
        variants = tuple(_wished(variant, wishes.get(variant.name, {})) for variant in serving.variants)
        check_weights(variant.desired_weight for variant in variants)
        fleet = check_size(replace(serving, variants=variants))
        wished = wish_variants(endpoint, fleet, services.clock.now_s())
        return wished, {"from": told_variants(serving), "to": told_variants(fleet)}

    return _change(services, request["EndpointName"], "WeightsRequested", plan)


def _wished(variant: FleetVariant, wish: dict[str, Any]) -> FleetVariant:
    weight, count = wish.get("DesiredWeight"), wish.get("DesiredInstanceCount")
    return replace(
        variant,
        desired_weight=variant.desired_weight if weight is None else float(weight),
        desired_count=variant.desired_count if count is None else count,
    )


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sagemaker", "UpdateEndpoint"): update_endpoint,
    ("sagemaker", "UpdateEndpointWeightsAndCapacities"): update_endpoint_weights_and_capacities,
}
