"""UpdateEndpoint, step by step: a new fleet takes the traffic, and gives it back when something is wrong.

Owns the steps of an update after its instances were started; :mod:`core.rollouts` owns starting and
stopping them.  Main functions: :func:`trouble_of`, :func:`roll_back`, :func:`advance_update`.

Blue is the fleet that serves (``endpoint.fleet``), green the new one (``update.fleet``)::

    all at once, canary, linear                       rolling
    PREPARING  all of green comes up                  a batch of green comes up
    SHIFTING   routers take green's next share        routers take the batch, in place of as much of blue
    BAKING     alarms are watched                     alarms are watched; then that much of blue ends
    ...        next share                             next batch
    WAITING    blue stands by                         -
    DRAINING   green is the endpoint's fleet; blue ends

Until DRAINING blue can answer everything again.  Going back::

    RETURNING  routers take all from green            routers take from green what blue can answer
    RESTORING  -                                      a batch of blue comes up; back to RETURNING
    DRAINING   green ends; the endpoint is InService with the reason

Nothing goes on while an instance of green is missing, and blue never ends before green has baked.  A bake
begins when every router has taken the step, is kept as a time in the record, and is neither begun again nor
cut short by a restart.

Source: SageMaker's "Deployment guardrails" pages; botocore's documentation of DeploymentConfig.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from understudy.core.alarms import AlarmState
from understudy.core.deployments import ROLLING, DeploymentPlan, plan_of, production
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, Mix, PendingUpdate
from understudy.core.ports import InstanceStatus
from understudy.core.rollout_ends import in_service, kept_old
from understudy.core.rollout_routes import (
    in_force,
    incoming_slots,
    ready_slots,
    wanted_slots,
    with_current_count,
)
from understudy.core.rollout_terms import (
    BAKING,
    DRAINING,
    FORWARD,
    PREPARING,
    RESTORING,
    RETURNING,
    SHIFTING,
    WAITING,
    RolloutSnapshot,
    SaveEndpoint,
)

# An instance that ended so often in a row is no accident: the first restart is at once, the third not tried.
HOPELESS = 3


def trouble_of(snapshot: RolloutSnapshot) -> tuple[str, dict[str, Any]] | None:
    """Say why an update must go back, and facts for the audit trail; None: it may go on."""
    update = snapshot.endpoint.update
    if update is None or update.kind != "update" or update.fleet is None or update.phase not in FORWARD:
        return None
    if update.stop_reason is not None:
        return update.stop_reason, {"why": "asked"}
    for alarm in snapshot.alarms:
        if alarm.state is AlarmState.ALARM:
            detail = {"why": "alarm", "alarm": alarm.name, "alarm_reason": alarm.reason}
            return f"Alarm {alarm.name} is in ALARM state: {alarm.reason}".rstrip(": "), detail
        if alarm.state is None:
            # A bake that nobody watches proves nothing.
            reason = f"Alarm {alarm.name} of the AutoRollbackConfiguration does not exist any more."
            return reason, {"why": "alarm is missing", "alarm": alarm.name}
    limit_s = plan_of(update.deployment_config).timeout_s
    if (
        limit_s is not None
        and update.started_at_s is not None
        and update.phase != WAITING
        and snapshot.now_s - update.started_at_s > limit_s
    ):
        reason = f"The deployment took longer than MaximumExecutionTimeoutInSeconds ({limit_s:g})."
        return reason, {"why": "timeout"}
    return _failing_green(snapshot, update)


def _failing_green(snapshot: RolloutSnapshot, update: PendingUpdate) -> tuple[str, dict[str, Any]] | None:
    """New instances that can't start, and later those that can't stay."""
    assert update.fleet is not None
    incoming = incoming_slots(snapshot.endpoint)
    for instance in snapshot.instances:
        ended = instance.status in (InstanceStatus.FAILED, InstanceStatus.STOPPED)
        if ended and instance.slot in incoming and not instance.stopping:
            reason = f"Variant {instance.slot.variant_name}: {instance.reason or 'the instance stopped.'}"
            return reason, {"why": "instance failed", "instance": instance.instance_id}
    shadows = {variant.name for variant in update.fleet.variants if variant.shadow}
    for slot, failures in snapshot.failures.items():
        green = slot.fleet_id == update.fleet.fleet_id and slot.variant_name not in shadows
        if green and failures.count >= HOPELESS:
            reason = f"Variant {slot.variant_name}: an instance keeps ending: {failures.reason}"
            return reason, {"why": "instance keeps failing", "failures": failures.count}
    return None


def roll_back(snapshot: RolloutSnapshot, reason: str, detail: dict[str, Any]) -> SaveEndpoint:
    """Turn round: what green answers, blue answers again; green is stopped later."""
    endpoint, update = snapshot.endpoint, snapshot.endpoint.update
    assert update is not None and update.fleet is not None and endpoint.fleet is not None
    to = {"from": update.fleet.config_name, "to": endpoint.fleet.config_name}
    if update.share <= 0.0:
        return kept_old(snapshot, reason, "UpdateRolledBack", {**to, **detail})
    # The status stays Updating, as on AWS: RollingBack is for weights and capacities.
    going_back = replace(endpoint, modified_at_s=snapshot.now_s)
    returning = _give_back(going_back, replace(update, rollback_reason=reason), snapshot.now_s)
    return SaveEndpoint(returning, "RollbackStarted", {"reason": reason, **to, **detail})


def _give_back(endpoint: Endpoint, update: PendingUpdate, now_s: float) -> Endpoint:
    """Route to blue as much as its instances can answer: all, but in the middle of a rolling update."""
    assert update.fleet is not None and endpoint.fleet is not None
    blue, share = endpoint.fleet, 0.0
    green = update.fleet
    if update.blue_count is not None:
        (blue_size,), (green_size,) = _sizes(blue), _sizes(green)
        share = max(0.0, 1.0 - update.blue_count / blue_size)
        blue = with_current_count(blue, update.blue_count)
        if share > 0.0:
            green = with_current_count(green, math.ceil(green_size * share))
    returning = replace(update, fleet=green, phase=RETURNING, phase_at_s=now_s, share=share)
    return replace(endpoint, fleet=blue, update=returning)


def _sizes(fleet: Fleet) -> tuple[int, ...]:
    return tuple(variant.desired_count for variant in production(fleet))


# --- forward ---------------------------------------------------------------------------------------


def advance_update(snapshot: RolloutSnapshot) -> SaveEndpoint | None:
    """Name an update's next step, or None while it waits for instances, routers or time."""
    update = snapshot.endpoint.update
    assert update is not None
    if update.phase == DRAINING or update.fleet is None:
        return _drained(snapshot)
    if update.phase == RETURNING:
        return _returned(snapshot, update)
    if update.phase == RESTORING:
        return _restored(snapshot, update)
    plan = plan_of(update.deployment_config)
    if update.started_at_s is None:
        return _started(snapshot, update, plan)
    if update.phase == WAITING:
        return _committed(snapshot, update) if _elapsed(snapshot, update, plan.termination_s) else None
    if not _green_is_whole(snapshot, update):
        return None
    if update.phase == PREPARING:
        return _shift(snapshot, update, plan)
    if update.phase == SHIFTING:
        if not snapshot.route_acknowledged:
            return None
        if plan.wait_s > 0.0:
            baking = replace(update, phase=BAKING, phase_at_s=snapshot.now_s)
            return _save(snapshot, baking, "BakingStarted", {**_told(baking), "seconds": plan.wait_s})
    elif not _elapsed(snapshot, update, plan.wait_s) or not snapshot.route_acknowledged:
        return None
    if update.share < 1.0:
        return _next_batch(snapshot, update, plan) if plan.kind == ROLLING else _shift(snapshot, update, plan)
    if plan.termination_s > 0.0:
        waiting = replace(update, phase=WAITING, phase_at_s=snapshot.now_s)
        return _save(snapshot, waiting, "TerminationWaitStarted", {"seconds": plan.termination_s})
    return _committed(snapshot, update)


def _started(snapshot: RolloutSnapshot, update: PendingUpdate, plan: DeploymentPlan) -> SaveEndpoint:
    endpoint = snapshot.endpoint
    assert update.fleet is not None and endpoint.fleet is not None
    started = replace(update, started_at_s=snapshot.now_s, phase_at_s=snapshot.now_s)
    if plan.kind == ROLLING:
        (blue_size,) = _sizes(endpoint.fleet)
        started = replace(started, blue_count=blue_size, green_count=_batch(update.fleet, plan))
    detail = {
        "from": endpoint.fleet.config_name,
        "to": update.fleet.config_name,
        "type": plan.kind,
        "alarms": list(plan.alarms),
    }
    return _save(snapshot, started, "DeploymentStarted", detail)


def _batch(green: Fleet, plan: DeploymentPlan) -> int:
    assert plan.size is not None  # a rolling update has a MaximumBatchSize
    return plan.size.instances_of(_sizes(green)[0])


def _elapsed(snapshot: RolloutSnapshot, update: PendingUpdate, wait_s: float) -> bool:
    """Whether a wait is over, and was watched to its end if there is who watches."""
    if snapshot.alarms and not snapshot.watched:
        return False
    return snapshot.now_s - update.phase_at_s >= wait_s


def _green_is_whole(snapshot: RolloutSnapshot, update: PendingUpdate) -> bool:
    """Whether every instance of green that should run is ready; shadows only before they serve."""
    assert update.fleet is not None
    green = update.fleet.fleet_id
    first = update.phase == PREPARING and update.step == 0
    wanted = {
        slot
        for slot, variant in wanted_slots(snapshot.endpoint).items()
        if slot.fleet_id == green and (first or not variant.shadow)
    }
    return wanted <= ready_slots(snapshot)


def _shift(snapshot: RolloutSnapshot, update: PendingUpdate, plan: DeploymentPlan) -> SaveEndpoint:
    """Give green its next share."""
    endpoint = snapshot.endpoint
    assert update.fleet is not None and endpoint.fleet is not None
    green, blue = update.fleet, endpoint.fleet
    if plan.kind == ROLLING:
        (green_size,), (blue_size,) = _sizes(green), _sizes(blue)
        count = green_size if update.green_count is None else update.green_count
        share = min(1.0, count / green_size)
        blue = with_current_count(blue, math.ceil(blue_size * (1.0 - share) - 1e-9))
        green = in_force(green, snapshot, most=count)
    else:
        shares = plan.shares(green)
        share = shares[min(update.step, len(shares) - 1)]
        green = in_force(green, snapshot)
    shifting = replace(
        update, fleet=green, phase=SHIFTING, phase_at_s=snapshot.now_s, step=update.step + 1, share=share
    )
    after = replace(endpoint, fleet=blue, update=shifting)
    detail = {
        **_told(shifting),
        "config": green.config_name,
        "weights": {variant.name: variant.current_weight for variant in green.variants},
        "instances": {variant.name: variant.current_count for variant in green.variants},
    }
    return SaveEndpoint(after, "TrafficShifting", detail)


def _next_batch(snapshot: RolloutSnapshot, update: PendingUpdate, plan: DeploymentPlan) -> SaveEndpoint:
    """End the part of blue that green has replaced and bring up the next part of green."""
    endpoint = snapshot.endpoint
    assert update.fleet is not None and endpoint.fleet is not None
    (size,) = _sizes(update.fleet)
    green = min(size, (update.green_count or 0) + _batch(update.fleet, plan))
    blue = production(endpoint.fleet)[0].current_count
    batch = replace(
        update, phase=PREPARING, phase_at_s=snapshot.now_s, green_count=green, blue_count=max(blue, 0)
    )
    return _save(snapshot, batch, "BatchStarted", {"new_instances": green, "old_instances": blue})


def _committed(snapshot: RolloutSnapshot, update: PendingUpdate) -> SaveEndpoint | None:
    """From here on green is the endpoint's fleet, and there is no way back."""
    if not (_green_is_whole(snapshot, update) and snapshot.route_acknowledged):
        return None
    endpoint = snapshot.endpoint
    assert update.fleet is not None and endpoint.fleet is not None
    old = (endpoint.fleet,) if endpoint.mix is None else (endpoint.fleet, endpoint.mix.fleet)
    draining = replace(
        update, fleet=None, phase=DRAINING, phase_at_s=snapshot.now_s, green_count=None, blue_count=None
    )
    after = replace(
        endpoint, fleet=update.fleet, retiring=(*endpoint.retiring, *old), update=draining, mix=None
    )
    detail = {"kind": "update", "from": endpoint.fleet.config_name, "to": update.fleet.config_name}
    return SaveEndpoint(after, "TrafficShifted", detail)


def _drained(snapshot: RolloutSnapshot) -> SaveEndpoint | None:
    """Wait until what no longer answers anybody has ended."""
    update = snapshot.endpoint.update
    assert update is not None
    wanted = wanted_slots(snapshot.endpoint)
    if any(instance.slot not in wanted for instance in snapshot.instances):
        return None
    return in_service(snapshot, "EndpointUpdated" if update.rollback_reason is None else "UpdateRolledBack")


# --- back ------------------------------------------------------------------------------------------


def _returned(snapshot: RolloutSnapshot, update: PendingUpdate) -> SaveEndpoint | None:
    """Once routers have taken from green what they should: end it, or bring up more of blue."""
    if not snapshot.route_acknowledged:
        return None
    endpoint = snapshot.endpoint
    assert update.fleet is not None and endpoint.fleet is not None
    if update.share <= 0.0:
        draining = replace(
            update, fleet=None, phase=DRAINING, phase_at_s=snapshot.now_s, green_count=None, blue_count=None
        )
        after = replace(endpoint, retiring=(*endpoint.retiring, update.fleet), update=draining)
        return SaveEndpoint(after, "TrafficReturned", {"config": endpoint.fleet.config_name})
    plan = plan_of(update.deployment_config)
    (size,) = _sizes(endpoint.fleet)
    batch = size if plan.rollback_size is None else plan.rollback_size.instances_of(size)
    blue = min(size, (update.blue_count or 0) + batch)
    green = production(update.fleet)[0].current_count
    restoring = replace(
        update, phase=RESTORING, phase_at_s=snapshot.now_s, blue_count=blue, green_count=green
    )
    return _save(snapshot, restoring, "RollbackBatchStarted", {"new_instances": green, "old_instances": blue})


def _restored(snapshot: RolloutSnapshot, update: PendingUpdate) -> SaveEndpoint | None:
    """Blue's next batch is up, or can't come up."""
    endpoint = snapshot.endpoint
    assert update.fleet is not None and endpoint.fleet is not None
    blue = endpoint.fleet
    for slot, failures in snapshot.failures.items():
        if slot.fleet_id == blue.fleet_id and failures.count >= HOPELESS:
            return _stuck(snapshot, update, f"Variant {slot.variant_name}: {failures.reason}")
    shadows = {variant.name for variant in blue.variants if variant.shadow}
    wanted = {slot for slot in wanted_slots(endpoint) if slot.fleet_id == blue.fleet_id}
    if not {slot for slot in wanted if slot.variant_name not in shadows} <= ready_slots(snapshot):
        return None
    after = _give_back(endpoint, update, snapshot.now_s)
    assert after.update is not None
    return SaveEndpoint(after, "TrafficReturning", _told(after.update))


def _stuck(snapshot: RolloutSnapshot, update: PendingUpdate, problem: str) -> SaveEndpoint:
    """Neither forward nor back: both configurations serve on, each with the instances that it has."""
    endpoint = snapshot.endpoint
    assert update.fleet is not None and endpoint.fleet is not None
    reason = f"{update.rollback_reason} The rollback failed too: {problem}"
    mixed = replace(
        endpoint,
        status=EndpointStatus.UPDATE_ROLLBACK_FAILED,
        fleet=_as_it_is(endpoint.fleet),
        mix=Mix(_as_it_is(update.fleet), update.share),
        update=None,
        failure_reason=reason,
        modified_at_s=snapshot.now_s,
    )
    detail = {
        "reason": reason,
        "configs": {endpoint.fleet.config_name: 1.0 - update.share, update.fleet.config_name: update.share},
    }
    return SaveEndpoint(mixed, "UpdateRollbackFailed", detail)


def _as_it_is(fleet: Fleet) -> Fleet:
    return replace(
        fleet,
        variants=tuple(replace(variant, desired_count=variant.current_count) for variant in fleet.variants),
    )


# --- plumbing --------------------------------------------------------------------------------------


def _save(
    snapshot: RolloutSnapshot, update: PendingUpdate, event: str, detail: dict[str, Any]
) -> SaveEndpoint:
    return SaveEndpoint(replace(snapshot.endpoint, update=update), event, detail)


def _told(update: PendingUpdate) -> dict[str, Any]:
    return {"step": update.step, "share_percent": round(update.share * 100.0, 6)}
