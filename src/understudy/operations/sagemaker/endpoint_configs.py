"""CreateEndpointConfig, DescribeEndpointConfig, ListEndpointConfigs, DeleteEndpointConfig.

Owns the rules between a configuration's members; a weight that was not given is kept as 1.0.
Refuses what this version does not carry out (``unsupported``).

A sum of weights of 0 is accepted: such an endpoint answers requests that name a TargetVariant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from understudy.core.endpoints import EndpointConfig
from understudy.core.errors import ValidationException
from understudy.core.models import Model
from understudy.core.ports import Delete, Event, Put, Records
from understudy.operations.sagemaker.echo import kept_members
from understudy.operations.sagemaker.listing import find_page
from understudy.operations.sagemaker.tags import changes_for_deleted, changes_for_new
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
        variants = request["ProductionVariants"]
        _check_variants(variants)
        for variant in variants:
            if records.get(Model, variant["ModelName"]) is None:
                raise could_not_find(MODEL, services.place.arn("model", variant["ModelName"]))
        now_s = services.clock.now_s()
        kept = kept_members(request)
        kept["ProductionVariants"] = [
            {"InitialVariantWeight": DEFAULT_WEIGHT, **variant} for variant in variants
        ]
        records.commit(
            [
                Put(EndpointConfig(name, arn, kept, now_s, now_s), 0),
                *changes_for_new(records, arn, request, now_s),
                Event(arn, "EndpointConfigCreated", now_s),
            ]
        )
        return {"EndpointConfigArn": arn}

    return until_agreed(attempt)


def _check_variants(variants: list[dict[str, Any]]) -> None:
    seen: set[str] = set()
    for number, variant in enumerate(variants, start=1):
        path = f"ProductionVariants.{number}.member"
        refuse_unsupported("production variant", variant, path)
        if not variant.get("ModelName"):
            raise ValidationException(
                f"{path}.ModelName is required: endpoints of inference components are not supported yet."
            )
        for member in ("InstanceType", "InitialInstanceCount"):
            if member not in variant:
                raise ValidationException(
                    f"{path}.{member} is required for variant {variant['VariantName']}."
                )
        if variant["VariantName"] in seen:
            raise ValidationException(
                f"Variant names must be unique within an endpoint configuration: {variant['VariantName']}."
            )
        seen.add(variant["VariantName"])
    check_weights(variant.get("InitialVariantWeight", DEFAULT_WEIGHT) for variant in variants)


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
    records, name = services.records, request["EndpointConfigName"]
    arn = services.place.arn("endpoint-config", name)

    def attempt() -> dict[str, Any]:
        stored = records.get(EndpointConfig, name)
        if stored is None:
            raise could_not_find(CONFIG, arn)
        records.commit(
            [
                Delete(EndpointConfig, name, stored.version),
                *changes_for_deleted(records, arn),
                Event(arn, "EndpointConfigDeleted", services.clock.now_s()),
            ]
        )
        return {}

    return until_agreed(attempt)


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sagemaker", "CreateEndpointConfig"): create_endpoint_config,
    ("sagemaker", "DescribeEndpointConfig"): describe_endpoint_config,
    ("sagemaker", "ListEndpointConfigs"): list_endpoint_configs,
    ("sagemaker", "DeleteEndpointConfig"): delete_endpoint_config,
}
