"""How an endpoint gets from what it is to what it should be: one small action at a time.

``decide`` is a pure function of one snapshot: control observes, decides, acts, records, and asks again.  The
record is written before its effect (a shift is stored, then routed; a stop is stored, then done), and every
action may be repeated, so a crash anywhere resumes.

Owns the order of things, starting and stopping, and creating, changing weights, deleting and recovering.
The steps of an update, with its bakes and its way back, are :mod:`core.guarded_updates`; what a record means
for instances and routers is :mod:`core.rollout_routes`; the words are :mod:`core.rollout_terms`.

Phases of an operation, by kind::

    kind      preparing                    shifting                     draining               then
    create    start the fleet              routers take it              -                      InService
    update    see core.guarded_updates                                  a fleet is stopped     InService
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

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from understudy.core.endpoints import EndpointStatus, Fleet, PendingUpdate
from understudy.core.guarded_updates import advance_update, roll_back, trouble_of
from understudy.core.ports import InstanceStatus
from understudy.core.rollout_ends import in_service, kept_old
from understudy.core.rollout_routes import in_force, incoming_slots, ready_slots, wanted_slots
from understudy.core.rollout_terms import (
    DRAINING,
    PREPARING,
    SHIFTING,
    InstanceView,
    RemoveEndpoint,
    RolloutAction,
    RolloutSnapshot,
    SaveEndpoint,
    StartInstance,
    StopInstance,
)


def decide(snapshot: RolloutSnapshot) -> RolloutAction | None:
    """Name the next thing to do for one endpoint, or None when there is nothing to do now.

    Repeatable: the same snapshot gives the same action, and doing it twice is doing it once.
    """
    endpoint = snapshot.endpoint
    update = endpoint.update
    if snapshot.cold and update is None and endpoint.status is EndpointStatus.IN_SERVICE:
        recovering = replace(endpoint, status=EndpointStatus.SYSTEM_UPDATING)
        return SaveEndpoint(recovering, "EndpointRecovering", {"why": "the server was started again"})
    trouble = trouble_of(snapshot)
    if trouble is not None:
        # Before all else: traffic must leave what is bad at once.
        return roll_back(snapshot, *trouble)
    if update is not None and update.kind == "update" and update.started_at_s is None:
        return advance_update(snapshot)
    return _tidy(snapshot) or _fill(snapshot) or _advance(snapshot)


# --- what must not run -----------------------------------------------------------------------------


def _tidy(snapshot: RolloutSnapshot) -> RolloutAction | None:
    """Stop what is not wanted and unused, and clear away what failed while serving."""
    wanted = wanted_slots(snapshot.endpoint)
    incoming = incoming_slots(snapshot.endpoint)
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


# --- what should run -------------------------------------------------------------------------------


def _fill(snapshot: RolloutSnapshot) -> RolloutAction | None:
    taken = {instance.slot for instance in snapshot.instances}
    for slot, variant in wanted_slots(snapshot.endpoint).items():
        if slot not in taken and snapshot.now_s >= snapshot.restart_at_s.get(slot, 0.0):
            return StartInstance(slot, variant)
    return None


# --- the operations' own steps ---------------------------------------------------------------------


def _advance(snapshot: RolloutSnapshot) -> RolloutAction | None:
    endpoint, update = snapshot.endpoint, snapshot.endpoint.update
    if update is None:
        if endpoint.status is EndpointStatus.SYSTEM_UPDATING:
            return _recovered(snapshot)
        if endpoint.retiring and not _of_fleets(snapshot, endpoint.retiring):
            return SaveEndpoint(replace(endpoint, retiring=()), "FleetRemoved", _names(endpoint.retiring))
        return None
    if update.kind == "update":
        return advance_update(snapshot)
    if update.phase == PREPARING and update.kind != "delete":
        return _prepared(snapshot, update)
    if update.phase in (PREPARING, SHIFTING):
        return _shifted(snapshot, update)
    return _drained(snapshot, update)


def _prepared(snapshot: RolloutSnapshot, update: PendingUpdate) -> RolloutAction | None:
    endpoint = snapshot.endpoint
    incoming = incoming_slots(endpoint)
    for instance in snapshot.instances:
        ended = instance.status in (InstanceStatus.FAILED, InstanceStatus.STOPPED)
        if ended and instance.slot in incoming and not instance.stopping:
            return _failed(snapshot, update, instance)
    if not incoming <= ready_slots(snapshot):
        return None
    shifting = replace(update, phase=SHIFTING, phase_at_s=snapshot.now_s)
    # The fleet has one home at a time: from here on it is the endpoint's.
    fleet = update.fleet if update.fleet is not None else endpoint.fleet
    assert fleet is not None  # weights change on a fleet that serves
    fleet = in_force(fleet, snapshot)
    return SaveEndpoint(
        replace(endpoint, fleet=fleet, update=replace(shifting, fleet=None)),
        "TrafficShifting",
        {
            "config": fleet.config_name,
            "weights": {variant.name: variant.current_weight for variant in fleet.variants},
            "instances": {variant.name: variant.current_count for variant in fleet.variants},
        },
    )


def _failed(snapshot: RolloutSnapshot, update: PendingUpdate, instance: InstanceView) -> SaveEndpoint:
    """End an operation whose new instances can't run; routing was not touched."""
    endpoint = snapshot.endpoint
    reason = f"Variant {instance.slot.variant_name}: {instance.reason or 'the instance stopped.'}"
    detail: dict[str, Any] = {"instance": instance.instance_id}
    if update.kind == "create":
        assert update.fleet is not None
        failed = replace(
            endpoint,
            status=EndpointStatus.FAILED,
            retiring=(*endpoint.retiring, update.fleet),
            update=None,
            failure_reason=reason,
            modified_at_s=snapshot.now_s,
        )
        return SaveEndpoint(failed, "EndpointFailed", {"reason": reason, **detail})
    assert endpoint.fleet is not None
    variants = tuple(
        replace(variant, desired_weight=variant.current_weight, desired_count=variant.current_count)
        for variant in endpoint.fleet.variants
    )
    unchanged = replace(endpoint, fleet=replace(endpoint.fleet, variants=variants))
    return kept_old(replace(snapshot, endpoint=unchanged), reason, "WeightsRolledBack", detail)


def _shifted(snapshot: RolloutSnapshot, update: PendingUpdate) -> RolloutAction | None:
    if not snapshot.route_acknowledged:
        return None
    if update.kind == "create":
        return in_service(snapshot, "EndpointInService")
    draining = replace(update, phase=DRAINING, phase_at_s=snapshot.now_s)
    return SaveEndpoint(replace(snapshot.endpoint, update=draining), "TrafficShifted", {"kind": update.kind})


def _drained(snapshot: RolloutSnapshot, update: PendingUpdate) -> RolloutAction | None:
    if update.kind == "delete":
        return None if snapshot.instances else RemoveEndpoint()
    wanted = wanted_slots(snapshot.endpoint)
    if any(instance.slot not in wanted for instance in snapshot.instances):
        return None
    return in_service(snapshot, "WeightsChanged")


def _recovered(snapshot: RolloutSnapshot) -> RolloutAction | None:
    """After a restart: InService again once every wanted instance that answers callers serves."""
    wanted = wanted_slots(snapshot.endpoint)
    answering = {slot for slot, one in wanted.items() if not one.shadow}
    if snapshot.route_acknowledged and answering <= ready_slots(snapshot):
        return in_service(snapshot, "EndpointRecovered")
    return None


def _of_fleets(snapshot: RolloutSnapshot, fleets: Iterable[Fleet]) -> list[InstanceView]:
    ids = {fleet.fleet_id for fleet in fleets}
    return [instance for instance in snapshot.instances if instance.slot.fleet_id in ids]


def _names(fleets: Iterable[Fleet]) -> dict[str, Any]:
    return {"configs": [fleet.config_name for fleet in fleets]}
