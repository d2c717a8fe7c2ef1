"""Managed shadow tests: what one is, its states, and the rules that need nothing else.

Owns :class:`InferenceExperiment` and its lifecycle; :mod:`core.experiment_steps` leads one through it::

    Creating ──▶ Created ──▶ Starting ──▶ Running ◀──▶ Updating      any but the last two ──▶ Cancelled
        └───────────────────────▲            │                       when its endpoint is gone, failed or
    Created, Starting, Running, Updating ─▶ Stopping ─▶ Completed    was updated by somebody else
                                               └──────▶ Cancelled

    Creating   waits until the endpoint is InService (CreateInferenceExperiment made it if there was none)
    Created    waits for the start
    Starting   keeps the serving fleet as ``prior``, serves production beside the shadow
    Running    waits for the end
    Updating   changes the shadow's sampling
    Stopping   gives back ``prior``, promotes the shadow, or leaves all as it is

Source: botocore's InferenceExperiment shapes and SageMaker's "Shadow tests" documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar

from understudy.core.endpoints import Fleet, FleetVariant

DEFAULT_DURATION_S = 7 * 86_400.0
SHORTEST_S, LONGEST_S = 3_600.0, 30 * 86_400.0

LONGEST_NAME = 63  # of an endpoint configuration; an experiment's may have 120 characters


class ExperimentStatus(StrEnum):
    """As botocore spells them."""

    CREATING = "Creating"
    CREATED = "Created"
    UPDATING = "Updating"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"
    COMPLETED = "Completed"
    CANCELLED = "Cancelled"


_S = ExperimentStatus

LEGAL_STEPS: dict[ExperimentStatus, frozenset[ExperimentStatus]] = {
    _S.CREATING: frozenset({_S.CREATED, _S.STARTING, _S.CANCELLED}),
    _S.CREATED: frozenset({_S.STARTING, _S.STOPPING, _S.CANCELLED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.UPDATING, _S.STOPPING, _S.CANCELLED}),
    _S.UPDATING: frozenset({_S.RUNNING, _S.STOPPING, _S.CANCELLED}),
    _S.STOPPING: frozenset({_S.COMPLETED, _S.CANCELLED}),
    _S.COMPLETED: frozenset(),
    _S.CANCELLED: frozenset(),
}
ENDED = frozenset({_S.COMPLETED, _S.CANCELLED})
# The endpoint is the test's from the first of these to the last: one test at a time.
HOLDING = frozenset({_S.STARTING, _S.RUNNING, _S.UPDATING, _S.STOPPING})


class VariantAction(StrEnum):
    """What StopInferenceExperiment does with a variant."""

    RETAIN = "Retain"
    REMOVE = "Remove"
    PROMOTE = "Promote"


@dataclass(frozen=True)
class Size:
    """How many instances of which type a variant gets."""

    instance_type: str
    count: int


@dataclass(frozen=True)
class StopWish:
    """How a test shall end.

    Attributes:
        production, shadow: What becomes of each variant: Retain/Remove, Remove/Promote or Retain/Retain.
        state: ``Completed`` or ``Cancelled``.
        sizes: By variant name, for those whose size shall not stay as it is.
    """

    production: VariantAction = VariantAction.RETAIN
    shadow: VariantAction = VariantAction.REMOVE
    state: ExperimentStatus = ExperimentStatus.COMPLETED
    reason: str | None = None
    sizes: dict[str, Size] = field(default_factory=dict)

    @property
    def promotes(self) -> bool:
        """The shadow takes production's place."""
        return self.shadow is VariantAction.PROMOTE

    @property
    def keeps_all(self) -> bool:
        """Both variants stay as they are in the test."""
        return self.shadow is VariantAction.RETAIN


@dataclass(frozen=True)
class InferenceExperiment:
    """One managed shadow test.

    Attributes:
        request: What was asked for, by wire names, as changed by updates; without Tags and Schedule.
        token: Random; makes the names of the test's endpoint configurations its own.
        planned: The shadow (and production, if the test makes its endpoint) with copies of their models'
            containers, so that a model may be deleted between creation and start; and the test's capture.
        sizes: By variant name, where the request tells: the others stay as they serve.
        captures: ``planned`` carries a capture of its own; else the endpoint's stays in force.
        endpoint_created_at_s: Identity of the endpoint; another one of its name is not the test's.
        prior: What served before the test began; given back at its end.
        test_fleet_id: The fleet that the test brought up, once asked for.
        target_fleet_id: The fleet that shall serve after the test, once asked for.
    """

    KIND: ClassVar[str] = "inference-experiment"
    name: str
    arn: str
    status: ExperimentStatus
    request: dict[str, Any]
    token: str
    planned: Fleet
    endpoint_created_at_s: float
    starts_at_s: float
    ends_at_s: float
    created_at_s: float
    modified_at_s: float
    sizes: dict[str, Size] = field(default_factory=dict)
    captures: bool = False
    completed_at_s: float | None = None
    status_reason: str | None = None
    prior: Fleet | None = None
    test_fleet_id: str | None = None
    target_fleet_id: str | None = None
    stop: StopWish | None = None

    @property
    def endpoint_name(self) -> str:
        """The endpoint it runs on."""
        return str(self.request["EndpointName"])

    @property
    def source_name(self) -> str:
        """The production variant, which answers everything."""
        return str(self.request["ShadowModeConfig"]["SourceModelVariantName"])

    @property
    def shadow_name(self) -> str:
        """The variant under test."""
        return str(self.request["ShadowModeConfig"]["ShadowModelVariants"][0]["ShadowModelVariantName"])

    @property
    def sampling_percent(self) -> int:
        """Share of requests that the shadow gets, 0 to 100."""
        return int(self.request["ShadowModeConfig"]["ShadowModelVariants"][0]["SamplingPercentage"])

    def config_name(self, purpose: str) -> str:
        """Name the test's endpoint configuration for ``test``, ``production``, ``promoted`` or ``kept``."""
        ending = f"-{purpose}-{self.token}"
        return self.name[: LONGEST_NAME - len(ending)].rstrip("-") + ending


def duration_problem(starts_at_s: float, ends_at_s: float) -> str | None:
    """Say what is wrong with a schedule, in words for its author; None: nothing.

    >>> duration_problem(0.0, 3_600.0) is None, duration_problem(0.0, 3_599.0)
    (True, 'The duration of an inference experiment must be at least 1 hour.')
    """
    if ends_at_s <= starts_at_s:
        return "Schedule.EndTime must be later than Schedule.StartTime."
    if ends_at_s - starts_at_s < SHORTEST_S:
        return "The duration of an inference experiment must be at least 1 hour."
    if ends_at_s - starts_at_s > LONGEST_S:
        return "The duration of an inference experiment must not be more than 30 days."
    return None


def started_early(experiment: InferenceExperiment, now_s: float) -> InferenceExperiment:
    """Begin a scheduled test now; its end stays, but 30 days from now is the latest."""
    return replace(
        experiment,
        status=_S.STARTING,
        starts_at_s=now_s,
        ends_at_s=min(experiment.ends_at_s, now_s + LONGEST_S),
        modified_at_s=now_s,
    )


def source_problem(experiment: InferenceExperiment, serving: Fleet) -> str | None:
    """Say why a fleet can't be tested against, in words for the test's author; None: it can.

    Its one production variant must be the test's source and run the same model: a test may add a shadow,
    never change who answers.
    """
    production = production_of(serving)
    if len(production) != 1:
        return (
            "An inference experiment needs an endpoint with exactly one production variant; this one has "
            f"{len(production)}: {', '.join(variant.name for variant in production)}."
        )
    (source,) = production
    if source.name != experiment.source_name:
        return (
            f"ShadowModeConfig.SourceModelVariantName {experiment.source_name} is not the endpoint's "
            f"production variant, {source.name}."
        )
    for variant in experiment.request["ModelVariants"]:
        if variant["VariantName"] == source.name and variant["ModelName"] != source.model_name:
            return (
                f"Variant {source.name} of the endpoint runs model {source.model_name}, not "
                f"{variant['ModelName']}: a shadow test does not change the production variant's model."
            )
    return None


def data_capture(storage: dict[str, Any]) -> dict[str, Any]:
    """Write a DataStorageConfig as the DataCaptureConfig of an endpoint configuration: everything is kept."""
    config: dict[str, Any] = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": storage["Destination"],
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    }
    if storage.get("ContentType"):
        config["CaptureContentTypeHeader"] = storage["ContentType"]
    return config


def production_of(fleet: Fleet) -> list[FleetVariant]:
    """Give the variants that answer, without shadows."""
    return [variant for variant in fleet.variants if not variant.shadow]
