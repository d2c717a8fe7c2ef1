"""CreateModel, DescribeModel, ListModels, DeleteModel.

Owns the rules between a model's members, and that its artifact is there.
Refuses what no runtime of this version can start (``unsupported``).
"""

from __future__ import annotations

from typing import Any

from understudy.core.errors import ApiError, ValidationException
from understudy.core.models import Model, containers_of
from understudy.core.ports import Event, Objects, Put
from understudy.operations.sagemaker.echo import kept_members
from understudy.operations.sagemaker.listing import find_page
from understudy.operations.sagemaker.removal import remove
from understudy.operations.sagemaker.tags import changes_for_new
from understudy.operations.sagemaker.unsupported import refuse_unsupported
from understudy.operations.sagemaker.wording import MODEL, already_exists, could_not_find, until_agreed
from understudy.operations.services import Operation, Services


def create_model(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Keep a model.

    Raises:
        ValidationException: the name is taken, members contradict each other, or the artifact is missing.
    """
    records, name = services.records, request["ModelName"]
    arn = services.place.arn("model", name)

    def attempt() -> dict[str, Any]:
        if records.get(Model, name) is not None:
            raise already_exists(MODEL, arn)
        _check_containers(request)
        _check_artifacts(services.objects, request)
        now_s = services.clock.now_s()
        kept = kept_members(request)
        records.commit(
            [
                Put(Model(name, arn, kept, now_s, now_s), 0),
                *changes_for_new(records, arn, request, now_s),
                Event(arn, "ModelCreated", now_s),
            ]
        )
        return {"ModelArn": arn}

    return until_agreed(attempt)


def _check_containers(request: dict[str, Any]) -> None:
    primary, several = request.get("PrimaryContainer"), request.get("Containers") or []
    if (primary is not None) == bool(several):
        raise ValidationException(
            "Either PrimaryContainer or Containers must be specified"
            + (", not both." if several else ": the model has no container.")
        )
    definitions = {"PrimaryContainer": primary} if primary is not None else {}
    definitions |= {f"Containers.{n}.member": one for n, one in enumerate(several, start=1)}
    for path, definition in definitions.items():
        refuse_unsupported("container", definition, path)
        if not definition.get("Image"):
            raise ValidationException(f"{path}.Image is required: name the container's image.")
        source = definition.get("ModelDataSource")
        if source is not None:
            if "ModelDataUrl" in definition:
                raise ValidationException(f"{path}: ModelDataUrl and ModelDataSource exclude each other.")
            if "S3DataSource" not in source:
                raise ValidationException(f"{path}.ModelDataSource.S3DataSource is required.")
            refuse_unsupported("S3DataSource", source["S3DataSource"], f"{path}.ModelDataSource.S3DataSource")
    _check_hostnames([one.get("ContainerHostname") for one in several], request)


def _check_hostnames(hostnames: list[str | None], request: dict[str, Any]) -> None:
    named = [hostname for hostname in hostnames if hostname]
    direct = request.get("InferenceExecutionConfig", {}).get("Mode") == "Direct"
    if len(named) != len(hostnames) and (named or (direct and len(hostnames) > 1)):
        raise ValidationException(
            "Every container needs a ContainerHostname "
            + ("in Direct mode." if direct else "when one of them has one.")
        )
    if len(set(named)) != len(named):
        raise ValidationException(f"ContainerHostnames must be unique: {', '.join(named)}.")


def _check_artifacts(objects: Objects, request: dict[str, Any]) -> None:
    """Find each ``s3://`` artifact; how it is fetched and unpacked is the runtime's business."""
    for container in containers_of(request):
        url = container.model_data_url
        if url is None or not url.startswith("s3://"):
            continue
        bucket, _, key = url.removeprefix("s3://").partition("/")
        try:
            if container.compressed:
                objects.head(bucket, key)
                continue
            found = bool(objects.list(bucket, key, limit=1))
        except ApiError as error:
            if error.status != 404:
                raise
            found = False
        if not found:
            raise ValidationException(f"Could not find model data at {url}.")


def describe_model(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Echo a model."""
    stored = services.records.get(Model, request["ModelName"])
    if stored is None:
        raise could_not_find(MODEL, services.place.arn("model", request["ModelName"]))
    model = stored.value
    return {
        "EnableNetworkIsolation": False,
        **model.request,
        "ModelArn": model.arn,
        "CreationTime": model.created_at_s,
    }


def list_models(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List models, newest first unless told otherwise."""
    page, token = find_page(services.records, Model, request)
    summaries = [
        {"ModelName": one.value.name, "ModelArn": one.value.arn, "CreationTime": one.value.created_at_s}
        for one in page
    ]
    return {"Models": summaries} if token is None else {"Models": summaries, "NextToken": token}


def delete_model(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Forget a model; endpoints keep copies, so one that serves it serves on."""
    name = request["ModelName"]
    arn = services.place.arn("model", name)
    return remove(services, Model, MODEL, name=name, arn=arn, event="ModelDeleted")


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sagemaker", "CreateModel"): create_model,
    ("sagemaker", "DescribeModel"): describe_model,
    ("sagemaker", "ListModels"): list_models,
    ("sagemaker", "DeleteModel"): delete_model,
}
