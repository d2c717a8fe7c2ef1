"""How far a change of an endpoint is, for people: steps, shares, time left, alarms.

Main function: :func:`progress_of`.  Reads the record only, so that every face tells the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from understudy.core.deployments import ROLLING, DeploymentPlan, plan_of, production
from understudy.core.endpoints import Endpoint, Fleet, PendingUpdate
from understudy.core.rollout_terms import BAKING, FORWARD, WAITING, AlarmView


def progress_of(endpoint: Endpoint, alarms: Iterable[AlarmView], now_s: float) -> dict[str, Any]:
    """Tell what an endpoint serves and, while it is changed, how far that is.

    Args:
        alarms: Those of the update under way.
        now_s: By the clock of the record's times.

    Returns:
        JSON-able; ``rollout`` is None in the steady state.  ``share_percent`` is the new fleet's part of all
        requests; ``ends_at_s`` and ``left_s`` are those of the bake or the termination wait under way, None
        where nothing but instances or routers is waited for.
    """
    update = endpoint.update
    return {
        "endpoint": endpoint.name,
        "status": str(endpoint.status),
        "config": endpoint.config_name,
        "failure_reason": endpoint.failure_reason,
        "at_s": now_s,
        "rollout": None if update is None else _rollout(endpoint, update, alarms, now_s),
    }


def _rollout(
    endpoint: Endpoint, update: PendingUpdate, alarms: Iterable[AlarmView], now_s: float
) -> dict[str, Any]:
    plan = plan_of(update.deployment_config)
    wait_s = {BAKING: plan.wait_s, WAITING: plan.termination_s}.get(update.phase)
    ends_at_s = None if wait_s is None else update.phase_at_s + wait_s
    limit_s = None
    if plan.timeout_s is not None and update.started_at_s is not None and update.phase in FORWARD:
        limit_s = update.started_at_s + plan.timeout_s
    share = update.share
    if update.fleet is None:  # one fleet has everything again, or from the beginning
        share = 1.0 if update.kind == "update" and update.rollback_reason is None else 0.0
    steps = _steps(plan, update, endpoint)
    return {
        "kind": update.kind,
        "type": plan.kind,
        "phase": update.phase,
        "phase_at_s": update.phase_at_s,
        "from": _config(endpoint, update),
        "to": update.fleet.config_name if update.fleet is not None else endpoint.config_name,
        "step": update.step,
        "steps_percent": [round(one * 100.0, 6) for one in steps],
        "share_percent": round(share * 100.0, 6),
        "ends_at_s": ends_at_s,
        "left_s": None if ends_at_s is None else max(0.0, ends_at_s - now_s),
        "times_out_at_s": limit_s,
        "can_roll_back": update.kind == "update" and update.fleet is not None and update.phase in FORWARD,
        "rollback_reason": update.rollback_reason or update.stop_reason,
        "old_instances": _counts(endpoint.fleet),
        "new_instances": _counts(update.fleet),
        "alarms": [
            {"name": one.name, "state": None if one.state is None else str(one.state), "reason": one.reason}
            for one in alarms
        ],
    }


def _config(endpoint: Endpoint, update: PendingUpdate) -> str | None:
    if update.kind == "create":
        return None
    if update.fleet is None and endpoint.retiring:
        return endpoint.retiring[-1].config_name
    return endpoint.config_name


def _steps(plan: DeploymentPlan, update: PendingUpdate, endpoint: Endpoint) -> list[float]:
    """The shares that the new fleet gets, one after the other."""
    if update.kind != "update":
        return []
    fleet = update.fleet or endpoint.fleet
    assert fleet is not None  # an update has a fleet to bring up, or has made it the endpoint's
    if plan.kind != ROLLING or plan.size is None:
        return list(plan.shares(fleet))
    size = production(fleet)[0].desired_count
    batch = plan.size.instances_of(size)
    return [min(size, count) / size for count in range(batch, size + batch, batch)]


def _counts(fleet: Fleet | None) -> dict[str, int]:
    """By variant: how many instances take requests."""
    return {} if fleet is None else {variant.name: variant.current_count for variant in fleet.variants}
