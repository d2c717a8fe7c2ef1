"""How a managed shadow test is told to clients.

Main functions: :func:`describe`, :func:`summarize`.  Source: botocore's InferenceExperiment shapes.
"""

from __future__ import annotations

from typing import Any

from understudy.core.endpoints import Endpoint
from understudy.core.experiments import ExperimentStatus, InferenceExperiment, VariantAction

LONGEST_REASON = 1024  # botocore: InferenceExperimentStatusReason, FailureReason


def summarize(experiment: InferenceExperiment) -> dict[str, Any]:
    """Render what ListInferenceExperiments tells of a test."""
    summary: dict[str, Any] = {
        "Name": experiment.name,
        "Type": experiment.request["Type"],
        "Schedule": {"StartTime": experiment.starts_at_s, "EndTime": experiment.ends_at_s},
        "Status": str(experiment.status),
        "CreationTime": experiment.created_at_s,
        "LastModifiedTime": experiment.modified_at_s,
        "RoleArn": experiment.request["RoleArn"],
    }
    if experiment.completed_at_s is not None:
        summary["CompletionTime"] = experiment.completed_at_s
    if experiment.status_reason:
        summary["StatusReason"] = experiment.status_reason[:LONGEST_REASON]
    if "Description" in experiment.request:
        summary["Description"] = experiment.request["Description"]
    return summary


def describe(experiment: InferenceExperiment, endpoint: Endpoint | None) -> dict[str, Any]:
    """Render all of a test.

    Args:
        endpoint: The endpoint of its name as it is now, if there is one.
    """
    described = {
        **summarize(experiment),
        "Arn": experiment.arn,
        "EndpointMetadata": _endpoint(experiment, endpoint),
        "ModelVariants": [
            {**variant, "Status": _variant_status(experiment, variant["VariantName"])}
            for variant in experiment.request["ModelVariants"]
        ],
        "ShadowModeConfig": experiment.request["ShadowModeConfig"],
    }
    if "DataStorageConfig" in experiment.request:
        described["DataStorageConfig"] = experiment.request["DataStorageConfig"]
    return described


def _endpoint(experiment: InferenceExperiment, endpoint: Endpoint | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"EndpointName": experiment.endpoint_name}
    if endpoint is not None:
        metadata["EndpointConfigName"] = endpoint.config_name
        metadata["EndpointStatus"] = str(endpoint.status)
        if endpoint.failure_reason is not None:
            metadata["FailureReason"] = endpoint.failure_reason[:LONGEST_REASON]
    return metadata


def _variant_status(experiment: InferenceExperiment, name: str) -> str:
    """Tell where a variant is: Creating, Updating, InService, Deleting or Deleted."""
    status, is_shadow = experiment.status, name == experiment.shadow_name
    if status in (ExperimentStatus.CREATING, ExperimentStatus.CREATED, ExperimentStatus.STARTING):
        if is_shadow or experiment.status is ExperimentStatus.CREATING:
            return "Creating"
        return "Updating" if status is ExperimentStatus.STARTING else "InService"
    if status in (ExperimentStatus.RUNNING, ExperimentStatus.UPDATING):
        return "Updating" if is_shadow and status is ExperimentStatus.UPDATING else "InService"
    removed = is_shadow
    if experiment.stop is not None:
        action = experiment.stop.shadow if is_shadow else experiment.stop.production
        removed = action is VariantAction.REMOVE
    if status is ExperimentStatus.STOPPING:
        return "Deleting" if removed else "Updating"
    return "Deleted" if removed else "InService"
