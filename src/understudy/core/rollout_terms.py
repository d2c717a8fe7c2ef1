"""The words of rollouts: phases, what a decision may look at, and what it can say.

Owns the table of phases (:data:`NEXT_PHASES`), :class:`RolloutSnapshot` and the actions.  Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.core.alarms import AlarmState
from understudy.core.endpoints import Endpoint, FleetVariant
from understudy.core.ports import InstanceStatus

PREPARING, SHIFTING, BAKING, WAITING = "preparing", "shifting", "baking", "waiting"
RETURNING, RESTORING, DRAINING = "returning", "restoring", "draining"

# Per kind of operation: the phases it can be in, and which can follow each.  After DRAINING, and from
# PREPARING when nothing was routed yet, the operation ends.
NEXT_PHASES: dict[str, dict[str, tuple[str, ...]]] = {
    "create": {PREPARING: (SHIFTING,), SHIFTING: ()},
    "update": {
        PREPARING: (PREPARING, SHIFTING, RETURNING),
        SHIFTING: (BAKING, SHIFTING, PREPARING, WAITING, DRAINING, RETURNING),
        BAKING: (SHIFTING, PREPARING, WAITING, DRAINING, RETURNING),
        WAITING: (DRAINING, RETURNING),
        RETURNING: (RESTORING, DRAINING),
        RESTORING: (RETURNING,),
        DRAINING: (),
    },
    "weights": {PREPARING: (SHIFTING,), SHIFTING: (DRAINING,), DRAINING: ()},
    "delete": {SHIFTING: (DRAINING,), DRAINING: ()},
}

FORWARD = frozenset({PREPARING, SHIFTING, BAKING, WAITING})
"""Phases of an update that can still be rolled back."""


@dataclass(frozen=True)
class Slot:
    """A place for one instance: number ``number`` of a variant of a fleet."""

    fleet_id: str
    variant_name: str
    number: int


@dataclass(frozen=True)
class InstanceView:
    """One instance as control sees it.

    Attributes:
        routed: Some router may hand it a request, or has one in flight there.
        stopping: It was told to stop and is not gone yet.
    """

    instance_id: str
    slot: Slot
    status: InstanceStatus
    address: str = ""
    reason: str = ""
    images: tuple[tuple[str, str, float], ...] = ()
    routed: bool = False
    stopping: bool = False


@dataclass(frozen=True)
class AlarmView:
    """One alarm of AutoRollbackConfiguration; ``state`` None: there is no alarm of that name."""

    name: str
    state: AlarmState | None
    reason: str = ""


@dataclass(frozen=True)
class SlotFailures:
    """How often the instances of a slot ended lately, and what the last one said."""

    count: int
    reason: str = ""


@dataclass(frozen=True)
class RolloutSnapshot:
    """All that a decision about one endpoint may depend on.

    Attributes:
        now_s: By a clock that neither jumps nor stands still, see :mod:`control.steady`.
        instances: Every instance that the runtime knows of this endpoint.
        route_acknowledged: Every router serves exactly ``route_of`` this record.
        restart_at_s: For slots whose instance failed while serving: not before this time.
        failures: Of the same slots.
        alarms: Those that the update under way names.
        watched: The alarms have been looked at since this controller began: a bake may end.
        cold: The server has just started and none of the endpoint's instances survived.
    """

    endpoint: Endpoint
    now_s: float
    instances: tuple[InstanceView, ...] = ()
    route_acknowledged: bool = False
    restart_at_s: Mapping[Slot, float] = field(default_factory=dict)
    failures: Mapping[Slot, SlotFailures] = field(default_factory=dict)
    alarms: tuple[AlarmView, ...] = ()
    watched: bool = True
    cold: bool = False


@dataclass(frozen=True)
class StartInstance:
    """Fill an empty slot."""

    slot: Slot
    variant: FleetVariant


@dataclass(frozen=True)
class StopInstance:
    """Stop an instance that no router uses; ``failed`` ones count toward their slot's back-off."""

    instance_id: str
    slot: Slot
    failed: bool = False
    reason: str = ""


@dataclass(frozen=True)
class SaveEndpoint:
    """Write the next state of the record, with a line for the audit trail."""

    endpoint: Endpoint
    event: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RemoveEndpoint:
    """The end of a delete: drop the record."""


RolloutAction = StartInstance | StopInstance | SaveEndpoint | RemoveEndpoint

# Kinds of line that decisions write into an endpoint's audit trail, in the order of an endpoint's life.
EVENTS = (
    "TrafficShifting",  # a step of traffic is decided
    "EndpointInService",
    "EndpointFailed",
    "DeploymentStarted",
    "BatchStarted",
    "BakingStarted",
    "TerminationWaitStarted",
    "TrafficShifted",  # all of it: from here there is no way back
    "EndpointUpdated",
    "RollbackStarted",
    "RollbackBatchStarted",
    "TrafficReturning",
    "TrafficReturned",
    "UpdateRolledBack",
    "UpdateRollbackFailed",
    "WeightsChanged",
    "WeightsRolledBack",
    "FleetRemoved",
    "EndpointRecovering",
    "EndpointRecovered",
)

# Those after which routers have something else to do than before.
ROUTING_EVENTS = frozenset(
    {
        "TrafficShifting",
        "TrafficShifted",
        "RollbackStarted",
        "TrafficReturning",
        "UpdateRollbackFailed",
        "WeightsRolledBack",
    }
)
