"""UpdateInferenceExperiment, StartInferenceExperiment, StopInferenceExperiment: wishes to change a test.

Owns who may ask what of a test in which state; control carries it out.

Differs from AWS: a test can be stopped while it starts; what an update may not change in a test that runs
is refused with ConflictException, where AWS's words are not known.

Source: botocore's InferenceExperiment shapes; SageMaker's "Edit a shadow test".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from understudy.core.endpoints import Endpoint
from understudy.core.errors import ConflictException, ValidationException
from understudy.core.experiments import HOLDING, ExperimentStatus, InferenceExperiment, started_early
from understudy.core.ports import Event, Put
from understudy.operations.sagemaker.experiment_plans import (
    check_sampling,
    plan_end,
    plan_schedule,
    plan_stop,
)
from understudy.operations.sagemaker.experiments import (
    get_experiment,
    planned_test,
    refuse_rival,
    wrong_state,
)
from understudy.operations.sagemaker.wording import ENDPOINT, EXPERIMENT, could_not_find, until_agreed
from understudy.operations.services import Operation, Services

_STOPPABLE = HOLDING - {ExperimentStatus.STOPPING} | {ExperimentStatus.CREATED}


def _change(
    services: Services,
    name: str,
    event: str,
    plan: Callable[[InferenceExperiment, float], InferenceExperiment],
) -> dict[str, Any]:
    """Write a wish into a test.

    Args:
        plan: From the test and the time to the test with the wish in it; raises what it refuses.
    """

    def attempt() -> dict[str, Any]:
        stored = get_experiment(services, name)
        now_s = services.clock.now_s()
        planned = replace(plan(stored.value, now_s), modified_at_s=now_s)
        detail = {"from": str(stored.value.status), "to": str(planned.status)}
        services.records.commit([Put(planned, stored.version), Event(stored.value.arn, event, now_s, detail)])
        return {"InferenceExperimentArn": planned.arn}

    answer = until_agreed(attempt)
    services.nudge()
    return answer


def update_inference_experiment(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Change a scheduled test in all but its endpoint and names of endpoint and role, or of a running one
    the description, the sampling percentage and the end.

    Raises:
        ConflictException: the test is neither Created nor Running, or runs and more is asked for.
        ResourceNotFound: there is none of that name.
        ValidationException: the changed test would be refused by CreateInferenceExperiment.
    """

    def plan(experiment: InferenceExperiment, now_s: float) -> InferenceExperiment:
        if experiment.status is ExperimentStatus.CREATED:
            return _rescheduled(services, experiment, request, now_s)
        if experiment.status is ExperimentStatus.RUNNING:
            return _adjusted(services, experiment, request, now_s)
        raise wrong_state(experiment, "update")

    return _change(services, request["Name"], "ExperimentUpdateRequested", plan)


def _rescheduled(
    services: Services, experiment: InferenceExperiment, request: dict[str, Any], now_s: float
) -> InferenceExperiment:
    wanted = {**experiment.request}
    for member in ("Description", "DataStorageConfig", "ShadowModeConfig"):
        if member in request:
            wanted[member] = request[member]
    # What was filled in from the endpoint follows the endpoint.
    wanted["ModelVariants"] = [
        one for one in experiment.request["ModelVariants"] if one["VariantName"] in experiment.sizes
    ]
    if "ModelVariants" in request:
        # "One for each variant whose infrastructure configuration you want to update": the others stay,
        # but for a shadow that is called otherwise now.
        names = {one["VariantName"] for one in request["ModelVariants"]}
        kept = [one for one in wanted["ModelVariants"] if one["VariantName"] not in names]
        mode = wanted["ShadowModeConfig"]
        needed = {mode["SourceModelVariantName"], mode["ShadowModelVariants"][0]["ShadowModelVariantName"]}
        wanted["ModelVariants"] = [
            *request["ModelVariants"],
            *(one for one in kept if one["VariantName"] in needed),
        ]
    starts_at_s, ends_at_s = plan_schedule(request.get("Schedule", {}), now_s, experiment)
    stored = services.records.get(Endpoint, experiment.endpoint_name)
    if stored is None:
        raise could_not_find(ENDPOINT, services.place.arn("endpoint", experiment.endpoint_name))
    moved_test = replace(experiment, starts_at_s=starts_at_s, ends_at_s=ends_at_s)
    planned = planned_test(services, moved_test, wanted, stored.value)
    refuse_rival(services, planned, ValidationException)
    return planned


def _adjusted(
    services: Services, experiment: InferenceExperiment, request: dict[str, Any], now_s: float
) -> InferenceExperiment:
    refused = ConflictException(
        f"Cannot change more than Description, SamplingPercentage and Schedule.EndTime of {EXPERIMENT} "
        f'"{experiment.arn}" while it is Running.'
    )
    schedule = request.get("Schedule", {})
    start = schedule.get("StartTime")
    if start is not None and abs(start.timestamp() - experiment.starts_at_s) >= 1.0:
        raise refused
    for variant in request.get("ModelVariants", []):
        if variant not in experiment.request["ModelVariants"]:
            raise refused
    if "DataStorageConfig" in request and request["DataStorageConfig"] != experiment.request.get(
        "DataStorageConfig"
    ):
        raise refused
    wanted = {**experiment.request}
    if "Description" in request:
        wanted["Description"] = request["Description"]
    status = experiment.status
    if "ShadowModeConfig" in request:
        mode = request["ShadowModeConfig"]
        (shadow,) = mode["ShadowModelVariants"]
        if (mode["SourceModelVariantName"], shadow["ShadowModelVariantName"]) != (
            experiment.source_name,
            experiment.shadow_name,
        ):
            raise refused
        check_sampling(shadow["SamplingPercentage"])
        wanted["ShadowModeConfig"] = mode
        if shadow["SamplingPercentage"] != experiment.sampling_percent:
            status = ExperimentStatus.UPDATING
    adjusted = replace(
        experiment, request=wanted, status=status, ends_at_s=plan_end(schedule, experiment, now_s)
    )
    if adjusted.ends_at_s > experiment.ends_at_s:
        refuse_rival(services, adjusted, ValidationException)
    return adjusted


def start_inference_experiment(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Begin a scheduled test now; its end stays, but 30 days from now is the latest.

    Raises:
        ConflictException: it is not Created, or another test has the endpoint until its end.
        ResourceNotFound: there is none of that name.
    """

    def plan(experiment: InferenceExperiment, now_s: float) -> InferenceExperiment:
        if experiment.status is not ExperimentStatus.CREATED:
            raise wrong_state(experiment, "start")
        started = started_early(experiment, now_s)
        refuse_rival(services, started, ConflictException)
        return started

    return _change(services, request["Name"], "ExperimentStartRequested", plan)


def stop_inference_experiment(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """End a test: give the endpoint back, promote the shadow, or keep both variants as they are.

    Raises:
        ConflictException: it can't be stopped in its state, or its shadow not be promoted or kept as it has
            never been in service.
        ResourceNotFound: there is none of that name.
        ValidationException: the actions or sizes can't be carried out.
    """

    def plan(experiment: InferenceExperiment, _: float) -> InferenceExperiment:
        if experiment.status not in _STOPPABLE:
            raise wrong_state(experiment, "stop")
        wish = plan_stop(request, experiment)
        ran = experiment.status in (ExperimentStatus.RUNNING, ExperimentStatus.UPDATING)
        if not ran and (wish.promotes or wish.keeps_all):
            raise wrong_state(experiment, f"{str(wish.shadow).lower()} the shadow variant of")
        return replace(experiment, status=ExperimentStatus.STOPPING, stop=wish)

    return _change(services, request["Name"], "ExperimentStopRequested", plan)


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sagemaker", "UpdateInferenceExperiment"): update_inference_experiment,
    ("sagemaker", "StartInferenceExperiment"): start_inference_experiment,
    ("sagemaker", "StopInferenceExperiment"): stop_inference_experiment,
}
