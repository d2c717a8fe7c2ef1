"""From an endpoint configuration and its models to the fleet that carries it out.

Owns how a configuration's members become a :class:`Fleet`, capture included, and what of a serving fleet
an update may keep.  Refuses nothing: the configuration was checked when it was accepted.

Main functions: :func:`fleet_of`, :func:`retain_properties`, :func:`wish_variants`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from understudy.core.endpoints import Endpoint, EndpointConfig, Fleet, FleetVariant, PendingUpdate
from understudy.core.models import Model, containers_of
from understudy.core.routing import CaptureRoute

# botocore, ProductionVariant: AWS's defaults where a variant names none (startup: the container contract).
STARTUP_TIMEOUT_S = 240
DOWNLOAD_TIMEOUT_S = 3600


def models_of(config: EndpointConfig) -> list[str]:
    """Name the models of a configuration, production's first."""
    return [variant["ModelName"] for _, variant in _variants_of(config)]


def fleet_of(config: EndpointConfig, models: Mapping[str, Model], number: int) -> Fleet:
    """Copy all that a fleet needs out of its configuration and models.

    Args:
        models: By name; every one of :func:`models_of`.
        number: The fleet's, unique within the endpoint.
    """
    data_capture = config.request.get("DataCaptureConfig")
    return Fleet(
        fleet_id=f"f{number}",
        config_name=config.name,
        variants=tuple(
            _variant(
                variant,
                models[variant["ModelName"]],
                shadow=shadow,
                cpu_percent=int(config.extensions.get("shadow-cpu-percent", "0")) if shadow else 0,
            )
            for shadow, variant in _variants_of(config)
        ),
        capture=capture_of(config),
        data_capture=data_capture,
        noise_percent=int(config.extensions.get("noise-percent", "0")),
    )


def _variants_of(config: EndpointConfig) -> Iterable[tuple[bool, dict[str, Any]]]:
    """Yield (is it a shadow, variant by wire names)."""
    for variant in config.request["ProductionVariants"]:
        yield False, variant
    for variant in config.request.get("ShadowProductionVariants", []):
        yield True, variant


def _variant(variant: dict[str, Any], model: Model, *, shadow: bool, cpu_percent: int) -> FleetVariant:
    weight = float(variant["InitialVariantWeight"])
    return FleetVariant(
        name=variant["VariantName"],
        model_name=variant["ModelName"],
        containers=containers_of(model.request),
        instance_type=variant["InstanceType"],
        direct=model.request.get("InferenceExecutionConfig", {}).get("Mode") == "Direct",
        desired_weight=weight,
        current_weight=weight,
        desired_count=variant["InitialInstanceCount"],
        startup_timeout_s=variant.get("ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_TIMEOUT_S),
        download_timeout_s=variant.get("ModelDataDownloadTimeoutInSeconds", DOWNLOAD_TIMEOUT_S),
        shadow=shadow,
        cpu_percent=cpu_percent,
    )


def capture_of(config: EndpointConfig) -> CaptureRoute | None:
    """Say what routers keep under this configuration; None: nothing, or capture is switched off."""
    wished = config.request.get("DataCaptureConfig")
    if wished is None or not wished.get("EnableCapture", True):
        return None
    modes = {option["CaptureMode"] for option in wished["CaptureOptions"]}
    types = wished.get("CaptureContentTypeHeader", {})
    return CaptureRoute(
        destination=wished["DestinationS3Uri"].rstrip("/"),
        sampling_percent=float(wished["InitialSamplingPercentage"]),
        inputs=bool(modes & {"Input", "InputAndOutput"}),
        outputs=bool(modes & {"Output", "InputAndOutput"}),
        csv_types=tuple(types.get("CsvContentTypes", ())),
        json_types=tuple(types.get("JsonContentTypes", ())),
        durable=config.extensions.get("capture") == "durable",
    )


def retain_properties(fleet: Fleet, serving: Fleet, excluded: Collection[str]) -> Fleet:
    """Keep weights and counts that were changed since the serving fleet's configuration was made.

    A variant keeps them while it keeps its part: a shadow's weight is a sampling share and says nothing
    about the production variant that it is promoted to.

    Args:
        fleet: The new one; variants that ``serving`` has not are left as configured.
        excluded: VariantPropertyTypes to reset: ``DesiredInstanceCount``, ``DesiredWeight``;
            ``DataCaptureConfig`` is always the new one's, as on AWS.
    """
    before = {(variant.name, variant.shadow): variant for variant in serving.variants}
    variants = []
    for variant in fleet.variants:
        kept = before.get((variant.name, variant.shadow))
        if kept is not None and "DesiredWeight" not in excluded:
            variant = replace(variant, desired_weight=kept.desired_weight, current_weight=kept.desired_weight)
        if kept is not None and "DesiredInstanceCount" not in excluded:
            variant = replace(variant, desired_count=kept.desired_count)
        variants.append(variant)
    return replace(fleet, variants=tuple(variants))


def wish_variants(endpoint: Endpoint, fleet: Fleet, now_s: float) -> Endpoint:
    """Wish that an endpoint's fleet has other weights or counts; control carries it out.

    Args:
        fleet: The one that serves, with the wished weights and counts.
    """
    return replace(endpoint, fleet=fleet, update=PendingUpdate("weights", now_s, phase_at_s=now_s))


def told_variants(fleet: Fleet) -> dict[str, Any]:
    """Render a fleet's wished weights and counts for the audit trail."""
    return {
        variant.name: {"weight": variant.desired_weight, "instances": variant.desired_count}
        for variant in fleet.variants
    }
