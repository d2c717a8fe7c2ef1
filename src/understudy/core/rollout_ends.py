"""How an operation on an endpoint ends: in service, rolled back, or failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from understudy.core.endpoints import Endpoint, EndpointStatus
from understudy.core.rollout_routes import in_force
from understudy.core.rollout_terms import DRAINING, RolloutSnapshot, SaveEndpoint


def in_service(snapshot: RolloutSnapshot, event: str) -> SaveEndpoint:
    """The operation is done; a rollback keeps its reason for people to read."""
    endpoint, update = snapshot.endpoint, snapshot.endpoint.update
    assert endpoint.fleet is not None
    reason = update.rollback_reason if update is not None else None
    after = replace(
        endpoint,
        status=EndpointStatus.IN_SERVICE,
        config_name=endpoint.fleet.config_name,
        fleet=in_force(endpoint.fleet, snapshot),
        retiring=() if update is not None and update.phase == DRAINING else endpoint.retiring,
        update=None,
        failure_reason=reason,
        modified_at_s=snapshot.now_s,
    )
    detail: dict[str, Any] = {"config": after.config_name}
    if reason is not None:
        detail["reason"] = reason
    return SaveEndpoint(restored(after), event, detail)


def kept_old(snapshot: RolloutSnapshot, reason: str, event: str, detail: dict[str, Any]) -> SaveEndpoint:
    """An operation that ends before it has touched routing: what served, serves on."""
    endpoint, update = snapshot.endpoint, snapshot.endpoint.update
    retiring = endpoint.retiring
    if update is not None and update.fleet is not None:
        retiring = (*retiring, update.fleet)
    kept = replace(
        endpoint,
        status=EndpointStatus.IN_SERVICE,
        retiring=retiring,
        update=None,
        failure_reason=reason,
        modified_at_s=snapshot.now_s,
    )
    return SaveEndpoint(restored(kept), event, {"reason": reason, **detail})


def restored(endpoint: Endpoint) -> Endpoint:
    """An endpoint that still serves a mix of two configurations is not InService again."""
    if endpoint.mix is None:
        return endpoint
    return replace(endpoint, status=EndpointStatus.UPDATE_ROLLBACK_FAILED)
