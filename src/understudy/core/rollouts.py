"""How an endpoint gets from what it is to what it should be: one small action at a time.

Everything that affects an endpoint's lifecycle lives in this file.  ``decide`` is a pure function
of one snapshot: control observes, decides, acts, records, and asks again.  The record is written
before its effect (a shift is stored, then routed; a stop is stored, then done), and every action may
be repeated, so a crash anywhere resumes.

Phases of a pending update, by kind::

    kind      preparing                    shifting                     draining               then
    create    start the fleet              routers take it              -                      InService
    update    start green beside blue      routers take green           blue is stopped        InService
    weights   start added instances        routers take the weights     surplus is stopped     InService
    delete    -                            routers forget the endpoint  all are stopped        gone

Whatever fails while preparing leaves routing untouched: a create ends Failed, an update and a
change of weights go back to InService with the FailureReason, without one request lost.

A shadow is a variant like any other until it serves: one that can't come up ends its create or update.
From then on it can't hurt: it is restarted when it dies, and the endpoint's status does not depend on it.

Source: SageMaker's DescribeEndpoint and deployment-guardrails documentation; the shape of the
decision is TensorFlow Serving's AspiredVersionPolicy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.ports import InstanceStatus
from understudy.core.routing import EndpointRoute, InstanceRoute, ShadowRoute, VariantRoute, shadow_share

PREPARING, SHIFTING, DRAINING = "preparing", "shifting", "draining"

LEGAL_PHASES: dict[str, tuple[str, ...]] = {
    "create": (PREPARING, SHIFTING),
    "update": (PREPARING, SHIFTING, DRAINING),
    "weights": (PREPARING, SHIFTING, DRAINING),
    "delete": (SHIFTING, DRAINING),
}

MODEL_TIMEOUT_S = 60.0  # AWS: a container must answer within 60 s


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
class RolloutSnapshot:
    """All that a decision about one endpoint may depend on.

    Attributes:
        instances: Every instance that the runtime knows of this endpoint.
        route_acknowledged: Every router serves exactly :func:`route_of` this record.
        restart_at_s: For slots whose instance failed while serving: not before this time.
        cold: The server has just started and none of the endpoint's instances survived.
    """

    endpoint: Endpoint
    now_s: float
    instances: tuple[InstanceView, ...] = ()
    route_acknowledged: bool = False
    restart_at_s: Mapping[Slot, float] = field(default_factory=dict)
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


def decide(snapshot: RolloutSnapshot) -> RolloutAction | None:
    """Name the next thing to do for one endpoint, or None when there is nothing to do now.

    Repeatable: the same snapshot gives the same action, and doing it twice is doing it once.
    """
    endpoint = snapshot.endpoint
    update = endpoint.update
    if snapshot.cold and update is None and endpoint.status is EndpointStatus.IN_SERVICE:
        recovering = replace(endpoint, status=EndpointStatus.SYSTEM_UPDATING)
        return SaveEndpoint(recovering, "EndpointRecovering", {"why": "the server was started again"})
    return _tidy(snapshot) or _fill(snapshot) or _advance(snapshot)


def wanted_slots(endpoint: Endpoint, now_s: float) -> dict[Slot, FleetVariant]:
    """Name the slots that should hold an instance, and what each should run."""
    update = endpoint.update
    if update is not None and update.kind == "delete":
        return {}
    slots: dict[Slot, FleetVariant] = {}
    if endpoint.fleet is not None:
        # A shrinking variant keeps its surplus until routers have let go of it.
        shrinking = update is not None and update.kind == "weights" and update.phase == PREPARING
        slots.update(_slots_of(endpoint.fleet, keep_current=shrinking))
    if update is not None and update.fleet is not None and update.phase == PREPARING:
        slots.update(_slots_of(update.fleet, keep_current=False))
    if update is not None and (
        update.phase == SHIFTING or (update.phase == DRAINING and now_s < _termination_at_s(update))
    ):
        for fleet in endpoint.retiring:
            slots.update(_slots_of(fleet, keep_current=False))
    return slots


def _slots_of(fleet: Fleet, *, keep_current: bool) -> dict[Slot, FleetVariant]:
    return {
        Slot(fleet.fleet_id, variant.name, number): variant
        for variant in fleet.variants
        for number in range(
            max(variant.desired_count, variant.current_count) if keep_current else variant.desired_count
        )
    }


def _termination_at_s(update: PendingUpdate) -> float:
    policy = update.deployment_config.get("BlueGreenUpdatePolicy", {})
    return update.phase_at_s + float(policy.get("TerminationWaitInSeconds", 0))


def route_of(endpoint: Endpoint, instances: Iterable[InstanceView]) -> EndpointRoute | None:
    """Say what routers should do with requests for this endpoint; None: it is not there.

    Only instances that are ready and within the current count take requests.
    """
    fleet = endpoint.fleet
    if fleet is None or (endpoint.update is not None and endpoint.update.kind == "delete"):
        return None
    ready: dict[str, list[InstanceView]] = {}
    for instance in instances:
        if (
            instance.status is InstanceStatus.READY
            and not instance.stopping
            and instance.slot.fleet_id == fleet.fleet_id
        ):
            ready.setdefault(instance.slot.variant_name, []).append(instance)
    production = [variant for variant in fleet.variants if not variant.shadow]
    production_weight = sum(variant.current_weight for variant in production)
    return EndpointRoute(
        name=endpoint.name,
        variants=tuple(
            VariantRoute(
                name=variant.name,
                weight=variant.current_weight,
                config_name=fleet.config_name,
                instances=_instance_routes(variant, ready),
                timeout_s=MODEL_TIMEOUT_S,
                containers=_hostnames(variant),
            )
            for variant in production
        ),
        shadows=tuple(
            ShadowRoute(
                name=variant.name,
                share=shadow_share(variant.current_weight, production_weight),
                config_name=fleet.config_name,
                instances=_instance_routes(variant, ready),
                timeout_s=MODEL_TIMEOUT_S,
                containers=_hostnames(variant),
            )
            for variant in fleet.variants
            if variant.shadow
        ),
        capture=fleet.capture,
        noise_share=fleet.noise_percent / 100.0,
    )


def _instance_routes(
    variant: FleetVariant, ready: Mapping[str, list[InstanceView]]
) -> tuple[InstanceRoute, ...]:
    return tuple(
        InstanceRoute(instance.instance_id, instance.address)
        for instance in sorted(ready.get(variant.name, []), key=lambda i: i.slot.number)
        if instance.slot.number < variant.current_count
    )


def _hostnames(variant: FleetVariant) -> tuple[str, ...]:
    return tuple(container.hostname for container in variant.containers)


# --- what must not run -----------------------------------------------------------------------------


def _tidy(snapshot: RolloutSnapshot) -> RolloutAction | None:
    """Stop what is not wanted and unused, and clear away what failed while serving."""
    wanted = wanted_slots(snapshot.endpoint, snapshot.now_s)
    incoming = _incoming(snapshot.endpoint)
    for instance in snapshot.instances:
        if instance.stopping:
            continue
        ended = instance.status in (InstanceStatus.FAILED, InstanceStatus.STOPPED)
        if instance.slot not in wanted:
            if ended or not instance.routed:
                return StopInstance(instance.instance_id, instance.slot)
        elif ended and instance.slot not in incoming:
            return StopInstance(instance.instance_id, instance.slot, failed=True, reason=instance.reason)
    return None


def _incoming(endpoint: Endpoint) -> set[Slot]:
    """Slots whose failure ends the update instead of being retried: they have never served."""
    update = endpoint.update
    if update is None or update.phase != PREPARING:
        return set()
    if update.fleet is not None:
        return set(_slots_of(update.fleet, keep_current=False))
    if update.kind == "weights" and endpoint.fleet is not None:
        counts = {variant.name: variant.current_count for variant in endpoint.fleet.variants}
        slots = _slots_of(endpoint.fleet, keep_current=False)
        return {slot for slot in slots if slot.number >= counts[slot.variant_name]}
    return set()


# --- what should run -------------------------------------------------------------------------------


def _fill(snapshot: RolloutSnapshot) -> RolloutAction | None:
    taken = {instance.slot for instance in snapshot.instances}
    retiring = {fleet.fleet_id for fleet in snapshot.endpoint.retiring}
    for slot, variant in wanted_slots(snapshot.endpoint, snapshot.now_s).items():
        if slot in taken or slot.fleet_id in retiring:
            continue  # a retired fleet only waits for its end
        if snapshot.now_s >= snapshot.restart_at_s.get(slot, 0.0):
            return StartInstance(slot, variant)
    return None


# --- the update's own steps ------------------------------------------------------------------------


def _advance(snapshot: RolloutSnapshot) -> RolloutAction | None:
    endpoint, update = snapshot.endpoint, snapshot.endpoint.update
    if update is None:
        if endpoint.status is EndpointStatus.SYSTEM_UPDATING:
            return _recovered(snapshot)
        if endpoint.retiring and not _of_fleets(snapshot, endpoint.retiring):
            return SaveEndpoint(replace(endpoint, retiring=()), "FleetRemoved", _names(endpoint.retiring))
        return None
    if update.phase == PREPARING and update.kind != "delete":
        return _prepared(snapshot, update)
    if update.phase in (PREPARING, SHIFTING):
        return _shifted(snapshot, update)
    return _drained(snapshot, update)


def _prepared(snapshot: RolloutSnapshot, update: PendingUpdate) -> RolloutAction | None:
    endpoint = snapshot.endpoint
    incoming = _incoming(endpoint)
    ready = set()
    for instance in snapshot.instances:
        if instance.slot in incoming and not instance.stopping:
            if instance.status in (InstanceStatus.FAILED, InstanceStatus.STOPPED):
                return _failed(snapshot, update, instance)
            if instance.status is InstanceStatus.READY:
                ready.add(instance.slot)
    if incoming - ready:
        return None
    shifting = replace(update, phase=SHIFTING, phase_at_s=snapshot.now_s)
    if update.fleet is not None:
        fleet = _in_force(update.fleet, snapshot)
        retiring = endpoint.retiring + ((endpoint.fleet,) if endpoint.fleet is not None else ())
        # The fleet has one home at a time: from here on it is the endpoint's.
        after = replace(endpoint, fleet=fleet, retiring=retiring, update=replace(shifting, fleet=None))
    else:
        assert endpoint.fleet is not None  # weights change on a fleet that serves
        after = replace(endpoint, fleet=_in_force(endpoint.fleet, snapshot), update=shifting)
    assert after.fleet is not None
    return SaveEndpoint(
        after,
        "TrafficShifting",
        {
            "config": after.fleet.config_name,
            "weights": {variant.name: variant.current_weight for variant in after.fleet.variants},
            "instances": {variant.name: variant.current_count for variant in after.fleet.variants},
        },
    )


def _failed(snapshot: RolloutSnapshot, update: PendingUpdate, instance: InstanceView) -> SaveEndpoint:
    """End an update whose new instances can't run; routing was not touched."""
    endpoint = snapshot.endpoint
    reason = f"Variant {instance.slot.variant_name}: {instance.reason or 'the instance stopped.'}"
    detail = {"reason": reason, "instance": instance.instance_id}
    common: dict[str, Any] = {"update": None, "failure_reason": reason, "modified_at_s": snapshot.now_s}
    if update.kind == "create":
        assert update.fleet is not None
        failed = replace(
            endpoint, status=EndpointStatus.FAILED, retiring=(*endpoint.retiring, update.fleet), **common
        )
        return SaveEndpoint(failed, "EndpointFailed", detail)
    if update.fleet is not None:
        kept = replace(
            endpoint, status=EndpointStatus.IN_SERVICE, retiring=(*endpoint.retiring, update.fleet), **common
        )
        return SaveEndpoint(kept, "UpdateRolledBack", detail)
    assert endpoint.fleet is not None
    variants = tuple(
        replace(variant, desired_weight=variant.current_weight, desired_count=variant.current_count)
        for variant in endpoint.fleet.variants
    )
    kept = replace(
        endpoint,
        status=EndpointStatus.IN_SERVICE,
        fleet=replace(endpoint.fleet, variants=variants),
        **common,
    )
    return SaveEndpoint(kept, "WeightsRolledBack", detail)


def _shifted(snapshot: RolloutSnapshot, update: PendingUpdate) -> RolloutAction | None:
    if not snapshot.route_acknowledged:
        return None
    endpoint = snapshot.endpoint
    if update.kind == "create":
        return _in_service(snapshot, "EndpointInService")
    draining = replace(update, phase=DRAINING, phase_at_s=snapshot.now_s)
    return SaveEndpoint(replace(endpoint, update=draining), "TrafficShifted", {"kind": update.kind})


def _drained(snapshot: RolloutSnapshot, update: PendingUpdate) -> RolloutAction | None:
    endpoint = snapshot.endpoint
    if update.kind == "delete":
        return None if snapshot.instances else RemoveEndpoint()
    wanted = wanted_slots(snapshot.endpoint, snapshot.now_s)
    if any(instance.slot not in wanted for instance in snapshot.instances):
        return None
    if any(slot.fleet_id in {fleet.fleet_id for fleet in endpoint.retiring} for slot in wanted):
        return None  # the termination wait is not over
    return _in_service(snapshot, "EndpointUpdated" if update.kind == "update" else "WeightsChanged")


def _recovered(snapshot: RolloutSnapshot) -> RolloutAction | None:
    """After a restart: InService again once every wanted instance that answers callers serves."""
    endpoint = snapshot.endpoint
    ready = {i.slot for i in snapshot.instances if i.status is InstanceStatus.READY}
    wanted = wanted_slots(endpoint, snapshot.now_s)
    if snapshot.route_acknowledged and {slot for slot, one in wanted.items() if not one.shadow} <= ready:
        return _in_service(snapshot, "EndpointRecovered")
    return None


def _in_service(snapshot: RolloutSnapshot, event: str) -> SaveEndpoint:
    endpoint, update = snapshot.endpoint, snapshot.endpoint.update
    assert endpoint.fleet is not None
    deployed = update.deployment_config if update is not None and update.deployment_config else None
    after = replace(
        endpoint,
        status=EndpointStatus.IN_SERVICE,
        config_name=endpoint.fleet.config_name,
        fleet=_in_force(endpoint.fleet, snapshot),
        retiring=() if update is not None and update.phase == DRAINING else endpoint.retiring,
        update=None,
        failure_reason=None,
        modified_at_s=snapshot.now_s,
        deployment_config=deployed or endpoint.deployment_config,
    )
    return SaveEndpoint(after, event, {"config": after.config_name})


def _in_force(fleet: Fleet, snapshot: RolloutSnapshot) -> Fleet:
    """The fleet with its desired weights and counts made current, and the images that really run."""
    images = {
        instance.slot.variant_name: instance.images
        for instance in snapshot.instances
        if instance.slot.fleet_id == fleet.fleet_id and instance.images
    }
    return replace(
        fleet,
        variants=tuple(
            replace(
                variant,
                current_weight=variant.desired_weight,
                current_count=variant.desired_count,
                images=images.get(variant.name, variant.images),
            )
            for variant in fleet.variants
        ),
    )


def _of_fleets(snapshot: RolloutSnapshot, fleets: Iterable[Fleet]) -> list[InstanceView]:
    ids = {fleet.fleet_id for fleet in fleets}
    return [instance for instance in snapshot.instances if instance.slot.fleet_id in ids]


def _names(fleets: Iterable[Fleet]) -> dict[str, Any]:
    return {"configs": [fleet.config_name for fleet in fleets]}
