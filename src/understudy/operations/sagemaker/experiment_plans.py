"""From the request for a managed shadow test to its plan, and the rules between the request's members.

Owns schedules (1 hour to 30 days, 7 days unless told), which variants a test may have and how one may end.
Main functions: :func:`plan_test`, :func:`plan_schedule`, :func:`plan_stop`.

Source: botocore's InferenceExperiment shapes; SageMaker's "Shadow tests" documentation.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from understudy.core.endpoints import Endpoint, EndpointConfig, Fleet
from understudy.core.errors import ValidationException
from understudy.core.experiments import (
    DEFAULT_DURATION_S,
    ExperimentStatus,
    InferenceExperiment,
    Size,
    StopWish,
    VariantAction,
    data_capture,
    duration_problem,
)
from understudy.operations.sagemaker.endpoint_configs import check_capture, check_noise
from understudy.operations.sagemaker.extensions import extensions_of
from understudy.operations.sagemaker.fleets import check_size, plan_fleet
from understudy.operations.sagemaker.tags import parse_tags
from understudy.operations.sagemaker.unsupported import refuse_unsupported
from understudy.operations.sagemaker.wording import EXPERIMENT
from understudy.operations.services import Services

# A StartTime so little in the past is "now" by a clock that goes wrong, or a slow network.
PAST_START_S = 900.0

# What may become of (production, shadow) when a test ends.
_ENDINGS = {
    (VariantAction.RETAIN, VariantAction.REMOVE),
    (VariantAction.REMOVE, VariantAction.PROMOTE),
    (VariantAction.RETAIN, VariantAction.RETAIN),
}


# --- the schedule ----------------------------------------------------------------------------------


def plan_schedule(
    schedule: dict[str, datetime], now_s: float, before: InferenceExperiment | None = None
) -> tuple[float, float]:
    """Read the Schedule of a test that has not started.

    Args:
        before: The test whose schedule changes; what is not given stays.
    Returns:
        Start and end, Unix seconds.
    Raises:
        ValidationException: it starts in the past, or is shorter than 1 hour or longer than 30 days.
    """
    starts_at_s = _seconds(schedule, "StartTime")
    if starts_at_s is None:
        starts_at_s = now_s if before is None else before.starts_at_s
    elif starts_at_s < now_s - PAST_START_S:
        raise ValidationException("Schedule.StartTime must not be in the past.")
    starts_at_s = max(starts_at_s, now_s)
    ends_at_s = _seconds(schedule, "EndTime")
    if ends_at_s is None:
        ends_at_s = starts_at_s + DEFAULT_DURATION_S if before is None else before.ends_at_s
    return _checked(starts_at_s, ends_at_s)


def plan_end(schedule: dict[str, datetime], experiment: InferenceExperiment, now_s: float) -> float:
    """Read the Schedule of a test that runs: only its end can change.

    Returns:
        The end, Unix seconds.
    Raises:
        ValidationException: the end is past, or less than 1 hour or more than 30 days after the start.
    """
    ends_at_s = _seconds(schedule, "EndTime")
    if ends_at_s is None:
        return experiment.ends_at_s
    if ends_at_s <= now_s:
        raise ValidationException(
            "Schedule.EndTime must not be in the past: StopInferenceExperiment ends a test now."
        )
    return _checked(experiment.starts_at_s, ends_at_s)[1]


def _seconds(schedule: dict[str, datetime], member: str) -> float | None:
    at = schedule.get(member)
    return None if at is None else at.timestamp()


def _checked(starts_at_s: float, ends_at_s: float) -> tuple[float, float]:
    problem = duration_problem(starts_at_s, ends_at_s)
    if problem is not None:
        raise ValidationException(problem)
    return starts_at_s, ends_at_s


# --- the variants ----------------------------------------------------------------------------------


def plan_test(
    services: Services, request: dict[str, Any], config_name: str, endpoint: Endpoint | None
) -> tuple[Fleet, dict[str, Size], dict[str, Any]]:
    """Plan the fleet of a test.

    Args:
        request: CreateInferenceExperiment's, or what an update makes of it.
        config_name: The name its configuration will have.
        endpoint: The one it runs on; None when the test makes it.
    Returns:
        The fleet, the sizes that the request tells by variant name, and the request to keep: without Tags
        and Schedule, with the production variant filled in.
    Raises:
        ValidationException: members contradict each other, a model or bucket is missing, or what this
            version does not carry out is asked for.
        ResourceLimitExceeded: it wants too many instances.
    """
    refuse_unsupported(EXPERIMENT, request, "")
    mode = request["ShadowModeConfig"]
    source, (shadow,) = mode["SourceModelVariantName"], mode["ShadowModelVariants"]
    check_sampling(shadow["SamplingPercentage"])
    names = [source, shadow["ShadowModelVariantName"]]
    if names[0] == names[1]:
        raise ValidationException(
            f"The shadow variant must not have the production variant's name, {source}."
        )
    given: dict[str, dict[str, Any]] = {}
    sizes: dict[str, Size] = {}
    for number, variant in enumerate(request["ModelVariants"], start=1):
        name = variant["VariantName"]
        if name in given:
            raise ValidationException(f"ModelVariants: variant {name} is named more than once.")
        if name not in names:
            raise ValidationException(
                f"ModelVariants.{number}.member.VariantName {name} is neither the production variant nor the "
                f"shadow variant of ShadowModeConfig: {', '.join(names)}."
            )
        sizes[name] = size_of(variant, f"ModelVariants.{number}.member")
        given[name] = variant
    if names[1] not in given:
        raise ValidationException(f"ModelVariants must describe the shadow variant, {names[1]}.")
    variants = dict(given)
    if source not in variants:
        variants[source] = _serving_variant(endpoint, source)
    kept = {
        member: value
        for member, value in request.items()
        if member not in ("Tags", "Schedule") and value not in ([], {})
    }
    kept["ModelVariants"] = [variants[name] for name in names]
    storage = request.get("DataStorageConfig")
    wished: dict[str, Any] = {}
    # A production variant that serves is copied when the test starts; its model need not be there any more.
    if source in given and endpoint is None:
        wished["ProductionVariants"] = [_wire_variant(given[source], 1.0)]
    else:
        wished["ProductionVariants"] = []
    share = shadow["SamplingPercentage"] / 100.0
    wished["ShadowProductionVariants"] = [_wire_variant(given[names[1]], share)]
    if storage is not None:
        refuse_unsupported("data storage", storage, "DataStorageConfig")
        wished["DataCaptureConfig"] = data_capture(storage)
        check_capture(services.objects, wished["DataCaptureConfig"], "DataStorageConfig.Destination")
    tags = extensions_of(EXPERIMENT, parse_tags(request.get("Tags", [])))
    check_noise({**wished, "ProductionVariants": [{"VariantName": source}]}, tags)
    config = EndpointConfig(
        config_name, services.place.arn("endpoint-config", config_name), wished, 0.0, 0.0, tags
    )
    fleet = check_size(plan_fleet(services.records, services.place, config, 0))
    return fleet, sizes, kept


def check_sampling(percent: int) -> None:
    """Refuse a negative SamplingPercentage.

    Raises:
        ValidationException: it is one.
    """
    if percent < 0:  # botocore's model knows a maximum only
        raise ValidationException(
            f"1 validation error detected: Value '{percent}' at "
            "'shadowModeConfig.shadowModelVariants.1.member.samplingPercentage' failed to satisfy "
            "constraint: Member must have value greater than or equal to 0"
        )


def size_of(variant: dict[str, Any], path: str) -> Size:
    """Read a ModelVariantConfig's size.

    Raises:
        ValidationException: no instance at all.
    """
    size = variant["InfrastructureConfig"]["RealTimeInferenceConfig"]
    if size["InstanceCount"] < 1:
        raise ValidationException(
            f"{path}.InfrastructureConfig.RealTimeInferenceConfig.InstanceCount must be at least 1."
        )
    return Size(size["InstanceType"], size["InstanceCount"])


def _serving_variant(endpoint: Endpoint | None, name: str) -> dict[str, Any]:
    """Describe the production variant from the endpoint, as the request does not."""
    fleet = serving_fleet(endpoint)
    for variant in fleet.variants if fleet is not None else ():
        if variant.name == name and not variant.shadow:
            return model_variant(name, variant.model_name, Size(variant.instance_type, variant.desired_count))
    raise ValidationException(
        f"ModelVariants must describe the production variant, {name}: "
        + (
            "there is no such endpoint yet."
            if endpoint is None
            else "the endpoint has no variant of that name."
        )
    )


def serving_fleet(endpoint: Endpoint | None) -> Fleet | None:
    """Give the fleet that serves, or the one that will once the endpoint has come up."""
    if endpoint is None:
        return None
    return endpoint.fleet or (endpoint.update.fleet if endpoint.update is not None else None)


def model_variant(name: str, model_name: str, size: Size) -> dict[str, Any]:
    """Write a ModelVariantConfig."""
    return {
        "ModelName": model_name,
        "VariantName": name,
        "InfrastructureConfig": {
            "InfrastructureType": "RealTimeInference",
            "RealTimeInferenceConfig": {"InstanceType": size.instance_type, "InstanceCount": size.count},
        },
    }


def _wire_variant(variant: dict[str, Any], weight: float) -> dict[str, Any]:
    size = variant["InfrastructureConfig"]["RealTimeInferenceConfig"]
    return {
        "VariantName": variant["VariantName"],
        "ModelName": variant["ModelName"],
        "InstanceType": size["InstanceType"],
        "InitialInstanceCount": size["InstanceCount"],
        "InitialVariantWeight": weight,
    }


# --- the end ---------------------------------------------------------------------------------------


def plan_stop(request: dict[str, Any], experiment: InferenceExperiment) -> StopWish:
    """Read how a test shall end.

    A variant that is not named: production stays unless the shadow is promoted, the shadow goes.

    Raises:
        ValidationException: an unknown variant, actions that leave nobody or two to answer, or a size for a
            variant that does not stay.
    """
    source, shadow = experiment.source_name, experiment.shadow_name
    actions = {name: VariantAction(action) for name, action in request["ModelVariantActions"].items()}
    _check_names("ModelVariantActions", actions, (source, shadow), experiment)
    of_shadow = actions.get(shadow, VariantAction.REMOVE)
    promotes = of_shadow is VariantAction.PROMOTE
    of_source = actions.get(source, VariantAction.REMOVE if promotes else VariantAction.RETAIN)
    if (of_source, of_shadow) not in _ENDINGS:
        raise ValidationException(
            f"ModelVariantActions {{{source}: {of_source}, {shadow}: {of_shadow}}} can't be carried out. "
            f"Choose {{{source}: Retain, {shadow}: Remove}}, {{{source}: Remove, {shadow}: Promote}} or "
            f"{{{source}: Retain, {shadow}: Retain}}: one production variant must remain."
        )
    staying = [source] if of_shadow is VariantAction.REMOVE else [shadow] if promotes else [source, shadow]
    models = {one["VariantName"]: one["ModelName"] for one in experiment.request["ModelVariants"]}
    sizes: dict[str, Size] = {}
    for number, variant in enumerate(request.get("DesiredModelVariants", []), start=1):
        name, path = variant["VariantName"], f"DesiredModelVariants.{number}.member"
        _check_names("DesiredModelVariants", [name], staying, experiment)
        if name in sizes:
            raise ValidationException(f"DesiredModelVariants: variant {name} is named more than once.")
        if variant["ModelName"] != models[name]:
            raise ValidationException(
                f"{path}.ModelName {variant['ModelName']} is not the model that variant {name} was tested "
                f"with, {models[name]}."
            )
        sizes[name] = size_of(variant, path)
    return StopWish(
        production=of_source,
        shadow=of_shadow,
        state=ExperimentStatus(request.get("DesiredState", ExperimentStatus.CANCELLED)),
        reason=request.get("Reason"),
        sizes=sizes,
    )


def _check_names(
    member: str, names: Any, known: tuple[str, ...] | list[str], experiment: InferenceExperiment
) -> None:
    for name in names:
        if name not in known:
            raise ValidationException(
                f"{member}: {name} is not one of {', '.join(known)}, the variants of inference experiment "
                f"{experiment.name} that it can name."
            )
