"""What to do next with a managed shadow test: one small step at a time.

``decide`` is a pure function of one snapshot, like :mod:`core.rollouts`, one level up: a step saves the test
together with the wish for its endpoint in one commit, the endpoint loop carries the wish out, ``decide``
sees the result.  So a crash anywhere resumes, and no test believes something of its endpoint that is not so.
The states and what each waits for: :mod:`core.experiments`.

A test never harms what serves: it begins only on the one production variant that it names, gives back the
fleet it found (weights and counts as they were, not as some configuration has them), and lets go of an
endpoint that somebody else has updated, leaving it as it is.

Source: SageMaker's "Shadow tests" documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from understudy.core.endpoints import (
    Endpoint,
    EndpointConfig,
    EndpointStatus,
    Fleet,
    FleetVariant,
    PendingUpdate,
)
from understudy.core.experiments import (
    ENDED,
    ExperimentStatus,
    InferenceExperiment,
    Size,
    StopWish,
    production_of,
    source_problem,
)
from understudy.core.names import Place

_S = ExperimentStatus

_WAIT_FOR = frozenset(
    {
        EndpointStatus.CREATING,
        EndpointStatus.UPDATING,
        EndpointStatus.SYSTEM_UPDATING,
        EndpointStatus.ROLLING_BACK,
    }
)


@dataclass(frozen=True)
class ExperimentSnapshot:
    """All that a decision about one experiment may depend on.

    Attributes:
        endpoint: As stored now, or None.
        config: The record of the configuration that the endpoint serves, if it still exists.
        rival: Another test that holds the endpoint.
    """

    experiment: InferenceExperiment
    now_s: float
    place: Place
    endpoint: Endpoint | None = None
    config: EndpointConfig | None = None
    rival: str | None = None


@dataclass(frozen=True)
class Step:
    """What to commit, all of it or nothing.

    Attributes:
        endpoint: The endpoint with a wish in it.
        new_config: A configuration to keep, named by the wish.
        dropped_config: Name of a configuration that nobody needs any more.
    """

    experiment: InferenceExperiment
    event: str
    detail: dict[str, Any] = field(default_factory=dict)
    endpoint: Endpoint | None = None
    new_config: EndpointConfig | None = None
    dropped_config: str | None = None


def decide(snapshot: ExperimentSnapshot) -> Step | None:
    """Name the next step of one test, or None when there is nothing to do now."""
    experiment = snapshot.experiment
    if experiment.status in ENDED:
        return None
    lost = _lost(experiment, snapshot.endpoint)
    if lost is not None:
        return _cancel(snapshot, lost)
    endpoint = snapshot.endpoint
    assert endpoint is not None  # else it were lost
    status = experiment.status
    if status is _S.CREATING:
        return _created(snapshot, endpoint)
    if status is _S.CREATED:
        return _move(snapshot, _S.STARTING) if snapshot.now_s >= experiment.starts_at_s else None
    if status is _S.STARTING:
        return _started(snapshot, endpoint)
    if status is _S.STOPPING:
        return _stopped(snapshot, endpoint)
    return _run(snapshot, endpoint)


# --- the states ------------------------------------------------------------------------------------


def _created(snapshot: ExperimentSnapshot, endpoint: Endpoint) -> Step | None:
    if endpoint.status in _WAIT_FOR:
        return None
    due = snapshot.now_s >= snapshot.experiment.starts_at_s
    return _move(snapshot, _S.STARTING if due else _S.CREATED)


def _started(snapshot: ExperimentSnapshot, endpoint: Endpoint) -> Step | None:
    experiment = snapshot.experiment
    if experiment.test_fleet_id is None:
        if endpoint.status in _WAIT_FOR or snapshot.rival is not None:
            if snapshot.now_s < experiment.ends_at_s:
                return None
            why = f"is used by {snapshot.rival}" if snapshot.rival is not None else f"is {endpoint.status}"
            return _cancel(snapshot, f"The test's end came while endpoint {endpoint.name} {why}.")
        return _begin(snapshot, endpoint)
    if endpoint.status in _WAIT_FOR:
        return None
    if _serves(endpoint, experiment.test_fleet_id):
        return _move(snapshot, _S.RUNNING)
    return _cancel(snapshot, endpoint.failure_reason or _taken_over(endpoint))


def _begin(snapshot: ExperimentSnapshot, endpoint: Endpoint) -> Step:
    """Wish for the fleet of the test, and remember what it takes the place of."""
    experiment, prior = snapshot.experiment, endpoint.fleet
    assert prior is not None  # InService
    problem = source_problem(experiment, prior)
    if problem is not None:
        return _cancel(snapshot, problem)
    production = production_of(prior)[0]
    planned = {variant.name: variant for variant in experiment.planned.variants}
    if experiment.source_name in experiment.sizes:
        production = _sized(production, experiment.sizes[experiment.source_name])
    # A capture that the endpoint has, stays, unless the test brings its own.
    fleet = replace(
        experiment.planned if experiment.captures else prior,
        fleet_id=f"f{endpoint.next_fleet}",
        config_name=experiment.config_name("test"),
        variants=(
            _weighted(production, 1.0),
            _weighted(planned[experiment.shadow_name], experiment.sampling_percent / 100.0),
        ),
    )
    began = replace(experiment, prior=prior, test_fleet_id=fleet.fleet_id, modified_at_s=snapshot.now_s)
    return Step(
        began,
        "ExperimentDeploying",
        {"endpoint": endpoint.name, "from": endpoint.config_name, "to": fleet.config_name},
        endpoint=_wish(endpoint, fleet, snapshot.now_s),
        new_config=_config(snapshot, fleet),
    )


def _run(snapshot: ExperimentSnapshot, endpoint: Endpoint) -> Step | None:
    """Running and Updating."""
    experiment = snapshot.experiment
    if endpoint.status in _WAIT_FOR:
        return None
    if not _serves(endpoint, experiment.test_fleet_id):
        return _cancel(snapshot, _taken_over(endpoint))
    if experiment.status is _S.RUNNING:
        if snapshot.now_s < experiment.ends_at_s:
            return None
        return _move(replace(snapshot, experiment=replace(experiment, stop=StopWish())), _S.STOPPING)
    assert endpoint.fleet is not None
    wanted = experiment.sampling_percent / 100.0
    variants = tuple(
        replace(variant, desired_weight=wanted) if variant.name == experiment.shadow_name else variant
        for variant in endpoint.fleet.variants
    )
    if variants == endpoint.fleet.variants:
        return _move(snapshot, _S.RUNNING)
    changed = replace(
        endpoint,
        status=EndpointStatus.UPDATING,
        modified_at_s=snapshot.now_s,
        failure_reason=None,
        fleet=replace(endpoint.fleet, variants=variants),
        update=PendingUpdate("weights", snapshot.now_s, phase_at_s=snapshot.now_s),
    )
    return Step(experiment, "ExperimentSampling", {"percent": experiment.sampling_percent}, endpoint=changed)


def _stopped(snapshot: ExperimentSnapshot, endpoint: Endpoint) -> Step | None:
    experiment, wish = snapshot.experiment, snapshot.experiment.stop
    assert wish is not None  # StopInferenceExperiment and the end of the schedule leave one
    if experiment.test_fleet_id is None:
        return _finish(snapshot, wish.state, wish.reason)  # it never touched the endpoint
    if endpoint.status in _WAIT_FOR:
        return None
    if experiment.target_fleet_id is not None and _serves(endpoint, experiment.target_fleet_id):
        return _finish(snapshot, wish.state, wish.reason)
    assert experiment.prior is not None  # kept along with test_fleet_id
    if _serves(endpoint, experiment.prior.fleet_id):  # stopped while it started, and the start failed
        return _finish(snapshot, wish.state, wish.reason or endpoint.failure_reason)
    if not _serves(endpoint, experiment.test_fleet_id):
        return _cancel(snapshot, _taken_over(endpoint))
    if experiment.target_fleet_id is None:
        return _end(snapshot, endpoint, experiment.prior, wish)
    reason = endpoint.failure_reason or "the update of the endpoint was rolled back."
    if wish.promotes:  # what can't be promoted must not stay a test for ever: back to what was before
        back = StopWish(state=_S.CANCELLED, reason=f"The shadow variant could not be promoted: {reason}")
        return _end(snapshot, endpoint, experiment.prior, back)
    return _cancel(snapshot, f"Endpoint {endpoint.name} still serves the test's variants: {reason}")


def _end(snapshot: ExperimentSnapshot, endpoint: Endpoint, prior: Fleet, wish: StopWish) -> Step:
    """Wish for what shall serve after the test."""
    experiment, serving = replace(snapshot.experiment, stop=wish), endpoint.fleet
    assert serving is not None  # InService
    fleet_id = f"f{endpoint.next_fleet}"
    if wish.promotes:
        promoted = next(one for one in serving.variants if one.name == experiment.shadow_name)
        variants: tuple[FleetVariant, ...] = (replace(_weighted(promoted, 1.0), shadow=False, cpu_percent=0),)
        # The test's capture ends with it: all but the variant is as it was before.
        base, purpose = prior, "promoted"
    elif wish.keeps_all:
        base, purpose, variants = serving, "kept", serving.variants
    else:
        base, purpose, variants = prior, "kept", prior.variants
    sized = tuple(
        _sized(variant, wish.sizes[variant.name]) if variant.name in wish.sizes else variant
        for variant in variants
    )
    if wish.keeps_all and sized == variants:
        return _finish(replace(snapshot, experiment=experiment), wish.state, wish.reason)
    fleet = replace(
        base, fleet_id=fleet_id, variants=tuple(replace(variant, current_count=0) for variant in sized)
    )
    new_config = None
    if wish.promotes or sized != variants:
        fleet = replace(fleet, config_name=experiment.config_name(purpose))
        new_config = _config(snapshot, fleet)
    asked = replace(experiment, target_fleet_id=fleet_id, modified_at_s=snapshot.now_s)
    return Step(
        asked,
        "ExperimentPromoting" if wish.promotes else "ExperimentEnding",
        {"endpoint": endpoint.name, "from": endpoint.config_name, "to": fleet.config_name},
        endpoint=_wish(endpoint, fleet, snapshot.now_s),
        new_config=new_config,
    )


def _move(snapshot: ExperimentSnapshot, status: ExperimentStatus) -> Step:
    experiment = replace(snapshot.experiment, status=status, modified_at_s=snapshot.now_s)
    return Step(experiment, f"Experiment{status}", {"from": str(snapshot.experiment.status)})


def _cancel(snapshot: ExperimentSnapshot, reason: str) -> Step:
    return _finish(snapshot, _S.CANCELLED, reason)


def _finish(snapshot: ExperimentSnapshot, status: ExperimentStatus, reason: str | None) -> Step:
    experiment, endpoint = snapshot.experiment, snapshot.endpoint
    ended = replace(
        experiment,
        status=status,
        status_reason=reason,
        modified_at_s=snapshot.now_s,
        completed_at_s=snapshot.now_s,
        ends_at_s=min(experiment.ends_at_s, snapshot.now_s),
    )
    in_use = endpoint is not None and _serves(endpoint, experiment.test_fleet_id)
    return Step(
        ended,
        f"Experiment{status}",
        {"reason": reason} if reason is not None else {},
        dropped_config=None if in_use or experiment.test_fleet_id is None else experiment.config_name("test"),
    )


# --- the endpoint ----------------------------------------------------------------------------------


def _lost(experiment: InferenceExperiment, endpoint: Endpoint | None) -> str | None:
    """Say why there is no endpoint any more that this test could run on; None: there is."""
    if endpoint is None or endpoint.created_at_s != experiment.endpoint_created_at_s:
        return f"Endpoint {experiment.endpoint_name} was deleted."
    if endpoint.status is EndpointStatus.DELETING:
        return f"Endpoint {endpoint.name} is being deleted."
    if endpoint.status in (
        EndpointStatus.FAILED,
        EndpointStatus.OUT_OF_SERVICE,
        EndpointStatus.UPDATE_ROLLBACK_FAILED,
    ):
        return (
            f"Endpoint {endpoint.name} is {endpoint.status}: {endpoint.failure_reason or 'see its events.'}"
        )
    return None


def _taken_over(endpoint: Endpoint) -> str:
    return (
        f"Endpoint {endpoint.name} was updated to {endpoint.config_name} by another request during the test; "
        "it is left as it is."
    )


def _serves(endpoint: Endpoint, fleet_id: str | None) -> bool:
    return endpoint.fleet is not None and endpoint.fleet.fleet_id == fleet_id


def _weighted(variant: FleetVariant, weight: float) -> FleetVariant:
    return replace(variant, desired_weight=weight, current_weight=weight, current_count=0)


def _sized(variant: FleetVariant, size: Size) -> FleetVariant:
    return replace(variant, instance_type=size.instance_type, desired_count=size.count)


def _wish(endpoint: Endpoint, fleet: Fleet, now_s: float) -> Endpoint:
    """Wish that the endpoint serves a new fleet: blue/green, all at once, as an UpdateEndpoint."""
    return replace(
        endpoint,
        status=EndpointStatus.UPDATING,
        modified_at_s=now_s,
        failure_reason=None,
        update=PendingUpdate("update", now_s, fleet, phase_at_s=now_s),
        next_fleet=endpoint.next_fleet + 1,
    )


def _config(snapshot: ExperimentSnapshot, fleet: Fleet) -> EndpointConfig:
    """Write a fleet down as the endpoint configuration that would have made it."""
    before = snapshot.config.request if snapshot.config is not None else {}
    told = {
        one["VariantName"]: one
        for member in ("ProductionVariants", "ShadowProductionVariants")
        for one in before.get(member, [])
    }
    replaced = ("EndpointConfigName", "ProductionVariants", "ShadowProductionVariants", "DataCaptureConfig")
    request = {name: value for name, value in before.items() if name not in replaced}
    request["EndpointConfigName"] = fleet.config_name
    for member, shadow in (("ProductionVariants", False), ("ShadowProductionVariants", True)):
        variants = [
            {
                **told.get(variant.name, {}),
                "VariantName": variant.name,
                "ModelName": variant.model_name,
                "InstanceType": variant.instance_type,
                "InitialInstanceCount": variant.desired_count,
                "InitialVariantWeight": variant.desired_weight,
            }
            for variant in fleet.variants
            if variant.shadow is shadow
        ]
        if variants:
            request[member] = variants
    if fleet.data_capture is not None:
        request["DataCaptureConfig"] = fleet.data_capture
    extensions = dict(snapshot.config.extensions) if snapshot.config is not None else {}
    extensions.pop("capture", None)
    if fleet.capture is not None and fleet.capture.durable:
        extensions["capture"] = "durable"
    extensions.pop("noise-percent", None)
    if fleet.noise_percent:
        extensions["noise-percent"] = str(fleet.noise_percent)
    extensions.pop("shadow-cpu-percent", None)
    for variant in fleet.variants:
        if variant.shadow and variant.cpu_percent:
            extensions["shadow-cpu-percent"] = str(variant.cpu_percent)
    return EndpointConfig(
        fleet.config_name,
        snapshot.place.arn("endpoint-config", fleet.config_name),
        request,
        snapshot.now_s,
        snapshot.now_s,
        extensions,
    )
