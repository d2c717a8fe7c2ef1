"""What an endpoint's record means for instances and routers.

Owns :func:`wanted_slots` (which instances should exist), :func:`incoming_slots` (which of them have never
served) and :func:`route_of` (who gets requests).  Pure: the same record gives the same answer, so that a new
controller means what the one before meant.

While an update is under way both fleets are routed: the old one (blue) is the route's own, the new one
(green) is its :class:`~understudy.core.routing.GreenRoute`.  Shadows and capture are those of the old fleet
until green answers every request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from understudy.core.assignment import logged_requests
from understudy.core.deployments import production
from understudy.core.endpoints import Endpoint, Fleet, FleetVariant
from understudy.core.ports import InstanceStatus
from understudy.core.rollout_terms import (
    DRAINING,
    PREPARING,
    InstanceView,
    RolloutSnapshot,
    Slot,
)
from understudy.core.routing import (
    EndpointRoute,
    GreenRoute,
    InstanceRoute,
    ShadowRoute,
    VariantRoute,
    shadow_share,
)

MODEL_TIMEOUT_S = 60.0  # AWS: a container must answer within 60 s

Ready = Mapping[tuple[str, str], list[InstanceView]]


def wanted_slots(endpoint: Endpoint) -> dict[Slot, FleetVariant]:
    """Name the slots that should hold an instance, and what each should run."""
    update = endpoint.update
    if update is not None and update.kind == "delete":
        return {}
    slots: dict[Slot, FleetVariant] = {}
    if endpoint.fleet is not None:
        # A shrinking variant keeps its surplus until routers have let go of it.
        shrinking = update is not None and update.kind == "weights" and update.phase == PREPARING
        most = update.blue_count if update is not None and update.phase != DRAINING else None
        slots.update(_slots_of(endpoint.fleet, keep_current=shrinking, most=most))
    if endpoint.mix is not None:
        slots.update(_slots_of(endpoint.mix.fleet))
    if update is not None and update.fleet is not None:
        slots.update(_slots_of(update.fleet, most=update.green_count))
    return slots


def _slots_of(
    fleet: Fleet, *, keep_current: bool = False, most: int | None = None
) -> dict[Slot, FleetVariant]:
    """Name a fleet's slots; ``most`` limits those of its production variants."""
    slots = {}
    for variant in fleet.variants:
        count = variant.desired_count
        if keep_current:
            count = max(count, variant.current_count)
        if most is not None and not variant.shadow:
            count = min(count, most)
        for number in range(count):
            slots[Slot(fleet.fleet_id, variant.name, number)] = variant
    return slots


def incoming_slots(endpoint: Endpoint) -> set[Slot]:
    """Slots whose failure ends the operation instead of being retried: they have never served."""
    update = endpoint.update
    if update is None or update.phase != PREPARING:
        return set()
    if update.fleet is not None:
        return {
            slot
            for slot, variant in _slots_of(update.fleet, most=update.green_count).items()
            if slot.number >= variant.current_count
        }
    if update.kind == "weights" and endpoint.fleet is not None:
        slots = _slots_of(endpoint.fleet).items()
        return {slot for slot, variant in slots if slot.number >= variant.current_count}
    return set()


def ready_slots(snapshot: RolloutSnapshot) -> set[Slot]:
    """Slots whose instance can answer."""
    return {one.slot for one in snapshot.instances if one.status is InstanceStatus.READY and not one.stopping}


def in_force(fleet: Fleet, snapshot: RolloutSnapshot, *, most: int | None = None) -> Fleet:
    """The fleet with its desired weights and counts made current, and the images that really run.

    Args:
        most: Limits the current count of production variants.
    """
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
                current_count=variant.desired_count
                if most is None or variant.shadow
                else min(variant.desired_count, most),
                images=images.get(variant.name, variant.images),
            )
            for variant in fleet.variants
        ),
    )


def with_current_count(fleet: Fleet, count: int) -> Fleet:
    """The fleet with so many instances of its production variants routed."""
    return replace(
        fleet,
        variants=tuple(
            variant if variant.shadow else replace(variant, current_count=count) for variant in fleet.variants
        ),
    )


# --- routes ----------------------------------------------------------------------------------------


def route_of(endpoint: Endpoint, instances: Iterable[InstanceView]) -> EndpointRoute | None:
    """Say what routers should do with requests for this endpoint; None: it is not there.

    Only instances that are ready and within the current count take requests.
    """
    fleet, update = endpoint.fleet, endpoint.update
    if fleet is None or (update is not None and update.kind == "delete"):
        return None
    ready: dict[tuple[str, str], list[InstanceView]] = {}
    for instance in instances:
        if instance.status is InstanceStatus.READY and not instance.stopping:
            ready.setdefault((instance.slot.fleet_id, instance.slot.variant_name), []).append(instance)
    green: GreenRoute | None = None
    leading = fleet
    if endpoint.mix is not None:
        green = GreenRoute(endpoint.mix.share, _production_routes(endpoint.mix.fleet, ready))
    if update is not None and update.fleet is not None and update.share > 0.0:
        green = GreenRoute(update.share, _production_routes(update.fleet, ready))
        if update.share >= 1.0:
            leading = update.fleet
    return EndpointRoute(
        name=endpoint.name,
        variants=_production_routes(fleet, ready),
        shadows=_shadow_routes(leading, ready),
        capture=leading.capture,
        noise_share=leading.noise_percent / 100.0,
        green=green,
        sticky=endpoint.extensions.get("sticky", ""),
        assignments=logged_requests(endpoint.extensions),
    )


def _production_routes(fleet: Fleet, ready: Ready) -> tuple[VariantRoute, ...]:
    return tuple(
        VariantRoute(
            name=variant.name,
            weight=variant.current_weight,
            config_name=fleet.config_name,
            instances=_instance_routes(fleet, variant, ready),
            timeout_s=MODEL_TIMEOUT_S,
            containers=_hostnames(variant),
            wanted=variant.desired_count,
            fleet_id=fleet.fleet_id,
        )
        for variant in production(fleet)
    )


def _shadow_routes(fleet: Fleet, ready: Ready) -> tuple[ShadowRoute, ...]:
    weight = sum(variant.current_weight for variant in production(fleet))
    return tuple(
        ShadowRoute(
            name=variant.name,
            share=shadow_share(variant.current_weight, weight),
            config_name=fleet.config_name,
            instances=_instance_routes(fleet, variant, ready),
            timeout_s=MODEL_TIMEOUT_S,
            containers=_hostnames(variant),
        )
        for variant in fleet.variants
        if variant.shadow
    )


def _instance_routes(fleet: Fleet, variant: FleetVariant, ready: Ready) -> tuple[InstanceRoute, ...]:
    return tuple(
        InstanceRoute(instance.instance_id, instance.address)
        for instance in sorted(ready.get((fleet.fleet_id, variant.name), []), key=lambda i: i.slot.number)
        if instance.slot.number < variant.current_count
    )


def _hostnames(variant: FleetVariant) -> tuple[str, ...]:
    return tuple(container.hostname for container in variant.containers)
