"""CreateEndpointConfig, DescribeEndpointConfig, ListEndpointConfigs, DeleteEndpointConfig.

Owns the rules between a configuration's members; a weight that was not given is kept as 1.0.
Refuses what this version does not carry out (``unsupported``).

A sum of weights of 0 is accepted: such an endpoint answers requests that name a TargetVariant.

Shadows: one beside one production variant, as on AWS, or any number of both with the tag
``understudy:shadows=many``.  A shadow's weight over the sum of production's is its sampling share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from understudy.core.endpoints import EndpointConfig
from understudy.core.errors import ApiError, ValidationException
from understudy.core.models import Model
from understudy.core.ports import Event, Objects, Put, Records
from understudy.core.routing import noise_name
from understudy.operations.s3.guard import check_bucket_name
from understudy.operations.sagemaker.echo import kept_members
from understudy.operations.sagemaker.extensions import extensions_of
from understudy.operations.sagemaker.listing import find_page
from understudy.operations.sagemaker.removal import remove
from understudy.operations.sagemaker.tags import changes_for_new, parse_tags
from understudy.operations.sagemaker.unsupported import refuse_unsupported
from understudy.operations.sagemaker.wording import (
    CONFIG,
    MODEL,
    already_exists,
    could_not_find,
    until_agreed,
)
from understudy.operations.services import Operation, Services

DEFAULT_WEIGHT = 1.0  # botocore, InitialVariantWeight: "If unspecified, it defaults to 1.0."


def create_endpoint_config(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Keep an endpoint configuration.

    Raises:
        ValidationException: the name is taken, a model is missing, or members contradict each other.
    """
    records, name = services.records, request["EndpointConfigName"]
    arn = services.place.arn("endpoint-config", name)

    def attempt() -> dict[str, Any]:
        if records.get(EndpointConfig, name) is not None:
            raise already_exists(CONFIG, arn)
        refuse_unsupported("endpoint configuration", request, "")
        extensions = extensions_of(CONFIG, parse_tags(request.get("Tags", [])))
        _check_variants(request, many_shadows=extensions.get("shadows") == "many")
        for variant in (*request["ProductionVariants"], *request.get("ShadowProductionVariants", [])):
            if records.get(Model, variant["ModelName"]) is None:
                raise could_not_find(MODEL, services.place.arn("model", variant["ModelName"]))
        check_capture(services.objects, request.get("DataCaptureConfig", {}))
        check_noise(request, extensions)
        now_s = services.clock.now_s()
        records.commit(
            [
                Put(EndpointConfig(name, arn, _filled_in(request), now_s, now_s, extensions), 0),
                *changes_for_new(records, arn, request, now_s),
                Event(arn, "EndpointConfigCreated", now_s),
            ]
        )
        return {"EndpointConfigArn": arn}

    return until_agreed(attempt)


def _filled_in(request: dict[str, Any]) -> dict[str, Any]:
    """Say what to keep of a request: its members but the tags, with defaults."""
    kept = kept_members(request)
    for member in ("ProductionVariants", "ShadowProductionVariants"):
        if member in kept:
            kept[member] = [{"InitialVariantWeight": DEFAULT_WEIGHT, **variant} for variant in kept[member]]
    if "DataCaptureConfig" in kept:
        kept["DataCaptureConfig"] = {"EnableCapture": True, **kept["DataCaptureConfig"]}
    return kept


def _check_variants(request: dict[str, Any], *, many_shadows: bool) -> None:
    production, shadows = request["ProductionVariants"], request.get("ShadowProductionVariants", [])
    if shadows and not many_shadows and (len(production) > 1 or len(shadows) > 1):
        # The first sentence is botocore's, of ShadowProductionVariants.
        raise ValidationException(
            "If you use ShadowProductionVariants, you can only specify one variant for ProductionVariants "
            "and one variant for ShadowProductionVariants. The tag understudy:shadows=many on the endpoint "
            "configuration allows more."
        )
    seen: set[str] = set()
    for member, variants in (("ProductionVariants", production), ("ShadowProductionVariants", shadows)):
        for number, variant in enumerate(variants, start=1):
            _check_variant(variant, f"{member}.{number}.member")
            if variant["VariantName"] in seen:
                raise ValidationException(
                    "Variant names must be unique within an endpoint configuration: "
                    f"{variant['VariantName']}."
                )
            seen.add(variant["VariantName"])
    check_weights(variant.get("InitialVariantWeight", DEFAULT_WEIGHT) for variant in (*production, *shadows))


def _check_variant(variant: dict[str, Any], path: str) -> None:
    refuse_unsupported("production variant", variant, path)
    if not variant.get("ModelName"):
        raise ValidationException(
            f"{path}.ModelName is required: endpoints of inference components are not supported yet."
        )
    for member in ("InstanceType", "InitialInstanceCount"):
        if member not in variant:
            raise ValidationException(f"{path}.{member} is required for variant {variant['VariantName']}.")


def check_capture(
    objects: Objects, capture: dict[str, Any], member: str = "DataCaptureConfig.DestinationS3Uri"
) -> None:
    """Refuse a capture whose records could never arrive.

    Differs from AWS: the bucket must be there, so that a mistyped one is found out before the data is missed.

    Args:
        capture: DataCaptureConfig by wire names; empty: none.
        member: What the caller calls the destination.
    Raises:
        ValidationException: the destination is no S3 URI, or its bucket does not exist.
    """
    refuse_unsupported("data capture", capture, "DataCaptureConfig")
    if not capture or not capture.get("EnableCapture", True):
        return
    destination = capture["DestinationS3Uri"]
    bucket, _, prefix = destination.removeprefix("s3://").partition("/")
    if not destination.startswith("s3://") or not bucket or not prefix.isprintable():
        raise ValidationException(f"{member} must be s3://BUCKET/PREFIX, not {destination!r}.")
    try:
        check_bucket_name(bucket)
        objects.list(bucket, limit=1)
    except ApiError as error:
        if error.code == "InvalidBucketName":
            raise ValidationException(f"{member}: {bucket} can't be the name of a bucket.") from error
        if error.status != 404:
            raise
        raise ValidationException(f"{member}: bucket {bucket} does not exist; create it first.") from error


def check_noise(request: dict[str, Any], extensions: Mapping[str, str]) -> None:
    """Refuse second answers that nobody could ever compare.

    Args:
        request: Variants and DataCaptureConfig by wire names.
        extensions: The resource's.
    Raises:
        ValidationException: answers are not captured, or a variant has the name of another one's noise.
    """
    if extensions.get("noise-percent", "0") == "0":
        return
    capture = request.get("DataCaptureConfig", {})
    modes = {option["CaptureMode"] for option in capture.get("CaptureOptions", ())}
    if not capture.get("EnableCapture", True) or not modes & {"Output", "InputAndOutput"}:
        raise ValidationException(
            "The tag understudy:noise-percent needs data capture with Output in its CaptureOptions: second "
            "answers are there to be compared."
        )
    production = request.get("ProductionVariants", ())
    names = {one["VariantName"] for one in (*production, *request.get("ShadowProductionVariants", ()))}
    for variant in production:
        if noise_name(variant["VariantName"]) in names:
            raise ValidationException(
                f"With the tag understudy:noise-percent no variant can be called "
                f"{noise_name(variant['VariantName'])}: second answers of {variant['VariantName']} are."
            )


def check_weights(weights: Iterable[float]) -> None:
    """Refuse weights whose shares can't be computed.

    Raises:
        ValidationException: one is not finite, or their sum isn't.
    """
    total = sum(weights)
    if not math.isfinite(total):
        raise ValidationException("Variant weights, and their sum, must be finite numbers.")


def get_config(records: Records, name: str, arn: str) -> EndpointConfig:
    """Read a configuration.

    Raises:
        ValidationException: it is not there.
    """
    stored = records.get(EndpointConfig, name)
    if stored is None:
        raise could_not_find(CONFIG, arn)
    return stored.value


def describe_endpoint_config(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Echo a configuration with its defaults filled in."""
    name = request["EndpointConfigName"]
    config = get_config(services.records, name, services.place.arn("endpoint-config", name))
    return {
        "EnableNetworkIsolation": False,
        **config.request,
        "EndpointConfigArn": config.arn,
        "CreationTime": config.created_at_s,
    }


def list_endpoint_configs(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List configurations, newest first unless told otherwise."""
    page, token = find_page(services.records, EndpointConfig, request)
    summaries = [
        {
            "EndpointConfigName": one.value.name,
            "EndpointConfigArn": one.value.arn,
            "CreationTime": one.value.created_at_s,
        }
        for one in page
    ]
    listed: dict[str, Any] = {"EndpointConfigs": summaries}
    return listed if token is None else {**listed, "NextToken": token}


def delete_endpoint_config(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Forget a configuration; an endpoint holds a copy, also while it is being created or updated."""
    name = request["EndpointConfigName"]
    arn = services.place.arn("endpoint-config", name)
    return remove(services, EndpointConfig, CONFIG, name=name, arn=arn, event="EndpointConfigDeleted")


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sagemaker", "CreateEndpointConfig"): create_endpoint_config,
    ("sagemaker", "DescribeEndpointConfig"): describe_endpoint_config,
    ("sagemaker", "ListEndpointConfigs"): list_endpoint_configs,
    ("sagemaker", "DeleteEndpointConfig"): delete_endpoint_config,
}
