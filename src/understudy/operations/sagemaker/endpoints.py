"""CreateEndpoint, DescribeEndpoint, ListEndpoints, DeleteEndpoint.

Owns the wishes "be there" and "be gone" in an endpoint's record, and how the record is told to
clients.  Control carries the wishes out; ``endpoint_updates`` owns the changes in between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from understudy.core.deployments import check_deployment
from understudy.core.endpoints import Endpoint, EndpointStatus, FleetVariant, PendingUpdate
from understudy.core.ports import Event, Put, Records, Stored
from understudy.operations.sagemaker.endpoint_configs import get_config
from understudy.operations.sagemaker.extensions import extensions_of
from understudy.operations.sagemaker.fleets import check_size, plan_fleet
from understudy.operations.sagemaker.listing import find_page
from understudy.operations.sagemaker.tags import changes_for_new, parse_tags
from understudy.operations.sagemaker.wording import (
    ENDPOINT,
    already_exists,
    could_not_find,
    in_progress,
    until_agreed,
)
from understudy.operations.services import Operation, Services
from understudy.operations.sts import caller_arn

LONGEST_REASON = 1024  # botocore: FailureReason

# As on AWS an endpoint that is being changed can't be deleted.
# Differs from AWS: one in SystemUpdating can.  Here that is an endpoint that comes back after a restart
# of the server; if its model can't start any more, deleting it must be possible.
UNDELETABLE = frozenset(
    {
        EndpointStatus.CREATING,
        EndpointStatus.UPDATING,
        EndpointStatus.ROLLING_BACK,
        EndpointStatus.DELETING,
    }
)

# VariantStatus of the new fleet, by the phase of its update.
_STAGES = {
    "preparing": "Creating",
    "shifting": "ActivatingTraffic",
    "baking": "Baking",
    "waiting": "Baking",
    "returning": "Deleting",
    "restoring": "Deleting",
}


def create_endpoint(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Wish for an endpoint; control brings its fleet up.

    Raises:
        ValidationException: the name is taken (also while the one before is Deleting), the
            configuration or one of its models is missing.
        ResourceLimitExceeded: it wants too many instances.
    """
    records, place = services.records, services.place
    name, config_name = request["EndpointName"], request["EndpointConfigName"]
    arn = place.arn("endpoint", name)

    def attempt() -> dict[str, Any]:
        if records.get(Endpoint, name) is not None:
            raise already_exists(ENDPOINT, arn)
        config = get_config(records, config_name, place.arn("endpoint-config", config_name))
        deployment = request.get("DeploymentConfig") or {}
        check_deployment(deployment)
        now_s = services.clock.now_s()
        fleet = check_size(plan_fleet(records, place, config, 1))
        endpoint = Endpoint(
            name=name,
            arn=arn,
            config_name=config_name,
            status=EndpointStatus.CREATING,
            created_at_s=now_s,
            modified_at_s=now_s,
            update=PendingUpdate("create", now_s, fleet, deployment, phase_at_s=now_s),
            next_fleet=2,
            extensions=extensions_of(ENDPOINT, parse_tags(request.get("Tags", []))),
            deployment_config=deployment or None,
        )
        records.commit(
            [
                Put(endpoint, 0),
                *changes_for_new(records, arn, request, now_s),
                Event(arn, "CreateRequested", now_s, {"config": config_name, "by": caller_arn(place)}),
            ]
        )
        return {"EndpointArn": arn}

    answer = until_agreed(attempt)
    services.nudge()
    return answer


def get_endpoint(records: Records, name: str, arn: str) -> Stored[Endpoint]:
    """Read an endpoint.

    Raises:
        ValidationException: it is not there; waiters read this as "deleted".
    """
    stored = records.get(Endpoint, name)
    if stored is None:
        raise could_not_find(ENDPOINT, arn)
    return stored


def describe_endpoint(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Tell what an endpoint is now and, while it is updated, what it is becoming."""
    name = request["EndpointName"]
    endpoint = get_endpoint(services.records, name, services.place.arn("endpoint", name)).value
    described: dict[str, Any] = {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointConfigName": endpoint.config_name,
        "EndpointStatus": str(endpoint.status),
        "CreationTime": endpoint.created_at_s,
        "LastModifiedTime": endpoint.modified_at_s,
    }
    # As AWS: nothing of the fleet is told before the endpoint has been in service.
    if endpoint.fleet is not None and endpoint.status is not EndpointStatus.CREATING:
        for member, shadow in (("ProductionVariants", False), ("ShadowProductionVariants", True)):
            variants = [_render_variant(one) for one in endpoint.fleet.variants if one.shadow is shadow]
            if variants:
                described[member] = variants
        if endpoint.fleet.data_capture is not None:
            described["DataCaptureConfig"] = _render_capture(endpoint.fleet.data_capture)
    if endpoint.failure_reason is not None:
        described["FailureReason"] = endpoint.failure_reason[:LONGEST_REASON]
    if endpoint.deployment_config and endpoint.status is not EndpointStatus.CREATING:
        described["LastDeploymentConfig"] = endpoint.deployment_config
    if endpoint.update is not None and endpoint.update.kind == "update" and endpoint.update.fleet is not None:
        described["PendingDeploymentSummary"] = _render_pending(endpoint.update)
    return described


def _render_variant(variant: FleetVariant) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "VariantName": variant.name,
        "CurrentWeight": variant.current_weight,
        "DesiredWeight": variant.desired_weight,
        "CurrentInstanceCount": variant.current_count,
        "DesiredInstanceCount": variant.desired_count,
    }
    if variant.images:
        rendered["DeployedImages"] = _render_images(variant)
    return rendered


def _render_images(variant: FleetVariant) -> list[dict[str, Any]]:
    return [
        {"SpecifiedImage": specified, "ResolvedImage": resolved, "ResolutionTime": at_s}
        for specified, resolved, at_s in variant.images
    ]


def _render_capture(capture: dict[str, Any]) -> dict[str, Any]:
    """Render what the serving fleet keeps; KmsKeyId is left out where there is none, as on AWS."""
    enabled = capture.get("EnableCapture", True)
    return {
        "EnableCapture": enabled,
        "CaptureStatus": "Started" if enabled else "Stopped",
        "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
        "DestinationS3Uri": capture["DestinationS3Uri"],
    }


def _render_pending(update: PendingUpdate) -> dict[str, Any]:
    """Render the fleet that comes up, with the stage of its deployment."""
    assert update.fleet is not None
    stage = {
        "Status": _STAGES[update.phase],
        "StartTime": update.phase_at_s,
        "StatusMessage": _message(update),
    }
    summary: dict[str, Any] = {
        "EndpointConfigName": update.fleet.config_name,
        "StartTime": update.requested_at_s,
    }
    for member, shadow in (("ProductionVariants", False), ("ShadowProductionVariants", True)):
        variants = []
        for variant in update.fleet.variants:
            if variant.shadow is not shadow:
                continue
            rendered = {
                "VariantName": variant.name,
                "DesiredWeight": variant.desired_weight,
                "DesiredInstanceCount": variant.desired_count,
                "InstanceType": variant.instance_type,
                "VariantStatus": [stage],
            }
            if update.step > 0:  # before, it has no weight and no instance that answers
                rendered["CurrentWeight"] = variant.current_weight
                rendered["CurrentInstanceCount"] = variant.current_count
            if variant.images:
                rendered["DeployedImages"] = _render_images(variant)
            variants.append(rendered)
        if variants:
            summary[member] = variants
    return summary


def _message(update: PendingUpdate) -> str:
    """Say in words how far the update is."""
    told = f"{round(update.share * 100.0, 2):g} % of the traffic goes to the new fleet."
    if update.rollback_reason is not None:
        return f"{told} Rolling back: {update.rollback_reason}"[:LONGEST_REASON]
    return told


def list_endpoints(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List endpoints, newest first unless told otherwise."""
    page, token = find_page(services.records, Endpoint, request)
    summaries = [
        {
            "EndpointName": one.value.name,
            "EndpointArn": one.value.arn,
            "CreationTime": one.value.created_at_s,
            "LastModifiedTime": one.value.modified_at_s,
            "EndpointStatus": str(one.value.status),
        }
        for one in page
    ]
    listed: dict[str, Any] = {"Endpoints": summaries}
    return listed if token is None else {**listed, "NextToken": token}


def delete_endpoint(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Wish an endpoint gone; control takes it out of the routes, drains and stops it, then forgets it.

    Raises:
        ValidationException: it is not there, or another operation is changing it.
    """
    records, name = services.records, request["EndpointName"]
    arn = services.place.arn("endpoint", name)

    def attempt() -> dict[str, Any]:
        stored = get_endpoint(records, name, arn)
        endpoint = stored.value
        if endpoint.status in UNDELETABLE:
            raise in_progress(arn)
        now_s = services.clock.now_s()
        deleting = replace(
            endpoint,
            status=EndpointStatus.DELETING,
            modified_at_s=now_s,
            update=PendingUpdate("delete", now_s, phase="shifting", phase_at_s=now_s),
        )
        records.commit(
            [
                Put(deleting, stored.version),
                Event(
                    arn,
                    "DeleteRequested",
                    now_s,
                    {"status": str(endpoint.status), "by": caller_arn(services.place)},
                ),
            ]
        )
        return {}

    answer = until_agreed(attempt)
    services.nudge()
    return answer


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sagemaker", "CreateEndpoint"): create_endpoint,
    ("sagemaker", "DescribeEndpoint"): describe_endpoint,
    ("sagemaker", "ListEndpoints"): list_endpoints,
    ("sagemaker", "DeleteEndpoint"): delete_endpoint,
}
