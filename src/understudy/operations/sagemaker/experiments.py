"""CreateInferenceExperiment, Describe-, List- and DeleteInferenceExperiment: managed shadow tests.

Owns the wish for a test, and how its end is told.  Operations only write wishes into the test's record;
:mod:`understudy.control.experiments` carries them out, by :func:`core.experiment_steps.decide`.
``experiment_updates`` owns the changes in between.

An endpoint that does not exist is made by the test, with the production variant alone: that is the state
it is given back to when the test ends.  Deleting a test deletes its record and nothing else.

Differs from AWS: a scheduled test can be deleted without being stopped.

Source: botocore's InferenceExperiment shapes; SageMaker's "Shadow tests" documentation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from understudy.core.endpoints import Endpoint, EndpointConfig, EndpointStatus, Fleet, PendingUpdate
from understudy.core.errors import (
    ApiError,
    ConflictException,
    ResourceInUse,
    ResourceNotFound,
    ValidationException,
)
from understudy.core.experiments import (
    ENDED,
    ExperimentStatus,
    InferenceExperiment,
    source_problem,
)
from understudy.core.ports import Delete, Event, Put, Query, Stored
from understudy.operations.sagemaker.experiment_plans import (
    plan_schedule,
    plan_test,
    serving_fleet,
)
from understudy.operations.sagemaker.experiment_views import describe, summarize
from understudy.operations.sagemaker.listing import find_page
from understudy.operations.sagemaker.tags import changes_for_deleted, changes_for_new
from understudy.operations.sagemaker.wording import EXPERIMENT, until_agreed
from understudy.operations.services import Operation, Services

TOKEN_BYTES = 4

_DELETABLE = ENDED | {ExperimentStatus.CREATED}
_UNFIT = frozenset(
    {
        EndpointStatus.DELETING,
        EndpointStatus.FAILED,
        EndpointStatus.OUT_OF_SERVICE,
        EndpointStatus.UPDATE_ROLLBACK_FAILED,
    }
)


# --- create ----------------------------------------------------------------------------------------


def create_inference_experiment(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Plan a shadow test, and make its endpoint if there is none.

    Raises:
        ResourceInUse: the name is taken.
        ValidationException: the schedule, a variant, the endpoint or another test of it does not fit.
        ResourceLimitExceeded: it wants too many instances.
    """
    records, name = services.records, request["Name"]
    arn = services.place.arn("inference-experiment", name)
    token = services.entropy.token(TOKEN_BYTES)

    def attempt() -> dict[str, Any]:
        if records.get(InferenceExperiment, name) is not None:
            raise ResourceInUse(f'Cannot create already existing {EXPERIMENT} "{arn}".')
        now_s = services.clock.now_s()
        starts_at_s, ends_at_s = plan_schedule(request.get("Schedule", {}), now_s)
        stored = records.get(Endpoint, request["EndpointName"])
        endpoint = None if stored is None else stored.value
        experiment = InferenceExperiment(
            name=name,
            arn=arn,
            status=ExperimentStatus.CREATING,
            request=request,
            token=token,
            planned=Fleet("f0", "", ()),
            starts_at_s=starts_at_s,
            ends_at_s=ends_at_s,
            created_at_s=now_s,
            modified_at_s=now_s,
            endpoint_created_at_s=now_s if endpoint is None else endpoint.created_at_s,
        )
        experiment = planned_test(services, experiment, request, endpoint)
        refuse_rival(services, experiment, ValidationException)
        changes: list[Put | Delete | Event] = [
            Put(experiment, 0),
            *changes_for_new(records, arn, request, now_s),
            Event(arn, "ExperimentRequested", now_s, {"endpoint": experiment.endpoint_name}),
        ]
        if endpoint is None:
            changes += _new_endpoint(services, experiment, now_s)
        records.commit(changes)
        return {"InferenceExperimentArn": arn}

    answer = until_agreed(attempt)
    services.nudge()
    return answer


def planned_test(
    services: Services, experiment: InferenceExperiment, request: dict[str, Any], endpoint: Endpoint | None
) -> InferenceExperiment:
    """Put the plan for a request into a test that has not started.

    Raises:
        ValidationException: it can't be carried out on that endpoint.
    """
    if endpoint is not None and endpoint.status in _UNFIT:
        raise ValidationException(
            f'Cannot run an inference experiment on endpoint "{endpoint.arn}" in status {endpoint.status}.'
        )
    fleet, sizes, kept = plan_test(services, request, experiment.config_name("test"), endpoint)
    planned = replace(
        experiment,
        request=kept,
        planned=fleet,
        sizes=sizes,
        captures="DataStorageConfig" in kept,
    )
    serving = serving_fleet(endpoint)
    problem = None if serving is None else source_problem(planned, serving)
    if problem is not None:
        raise ValidationException(problem)
    return planned


def refuse_rival(services: Services, experiment: InferenceExperiment, refusal: type[ApiError]) -> None:
    """Refuse a test while another one has the endpoint, as an endpoint has one shadow variant.

    Raises:
        ApiError: names the other test; of the type that the operation has for it.
    """
    for stored in services.records.find(InferenceExperiment, Query()):
        other = stored.value
        if (
            other.name != experiment.name
            and other.status not in ENDED
            and other.endpoint_name == experiment.endpoint_name
            and other.starts_at_s < experiment.ends_at_s
            and experiment.starts_at_s < other.ends_at_s
        ):
            raise refusal(
                f"Inference experiment {other.name} uses endpoint {other.endpoint_name} at that time: an "
                "endpoint can have one shadow test at a time."
            )


def _new_endpoint(
    services: Services, experiment: InferenceExperiment, now_s: float
) -> list[Put | Delete | Event]:
    """Say what to commit for an endpoint with the production variant alone."""
    place, name = services.place, experiment.endpoint_name
    arn, config_name = place.arn("endpoint", name), experiment.config_name("production")
    production = experiment.planned.variants[0]
    config_arn = place.arn("endpoint-config", config_name)
    wished = {
        "EndpointConfigName": config_name,
        "ProductionVariants": [
            {
                "VariantName": production.name,
                "ModelName": production.model_name,
                "InstanceType": production.instance_type,
                "InitialInstanceCount": production.desired_count,
                "InitialVariantWeight": production.desired_weight,
            }
        ],
    }
    fleet = Fleet("f1", config_name, (production,))
    endpoint = Endpoint(
        name=name,
        arn=arn,
        config_name=config_name,
        status=EndpointStatus.CREATING,
        created_at_s=now_s,
        modified_at_s=now_s,
        update=PendingUpdate("create", now_s, fleet, phase_at_s=now_s),
        next_fleet=2,
    )
    return [
        Put(EndpointConfig(config_name, config_arn, wished, now_s, now_s), 0),
        Event(config_arn, "EndpointConfigCreated", now_s, {"experiment": experiment.name}),
        Put(endpoint, 0),
        *changes_for_new(services.records, arn, {}, now_s),
        Event(arn, "CreateRequested", now_s, {"config": config_name, "experiment": experiment.name}),
    ]


# --- read ------------------------------------------------------------------------------------------


def get_experiment(services: Services, name: str) -> Stored[InferenceExperiment]:
    """Read a test.

    Raises:
        ResourceNotFound: there is none of that name.
    """
    stored = services.records.get(InferenceExperiment, name)
    if stored is None:
        arn = services.place.arn("inference-experiment", name)
        raise ResourceNotFound(f'Could not find {EXPERIMENT} "{arn}".')
    return stored


def describe_inference_experiment(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Tell what a test is, and what became of its variants and endpoint.

    Raises:
        ResourceNotFound: there is none of that name.
    """
    experiment = get_experiment(services, request["Name"]).value
    endpoint = services.records.get(Endpoint, experiment.endpoint_name)
    return describe(experiment, None if endpoint is None else endpoint.value)


def list_inference_experiments(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List tests, newest first unless told otherwise."""
    page, token = find_page(services.records, InferenceExperiment, request)
    listed: dict[str, Any] = {"InferenceExperiments": [summarize(stored.value) for stored in page]}
    return listed if token is None else {**listed, "NextToken": token}


def wrong_state(experiment: InferenceExperiment, what: str) -> ConflictException:
    """Refuse what a test's state does not allow."""
    return ConflictException(f'Cannot {what} {EXPERIMENT} "{experiment.arn}" in status {experiment.status}.')


# --- delete ------------------------------------------------------------------------------------------


def delete_inference_experiment(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Forget a test; its endpoint, variants, configurations and captured data stay.

    Raises:
        ConflictException: it is under way; stop it first.
        ResourceNotFound: there is none of that name.
    """
    records = services.records

    def attempt() -> dict[str, Any]:
        stored = get_experiment(services, request["Name"])
        experiment = stored.value
        if experiment.status not in _DELETABLE:
            raise wrong_state(experiment, "delete")
        records.commit(
            [
                Delete(InferenceExperiment, experiment.name, stored.version),
                *changes_for_deleted(records, experiment.arn),
                Event(experiment.arn, "ExperimentDeleted", services.clock.now_s()),
            ]
        )
        return {"InferenceExperimentArn": experiment.arn}

    return until_agreed(attempt)


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sagemaker", "CreateInferenceExperiment"): create_inference_experiment,
    ("sagemaker", "DescribeInferenceExperiment"): describe_inference_experiment,
    ("sagemaker", "ListInferenceExperiments"): list_inference_experiments,
    ("sagemaker", "DeleteInferenceExperiment"): delete_inference_experiment,
}
