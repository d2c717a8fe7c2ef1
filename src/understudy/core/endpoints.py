"""Endpoint configurations, endpoints and the fleets behind them.

An endpoint's record holds both the will (``update``, desired weights and counts) and what control
has made true so far (``fleets``, ``active_fleet``, current weights and counts), so that one
compare-and-set moves it from one legal state to the next and a crash resumes from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from understudy.core.models import Container
from understudy.core.routing import CaptureRoute


class EndpointStatus(StrEnum):
    """As botocore spells them."""

    OUT_OF_SERVICE = "OutOfService"
    CREATING = "Creating"
    UPDATING = "Updating"
    SYSTEM_UPDATING = "SystemUpdating"
    ROLLING_BACK = "RollingBack"
    IN_SERVICE = "InService"
    DELETING = "Deleting"
    FAILED = "Failed"
    UPDATE_ROLLBACK_FAILED = "UpdateRollbackFailed"


@dataclass(frozen=True)
class EndpointConfig:
    """A CreateEndpointConfig request that was accepted, defaults filled in (weight 1.0).

    Attributes:
        extensions: Its ``understudy:`` tags by name without the prefix, e.g. ``{"shadows": "many"}``:
            what AWS's API has no member for.
    """

    KIND: ClassVar[str] = "endpoint-config"
    name: str
    arn: str
    request: dict[str, Any]
    created_at_s: float
    modified_at_s: float
    extensions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FleetVariant:
    """One variant of one fleet: what it runs, its weights and its counts.

    Holds copies of the model's containers: deleting the Model or EndpointConfig must not
    touch a serving endpoint (as on AWS).

    Attributes:
        containers: In serial order; more than one is a pipeline.
        direct: InferenceExecutionConfig.Mode is Direct: the caller picks one container.
        desired_weight: Any non-negative float; share = weight / sum of production's weights.
        current_weight: What every router has acknowledged.
        desired_count: Instances wanted; ``current_count`` of them serve.
        startup_timeout_s: ContainerStartupHealthCheckTimeoutInSeconds.
        download_timeout_s: ModelDataDownloadTimeoutInSeconds.
        shadow: It gets copies and answers nobody.
        cpu_percent: The most that each instance may use of the processors, 100 is one; 0: no ceiling.
        images: Filled by control once instances are up: per container the image as specified, as
            resolved, and the epoch seconds of the resolution.
    """

    name: str
    model_name: str
    containers: tuple[Container, ...]
    instance_type: str = "ml.m5.large"
    direct: bool = False
    desired_weight: float = 1.0
    current_weight: float = 1.0
    desired_count: int = 1
    current_count: int = 0
    startup_timeout_s: int = 240
    download_timeout_s: int = 3600
    shadow: bool = False
    cpu_percent: int = 0
    images: tuple[tuple[str, str, float], ...] = ()


@dataclass(frozen=True)
class Fleet:
    """All instances of one EndpointConfig under one endpoint: blue or green in an update.

    Attributes:
        fleet_id: ``f1``, ``f2``, ... unique within the endpoint, for ever.
        variants: Production variants, then shadows.
        capture: What routers keep of requests and answers; None: nothing.
        data_capture: DataCaptureConfig by wire names, also when capture is switched off.
        noise_percent: So many of the captured requests are sent to their variant a second time.
    """

    fleet_id: str
    config_name: str
    variants: tuple[FleetVariant, ...]
    capture: CaptureRoute | None = None
    data_capture: dict[str, Any] | None = None
    noise_percent: int = 0


@dataclass(frozen=True)
class PendingUpdate:
    """An operation that control is carrying out; None of them left behind is the steady state.

    Attributes:
        kind: ``create``, ``update``, ``weights`` or ``delete``.
        phase: One of :mod:`core.rollout_terms`.
        phase_at_s: Time at which the phase began, by the clock of the endpoint loop.
        fleet: The fleet to bring up (``create``, ``update``).
        requested_at_s: Wall time of the request.
        deployment_config: UpdateEndpoint's or CreateEndpoint's DeploymentConfig, by wire names.
        started_at_s: Since when the deployment's time limit runs; None: control has not looked at it yet.
        step: Steps of traffic, or batches, that have been taken.
        share: Part of all requests that ``fleet`` answers, in [0, 1].
        green_count: Of a rolling update: instances of the new fleet that should run; None: all.
        blue_count: Of a rolling update: instances of the old fleet that should run; None: all.
        stop_reason: Somebody asked to go back, and why.
        rollback_reason: It is being rolled back, and why.
    """

    kind: str
    requested_at_s: float
    fleet: Fleet | None = None
    deployment_config: dict[str, Any] = field(default_factory=dict)
    phase: str = "preparing"
    phase_at_s: float = 0.0
    started_at_s: float | None = None
    step: int = 0
    share: float = 0.0
    green_count: int | None = None
    blue_count: int | None = None
    stop_reason: str | None = None
    rollback_reason: str | None = None


@dataclass(frozen=True)
class Mix:
    """What a failed rolling update whose rollback failed too has left: a second fleet that serves.

    Attributes:
        share: Part of all requests that it answers.
    """

    fleet: Fleet
    share: float


@dataclass(frozen=True)
class Endpoint:
    """One endpoint.

    Attributes:
        config_name: The EndpointConfig that Describe names: the one that serves.
        fleet: The fleet that serves, or None before the first is up and after a failed create.
        retiring: Fleets that get no new requests and are stopped once drained.
        update: The operation under way.
        next_fleet: Number of the next fleet.
        deployment_config: LastDeploymentConfig, by wire names.
        extensions: Its ``understudy:`` tags by name without the prefix, e.g. ``{"sticky": "session-id"}``.
        mix: Only in UpdateRollbackFailed, and until an update has replaced it.
    """

    KIND: ClassVar[str] = "endpoint"
    name: str
    arn: str
    config_name: str
    status: EndpointStatus
    created_at_s: float
    modified_at_s: float
    failure_reason: str | None = None
    fleet: Fleet | None = None
    retiring: tuple[Fleet, ...] = ()
    update: PendingUpdate | None = None
    next_fleet: int = 1
    deployment_config: dict[str, Any] | None = None
    extensions: dict[str, str] = field(default_factory=dict)
    mix: Mix | None = None
